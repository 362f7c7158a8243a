"""Winners projected down to what they see: many at once, through an `Explainer`, each with its part of the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attribkit.engine.shadow import unwrapped
from attribkit.errors import BadValue
from attribkit.explaining.explainer import Explainer
from attribkit.explaining.fields import receptive_field
from attribkit.explaining.targets import Given
from attribkit.studies.data import PictureSet
from attribkit.studies.reading import Read, read_ahead
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

    def as_data(self, names: Sequence[str]) -> dict[str, Any]:
        """For a document, with its image's name."""
        return {"image": names[self.image], "value": self.value, "position": self.position}


@dataclass(frozen=True, eq=False)
class Projection:
    """A unit projected down.

    Attributes:
        place: Which unit, on which image.
        box: What it sees: top, left, bottom, right.
        map: That part of the map: C x height x width; empty where none was made.
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
        shapes: Of the inputs that may be asked for, by their numbers.
    """

    explainer: Explainer[Any]
    pictures: PictureSet
    shown: Callable[[Tensor], Picture]
    shapes: Mapping[int, tuple[int, ...]]

    def __call__(self, places: Sequence[Place]) -> list[Projection]:
        """A projection for each place, in their order."""
        found: dict[int, Projection] = {}
        for rows, inputs in self._batches(places):
            found |= zip(rows, self._projected([places[row] for row in rows], inputs), strict=True)
        return [found[row] for row in range(len(places))]

    def patches(self, places: Sequence[Place]) -> list[Projection]:
        """What each place sees of its picture, without a map."""
        rows_of, boxes = _rows_by_image(places), self.boxes(places)
        found: dict[int, Projection] = {}
        for number, x in read_ahead(self.pictures, sorted(rows_of)):
            picture = self.shown(_readable(x, self.pictures.names[number]))
            found |= {row: self._part(places[row], picture, boxes[row]) for row in rows_of[number]}
        return [found[row] for row in range(len(places))]

    def boxes(self, places: Sequence[Place]) -> list[tuple[int, ...]]:
        """What each place sees; no image is read for that."""
        model = self.explainer.model
        shapes = {self.shapes[place.image] for place in places}
        inputs = {shape: torch.zeros(1, *shape, device=device_of(model)) for shape in shapes}
        fields = {shape: receptive_field(unwrapped(model), self.explainer.layer, x) for shape, x in inputs.items()}
        return [fields[self.shapes[place.image]].box(place.position) for place in places]

    def _part(self, place: Place, picture: Picture, box: tuple[int, ...], whole: Array | None = None) -> Projection:
        top, left, bottom, right = box
        height, width = picture.shape[:2]
        values = np.zeros((0, 0, 0), np.float32) if whole is None else whole[:, top:bottom, left:right].copy()
        return Projection(place, (top, left, bottom, right), values, picture[top:bottom, left:right], (height, width))

    def _batches(self, places: Sequence[Place]) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Places on images of one shape, image by image, so that each is read once."""
        rows_of = _rows_by_image(places)
        waiting: dict[torch.Size, tuple[list[int], list[Tensor]]] = {}
        for number, found in read_ahead(self.pictures, sorted(rows_of)):
            x = _readable(found, self.pictures.names[number])
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
            box = explained.units[row].box or (0, 0, *x.shape[1:])
            yield self._part(place, pictures[id(x)], box, maps[row].numpy())


def _rows_by_image(places: Sequence[Place]) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row, place in enumerate(places):
        rows.setdefault(place.image, []).append(row)
    return rows


def _readable(x: Read, name: str) -> Tensor:
    """An input that was read before."""
    if isinstance(x, str):
        raise BadValue(f"{name} could be read before and cannot be read now: {x}")
    return x


def plainly(x: Tensor) -> Picture:
    """An input of a model that comes without preprocessing, as a picture: from its least value to its largest."""
    values = x.detach().cpu().float()
    low, high = float(values.min()), float(values.max())
    grey = ((values - low) / ((high - low) or 1.0) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return grey.numpy() if grey.shape[2] == 3 else np.repeat(grey.numpy()[..., :1], 3, 2)
