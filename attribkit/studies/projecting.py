"""Winners projected down to what they see: many at once, through an `Explainer`, each with its part of the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attribkit.errors import BadValue
from attribkit.explaining.explainer import Explainer
from attribkit.explaining.targets import Given
from attribkit.studies.data import PictureSet
from attribkit.studies.reading import read_ahead
from attribkit.studies.survey import device_of
from attribkit.units import Unit

VALUES = 8_000_000
"""How many numbers the images of one batch have, at the most; their maps have as many again."""

Array = npt.NDArray[Any]
Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Place:
    """A channel on an image, at its strongest position there; None in a layer without positions."""

    channel: int
    image: int
    value: float
    position: tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class Projection:
    """A unit projected down.

    Attributes:
        place: Which unit, on which image.
        box: What it sees: top, left, bottom, right.
        map: That part of the map: C x height x width.
        patch: That part of the picture: height x width x 3 bytes.
        picture: Height and width of the whole.
    """

    place: Place
    box: tuple[int, int, int, int]
    map: Array
    patch: Picture
    picture: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Projector:
    """Projects units of one layer.

    Attributes:
        explainer: For that layer, of one method.
        pictures: The data.
        shown: The picture that the network saw in an input.
    """

    explainer: Explainer[Any]
    pictures: PictureSet
    shown: Callable[[Tensor], Picture]

    def __call__(self, places: Sequence[Place]) -> list[Projection]:
        """A projection for each place, in their order."""
        found: dict[int, Projection] = {}
        for rows, inputs in self._batches(places):
            found |= zip(rows, self._projected([places[row] for row in rows], inputs), strict=True)
        return [found[row] for row in range(len(places))]

    def _batches(self, places: Sequence[Place]) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Places on images of one shape, image by image, so that each is read once."""
        rows_of: dict[int, list[int]] = {}
        for row, place in enumerate(places):
            rows_of.setdefault(place.image, []).append(row)
        waiting: dict[torch.Size, tuple[list[int], list[Tensor]]] = {}
        for number, x in read_ahead(self.pictures, sorted(rows_of)):
            if isinstance(x, str):
                raise BadValue(f"{self.pictures.names[number]} could be read before and cannot be read now: {x}")
            for row in rows_of[number]:
                rows, inputs = waiting.setdefault(x.shape, ([], []))
                rows.append(row)
                inputs.append(x)
                if len(rows) >= max(1, VALUES // x.numel()):
                    yield waiting.pop(x.shape)
        yield from waiting.values()

    def _projected(self, places: Sequence[Place], inputs: Sequence[Tensor]) -> Iterator[Projection]:
        layer = self.explainer.layer
        images = torch.stack(list(inputs)).to(device_of(self.explainer.model))
        units = [Unit(row, layer, place.channel, place.position, place.value) for row, place in enumerate(places)]
        explained = self.explainer.explained(images, Given(units))
        pictures = {id(x): self.shown(x) for x in inputs}
        maps = explained.maps[0].detach().float().cpu()
        for row, (place, x) in enumerate(zip(places, inputs, strict=True)):
            height, width = x.shape[1:]
            top, left, bottom, right = explained.units[row].box or (0, 0, height, width)
            part = np.s_[top:bottom, left:right]
            values = maps[row][:, part[0], part[1]].numpy().copy()
            yield Projection(place, (top, left, bottom, right), values, pictures[id(x)][part], (height, width))


def plainly(x: Tensor) -> Picture:
    """An input of a model that comes without preprocessing, as a picture: from its least value to its largest."""
    values = x.detach().cpu().float()
    low, high = float(values.min()), float(values.max())
    grey = ((values - low) / ((high - low) or 1.0) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return grey.numpy() if grey.shape[2] == 3 else np.repeat(grey.numpy()[..., :1], 3, 2)
