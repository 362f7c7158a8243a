"""Winners looked at again, one by one: their values then hang on no batch, and show whether all is as it was."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from attribkit.errors import BadValue
from attribkit.files import npz
from attribkit.studies.data import PictureSet
from attribkit.studies.folder import RunFolder
from attribkit.studies.reading import read_ahead
from attribkit.studies.scores import Score, scored
from attribkit.studies.survey import device_of, shards
from attribkit.studies.truncated import Truncated
from attribkit.studies.winners import NOBODY, Winners

Array = npt.NDArray[Any]
Watch = Callable[[Sequence[Any], str], Iterable[Any]]
"""Goes through things and shows how far it is; the second argument says what they are."""

ROUNDING = {None: 1e-4, "bfloat16": 0.02}
"""By how much a score in a batch may differ from that of the image alone, as a share of the layer's largest score."""


def bound(winners: Winners, precision: str | None) -> float:
    """By how much scores of a layer may differ between a batch and an image alone."""
    largest = float(np.abs(winners.value).max(initial=0.0))
    return ROUNDING[precision] * largest


def candidates(winners: Winners, top: int, tolerance: float) -> Array:
    """Which of the winners may be among the `top` when they are looked at alone: channels x K.

    If no score moves by more than the tolerance, the top ones of all images are among these.
    """
    if len(winners) <= top:
        return np.ones(winners.image.shape, bool)
    return np.asarray(winners.value >= winners.value[:, top - 1 : top] - 2 * tolerance)


@dataclass(frozen=True, eq=False)
class Rescored:
    """Images of a shard looked at alone: scores and positions of all channels of each layer.

    Attributes:
        images: Their numbers, in order.
        values: One per layer: images x channels.
        positions: One per layer: images x channels x 2.
    """

    images: Array
    values: tuple[Array, ...]
    positions: tuple[Array, ...]

    def encoded(self) -> bytes:
        arrays = {f"value.{number}": array for number, array in enumerate(self.values)}
        arrays |= {f"position.{number}": array for number, array in enumerate(self.positions)}
        return npz(images=self.images, **arrays)

    @classmethod
    def decoded(cls, data: bytes) -> Rescored:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            layers = (len(archive.files) - 1) // 2
            values = tuple(archive[f"value.{number}"] for number in range(layers))
            return cls(archive["images"], values, tuple(archive[f"position.{number}"] for number in range(layers)))

    def joined(self, other: Rescored) -> Rescored:
        """Images of both, in order."""
        images = np.concatenate([self.images, other.images])
        order = np.argsort(images, kind="stable")
        pairs = [zip(self.values, other.values, strict=True), zip(self.positions, other.positions, strict=True)]
        values, positions = (tuple(np.concatenate(pair)[order] for pair in each) for each in pairs)
        return Rescored(images[order], values, positions)


@dataclass(frozen=True, eq=False)
class Rescoring:
    """Looks at images one by one, in float32, and keeps what it saw in the folder, by shards.

    Attributes:
        model: The network.
        pictures: The data.
        layers: Paths.
        score: As in the first pass.
        folder: Where files are kept.
    """

    model: nn.Module
    pictures: PictureSet
    layers: tuple[str, ...]
    score: Score
    folder: RunFolder

    def of(self, images: Array, watch: Watch) -> Rescored:
        """These images (in order, each once), from files where they are there."""
        size = len(shards(len(self.pictures))[0])
        numbers = np.unique(images // size).tolist()
        net = Truncated(self.model, self.layers)
        found = [self._of_shard(net, number, images[images // size == number]) for number in watch(numbers, "winners")]
        every = found[0]
        for part in found[1:]:
            every = every.joined(part)
        return every

    def _of_shard(self, net: Truncated, number: int, images: Array) -> Rescored:
        data = self.folder.read("rescored", number)
        known = None if data is None else Rescored.decoded(data)
        missing = images if known is None else np.setdiff1d(images, known.images)
        if len(missing):
            new = self._looked_at(net, missing)
            known = new if known is None else known.joined(new)
            self.folder.write("rescored", number, known.encoded())
        assert known is not None, "there is at least one image"
        rows = np.searchsorted(known.images, images)
        return Rescored(images, tuple(v[rows] for v in known.values), tuple(p[rows] for p in known.positions))

    def _looked_at(self, net: Truncated, images: Array) -> Rescored:
        rows = list(self._each(net, images))
        layers = range(len(self.layers))
        values = tuple(np.stack([row[layer][0] for row in rows]) for layer in layers)
        return Rescored(images, values, tuple(np.stack([row[layer][1] for row in rows]) for layer in layers))

    def _each(self, net: Truncated, images: Array) -> Iterator[list[tuple[Array, Array]]]:
        for number, x in read_ahead(self.pictures, images.tolist()):
            if isinstance(x, str):
                raise BadValue(f"{self.pictures.names[number]} could be read before and cannot be read now: {x}")
            with torch.inference_mode():
                seen = [scored(units, self.score) for units in net(x[None].to(device_of(self.model)))]
            yield [(each.values[0], each.position[0]) for each in seen]


def confirmed(
    winners: Winners, chosen: Array, rescored: Rescored, layer: int, top: int, tolerance: float, names: Sequence[str]
) -> Winners:
    """The `top` of each channel by their scores alone; an error where one is not what the first pass found."""
    rows = np.searchsorted(rescored.images, np.where(chosen, winners.image, rescored.images[0]))
    channels = np.arange(len(winners.image))[:, None]
    value = rescored.values[layer][rows, channels]
    apart = np.where(chosen, np.abs(value - winners.value), 0)
    if apart.max(initial=0.0) > tolerance:
        channel, place = np.unravel_index(apart.argmax(), apart.shape)
        raise BadValue(
            f"{names[winners.image[channel, place]]} gives channel {channel} {value[channel, place]:.6g} where the "
            f"first pass found {winners.value[channel, place]:.6g}: the data or the model has changed; start it again "
            "with force"
        )
    return Winners(
        np.where(chosen, winners.image, NOBODY),
        np.where(chosen, value, -np.inf).astype(np.float32),
        np.where(chosen[..., None], rescored.positions[layer][rows, channels], NOBODY),
    ).best(top)
