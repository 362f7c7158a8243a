"""Which call of a layer is asked about: `layer2.0.relu` is a module, and `layer2.0.relu:1` its second call."""

from __future__ import annotations

import difflib
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from attribkit.engine.lift import Lift
from attribkit.engine.rewriting import Rewritten
from attribkit.engine.switches import Switches
from attribkit.errors import AttribkitError, BadValue
from attribkit.explaining.failing import NetworkFails, tried

Address = tuple[str, int | None]
"""The path of a module, and the number of its call; None where that was not said."""


def address(model: nn.Module, layer: str) -> Address:
    """What `layer` names, by any of a module's names; an error with the nearest ones where there is none.

    Args:
        model: Whose layer it is.
        layer: The path of a module, or that with a colon and the number of its call, the first being 0.

    Raises:
        BadValue: The model has no module of this name.
    """
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    if layer in names:
        return layer, None
    path, _, call = layer.rpartition(":")
    if path in names and call.isdecimal():
        return path, int(call)
    near = difflib.get_close_matches(layer, names, n=3, cutoff=0.4) or names[-3:]
    raise BadValue(f"no layer {layer!r} in {type(model).__name__}; the nearest: {', '.join(near)}")


def check_layer(model: nn.Module, layer: str) -> None:
    """Raise unless `layer` is the path of a module, for those who look at a layer's first call only.

    Args:
        model: Whose layer it is.
        layer: The path of a module.

    Raises:
        BadValue: The model has no module of this name, or one of its calls is named.
    """
    if address(model, layer)[1] is not None:
        raise BadValue(f"{layer!r} names one call of a layer; here its first call is looked at: leave the number out")


def calls(net: Rewritten, path: str, images: Tensor) -> int:
    """How many times a forward pass calls a module, as far as it comes."""
    found = 0

    def count(*args: Any) -> None:
        nonlocal found
        found += 1

    module: nn.Module = net.model.get_submodule(path)  # type: ignore[union-attr]
    # One image is enough, but for switches, which belong to all of them.
    images = images if isinstance(net.plan.switches, Switches) else images[:1]
    with module.register_forward_hook(count), suppress(NetworkFails, AttribkitError), tried(), torch.no_grad():
        net.run(Lift(net.plan), (images.clone(),), {})
    return found
