"""Layers to look at where nobody names any: those with weights, evenly spread over the depth of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attribkit.engine.shadow import shadow, unwrapped
from attribkit.errors import BadType, BadValue
from attribkit.explaining.calls import check_layer
from attribkit.explaining.given import unloaded
from attribkit.explaining.watching import inside, watched


def network_of(loaded: Any) -> nn.Module:
    """The network of what `attribkit.load` gives, or the network itself."""
    model = unloaded(loaded)[0]
    if not isinstance(model, nn.Module):
        raise BadType(
            f"this study is of an nn.Module or of what attribkit.load gives, not of a {type(loaded).__name__}"
        )
    return model


def chosen(model: nn.Module, layers: Sequence[str] | None, x: Tensor, most: int) -> tuple[str, ...]:
    """The layers that were named, each once; without any, at most so many, in the order in which they are called.

    Args:
        model: The network.
        layers: Paths, or None.
        x: One input of the network, as a batch.
        most: How many are taken where none was named.
    """
    if layers is not None:
        if isinstance(layers, str) or not layers:
            raise BadValue(f"layers={layers!r}: give a list of paths, with at least one")
        for layer in layers:
            check_layer(unwrapped(model), layer)
        return tuple(dict.fromkeys(layers))
    found = with_weights(model, x)
    if not found:
        raise BadValue(f"{type(model).__name__} calls no layer with weights that gives a map or a vector: name layers")
    every = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
    return tuple(found[number] for number in every)


def with_weights(model: nn.Module, x: Tensor) -> list[str]:
    """Convolutions and linear layers, by their first call, of which each gives maps, tokens or a vector per image."""
    net = shadow(model)
    called: dict[str, None] = {}

    def keep(name: str, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() in (2, 3, 4) and len(output) == len(x):
            called.setdefault(name)

    weighted = [(name, module) for name, module in inside(net) if _has_weights(module)]
    with watched(weighted, keep), torch.inference_mode():
        net(x.clone())
    return list(called)


def _has_weights(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() > 1
