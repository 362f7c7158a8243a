"""The layers of a model, by the paths that `explain(layer=...)` takes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn

from attribkit.engine.shadow import shadow, unwrapped
from attribkit.errors import BadValue
from attribkit.explaining.failing import NetworkFails, tried
from attribkit.explaining.probing import all_windows
from attribkit.explaining.watching import inside, watched
from attribkit.explaining.windows import Window

STEP = 128
"""How much larger the second image is that shows the strides: all strides up to it divide it."""


class UnknownLayer(BadValue, KeyError):
    """The model calls no module of this name."""

    __str__ = ValueError.__str__


@dataclass(frozen=True)
class Layer:
    """A module as its first call shows it.

    Attributes:
        name: Its path.
        kind: The name of its class.
        shape: The shape of its output without the batch, channels first; None where the output is not a tensor.
        stride: How far apart in the image two neighbouring units look, in each dimension; None where the map does not
            grow with the image.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    stride: tuple[int | None, ...] | None
    _look: Callable[[str], tuple[int | None, ...] | None] = field(repr=False, compare=False)

    @property
    def channels(self) -> int | None:
        """How many there are to choose from."""
        return self.shape[0] if self.shape else None

    @property
    def receptive_field(self) -> tuple[int | None, ...] | None:
        """How many pixels a unit sees, in each dimension; None: up to the edges. The first look probes all layers."""
        return self._look(self.name)


class Layers(Mapping[str, Layer]):
    """Every module that a forward pass calls, by its path, in the order in which the calls end."""

    def __init__(self, layers: Mapping[str, Layer], model: str) -> None:
        self._layers = layers
        self._model = model

    @classmethod
    def of(cls, model: nn.Module, images: Tensor) -> Layers:
        """Find the layers that a model calls.

        Args:
            model: The network.
            images: Images like those that it is made for; what they show does not matter.

        Returns:
            Its layers by their paths.
        """
        images = images.to(next(model.parameters(), images).device)
        shapes, larger = _shapes_twice(model, images)
        kinds = {name: type(module).__name__ for name, module in unwrapped(model).named_modules()}

        @cache
        def windows() -> dict[str, tuple[Window, ...]]:
            return all_windows(model, list(shapes), images)

        def look(name: str) -> tuple[int | None, ...] | None:
            sizes = [None if w.before is None or w.after is None else w.before + w.after for w in windows()[name]]
            return tuple(sizes) if any(sizes) else None

        return cls(
            {
                name: Layer(name, kinds[name], shape, _stride(images, shape, larger.get(name)), look)
                for name, shape in shapes.items()
            },
            type(model).__name__,
        )

    def __getitem__(self, name: str) -> Layer:
        if name not in self._layers:
            near = difflib.get_close_matches(name, self._layers, n=3, cutoff=0.4) or list(self._layers)[-3:]
            raise UnknownLayer(f"no layer {name!r} in {self._model}; the nearest: {', '.join(near)}")
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


Shape = tuple[int, ...]


def _shapes_twice(model: nn.Module, images: Tensor) -> tuple[dict[str, Shape | None], dict[str, Shape | None]]:
    """What each module gives for images of this size, and of a larger one."""
    abstract = shadow(model).to("meta")  # shapes without values, in no time
    try:
        with tried():
            return _shapes(abstract, images.to("meta")), _shapes(abstract, _enlarged(images).to("meta"))
    except NetworkFails:  # it may need values, or be made for one size: strides stay unknown
        return _shapes(shadow(model), images.clone()), {}


def _shapes(probe: nn.Module, images: Tensor) -> dict[str, Shape | None]:
    """What each module of a copy gives at its first call."""
    shapes: dict[str, Shape | None] = {}

    def note(name: str, inputs: object, output: object) -> None:
        shapes.setdefault(name, tuple(output.shape[1:]) if isinstance(output, Tensor) else None)

    with watched(inside(probe), note), torch.no_grad():
        probe(images)
    return shapes


def _enlarged(images: Tensor) -> Tensor:
    return images.new_zeros(*images.shape[:2], *(size + STEP for size in images.shape[2:]))


def _stride(images: Tensor, shape: Shape | None, larger: Shape | None) -> tuple[int | None, ...] | None:
    """By how many units the map has grown with the image."""
    if shape is None or larger is None or len(shape) != images.dim() - 1 or len(larger) != len(shape):
        return None
    grown = [big - small for big, small in zip(larger[1:], shape[1:], strict=True)]
    return tuple(round(STEP / more) if more > 0 else None for more in grown) if any(grown) else None
