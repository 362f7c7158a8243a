"""A network without some of its layers, or with fewer channels in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attribkit.engine.shadow import shadow
from attribkit.errors import NotSupported
from attribkit.explaining.calls import check_layer
from attribkit.explaining.watching import inside, watched


class CannotAlter(NotSupported):
    """A layer that cannot be left out, or cannot be cut."""


def altered(model: nn.Module, x: Tensor, remove: Sequence[str], keep: Mapping[str, int]) -> nn.Module:
    """A copy of a model's structure, with its own weights, in which some layers pass on what they get.

    Args:
        model: It stays as it is.
        x: One input of it, as a batch.
        remove: Paths of layers that are replaced by the identity.
        keep: For each path, how many channels stay: those whose weights have the largest norm. The others give zero.

    Raises:
        CannotAlter: A layer changes the shape, is not called, or has no channels with weights of their own.
    """
    net = shadow(model)
    for layer in (*remove, *keep):
        check_layer(net, layer)
    if remove:
        _check_shapes(net, x, remove)
    for layer in remove:
        net.get_submodule(layer).forward = _passed_on
    for layer, count in keep.items():
        module = net.get_submodule(layer)
        module.register_forward_hook(_Cut(_weakest(module, layer, count)))
    return net


def _passed_on(x: Any, *args: Any, **named: Any) -> Any:
    return x


class _Cut:
    """A hook that sets channels to zero."""

    def __init__(self, channels: Tensor) -> None:
        self.channels = channels

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.index_fill(1, self.channels.to(output.device), 0)


def _weakest(module: nn.Module, layer: str, count: int) -> Tensor:
    """The channels that do not stay."""
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
        raise CannotAlter(
            f"{layer!r} is a {type(module).__name__}: channels are cut in a convolution or a linear layer"
        )
    channels = len(module.weight)
    if not 1 <= count <= channels:
        raise CannotAlter(f"{layer!r} has {channels} channels: keep 1 to {channels}, not {count}")
    norms = module.weight.detach().flatten(1).norm(dim=1)
    return norms.argsort(descending=True, stable=True)[count:]


def _check_shapes(net: nn.Module, x: Tensor, layers: Sequence[str]) -> None:
    """Raise where a layer gives another shape than it gets, at any of its calls."""
    seen: dict[str, list[tuple[Any, Any]]] = {}

    def note(name: str, inputs: Any, output: Any) -> None:
        shapes = tuple(tuple(t.shape) if isinstance(t, Tensor) else None for t in (inputs[0], output))
        seen.setdefault(name, []).append((shapes[0], shapes[1]))

    with watched(inside(net), note), torch.inference_mode():
        net(x.clone())
    fit = [name for name, calls in seen.items() if all(a == b and a is not None for a, b in calls)]
    for layer in layers:
        if layer not in seen:
            raise CannotAlter(f"the layer {layer!r} is not called, so nothing changes without it: name another")
        if layer not in fit:
            given, made = next((a, b) for a, b in seen[layer] if a != b or a is None)
            others = [name for name in fit if type(net.get_submodule(name)) is type(net.get_submodule(layer))] or fit
            raise CannotAlter(
                f"{layer!r} cannot be left out: it gets {_by(given)} and gives {_by(made)}. "
                f"These can: {', '.join(others[:8]) or 'none'}"
            )


def _by(shape: tuple[int, ...] | None) -> str:
    return "no tensor" if shape is None else "x".join(map(str, shape[1:]))
