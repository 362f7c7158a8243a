"""Models of several inputs: they go through as one tensor, and each gets its map."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attribkit.errors import BadType, BadValue
from attribkit.explaining.attribution import Attribution
from attribkit.explaining.given import unloaded

INNER = "model"
"""What the model is called within the one that unpacks its inputs."""


class Unpacking(nn.Module):
    """A model that takes its inputs out of one tensor, in which they lie behind each other."""

    def __init__(self, model: nn.Module, shapes: Sequence[torch.Size]) -> None:
        super().__init__()
        self.add_module(INNER, model)
        self.shapes = tuple(shapes)

    def forward(self, packed: Tensor) -> Any:
        return self.get_submodule(INNER)(*unpacked(packed, self.shapes))


def packed(inputs: Sequence[Tensor]) -> Tensor:
    """Inputs as one tensor, of as many dimensions as the first: so it shows which outputs are tokens."""
    values = torch.cat([each.flatten(1) for each in inputs], 1)
    return values.reshape(*values.shape, *(1 for _ in inputs[0].shape[2:]))


def unpacked(values: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """What `packed` has put together."""
    parts = values.flatten(1).split([math.prod(shape[1:]) for shape in shapes], 1)
    return [part.reshape(-1, *shape[1:]) for part, shape in zip(parts, shapes, strict=True)]


def explain_each(
    explain: Callable[..., Any], model: Any, inputs: Sequence[Tensor], layer: str | None, options: dict[str, Any]
) -> tuple[Any, ...]:
    """The maps of each input, from one forward and one backward pass for all."""
    network, output, _ = unloaded(model)
    _check(network, inputs)
    shapes = [each.shape for each in inputs]
    inside = Unpacking(network, shapes)
    options = options | {
        "layer": layer and f"{INNER}.{layer}",
        "output": options["output"] or (None if layer else output),
    }
    found = explain(inside, packed(inputs), **options)
    if isinstance(found, Attribution):
        return _of_each(found, network, shapes)
    by_method = {name: _of_each(result, network, shapes) for name, result in found.items()}
    return tuple({name: each[i] for name, each in by_method.items()} for i in range(len(inputs)))


def _of_each(result: Attribution, network: nn.Module, shapes: Sequence[torch.Size]) -> tuple[Attribution, ...]:
    """A result for each input, under the model's own names."""
    own = replace(
        result,
        model=type(network).__name__,
        units=tuple(replace(unit, layer=_own(unit.layer), box=None) for unit in result.units),
        sites=tuple(replace(site, name=_own(site.name) or "") for site in result.sites),
    )
    return tuple(replace(own, values=values) for values in unpacked(result.values, shapes))


def _own(name: str | None) -> str | None:
    return None if name is None else name.removeprefix(f"{INNER}.").removeprefix(INNER)


def _check(network: Any, inputs: Sequence[Tensor]) -> None:
    if not isinstance(network, nn.Module):
        raise BadType(f"several inputs need an nn.Module, not a {type(network).__name__}")
    kinds = {each.dtype if isinstance(each, Tensor) else type(each) for each in inputs}
    if not inputs or not all(
        isinstance(each, Tensor) and each.is_floating_point() and each.dim() > 1 for each in inputs
    ):
        raise BadType("each of several inputs must be a batch of floats; bind others in a function of your own")
    if len(kinds) > 1 or len({len(each) for each in inputs}) > 1:
        raise BadValue("several inputs are batches of one size and one type: convert or expand them")
