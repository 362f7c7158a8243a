"""The first pass: every image through the network, shard by shard, each of which comes to one small file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attribkit.errors import BadType
from attribkit.explaining.targets import TOKEN_DIMS
from attribkit.files import npz
from attribkit.studies.data import PictureSet
from attribkit.studies.folder import RunFolder
from attribkit.studies.reading import Read, batches, read_ahead
from attribkit.studies.scores import Score, scored
from attribkit.studies.statistics import Counts
from attribkit.studies.truncated import Truncated
from attribkit.studies.winners import Winners

SHARD, MOST_SHARDS = 512, 1 << 16

Array = npt.NDArray[Any]


def shards(images: int) -> list[range]:
    """Numbers of images in a fixed order, cut into pieces that do not hang on who works on them."""
    size = max(SHARD, -(-images // MOST_SHARDS))
    return [range(start, min(start + size, images)) for start in range(0, images, size)]


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in one layer so far.

    Attributes:
        winners: The strongest images of every channel.
        counts: What was counted.
    """

    winners: Winners
    counts: Counts

    def merged(self, other: Found, keep: int) -> Found:
        return Found(self.winners.merged(other.winners, keep), self.counts.merged(other.counts))


@dataclass(frozen=True, eq=False)
class Shard:
    """What one shard came to.

    Attributes:
        found: One per layer; nothing where no image could be read.
        unreadable: Numbers of images, and why they could not be read.
        shapes: A row for each image that is a winner or in the sample: its number, channels, height, width.
    """

    found: tuple[Found, ...]
    unreadable: tuple[tuple[int, str], ...]
    shapes: Array

    def encoded(self) -> bytes:
        """As the bytes of its file."""
        arrays: dict[str, Array] = {"unreadable": np.array(json.dumps(self.unreadable)), "shapes": self.shapes}
        for number, found in enumerate(self.found):
            held = found.winners.arrays() | found.counts.arrays()
            arrays |= {f"{number}.{name}": array for name, array in held.items()}
        return npz(**arrays)

    @classmethod
    def decoded(cls, data: bytes) -> Shard:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = dict(archive)
        unreadable = tuple((number, why) for number, why in json.loads(str(arrays.pop("unreadable"))))
        shapes = arrays.pop("shapes")
        layers: dict[int, dict[str, Array]] = {}
        for name, array in arrays.items():
            number, _, held = name.partition(".")
            layers.setdefault(int(number), {})[held] = array
        found = (Found(Winners.from_arrays(held), Counts.from_arrays(held)) for _, held in sorted(layers.items()))
        return cls(tuple(found), unreadable, shapes)


@dataclass(frozen=True, eq=False)
class Survey:
    """What the first pass does to a shard. It goes to other machines as it is.

    Attributes:
        model: The network, on the device that works.
        pictures: The data.
        layers: Paths.
        score: How strongly a channel fires on an image.
        keep: How many winners are kept for each channel.
        precision: "bfloat16", or None for the model's own.
    """

    model: nn.Module
    pictures: PictureSet
    layers: tuple[str, ...]
    score: Score
    keep: int
    precision: str | None = None

    def missing(self, folder: RunFolder) -> list[int]:
        """Numbers of the shards whose files are not there yet."""
        return missing(self.pictures, folder)

    def done(self, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """The files of shards by their numbers, one after the other; the next is read while one is computed."""
        net = Truncated(self.model, self.layers, self.precision, quick=True)
        for number, inputs in by_shard(self.pictures, numbers):
            yield number, self._shard(net, inputs).encoded()

    def _shard(self, net: Truncated, inputs: Iterable[tuple[int, Read]]) -> Shard:
        unreadable: list[tuple[int, str]] = []
        found: list[Found] = []
        shapes: list[tuple[int, ...]] = []
        device = device_of(self.model)
        with torch.inference_mode():
            for numbers, images in batches(readable(inputs, unreadable), device):
                shapes += [(number, *images.shape[1:]) for number in numbers]
                layers = net(images.to(device))
                _check_no_tokens(self.layers, layers)
                of_batch = [self._found(np.array(numbers), units) for units in layers]
                found = found or [_nothing(units) for units in layers]
                found = [old.merged(new, self.keep) for old, new in zip(found, of_batch, strict=True)]
        return Shard(tuple(found), tuple(unreadable), _needed(np.array(shapes, np.int64).reshape(-1, 4), found))

    def _found(self, numbers: Array, units: Tensor) -> Found:
        seen = scored(units, self.score)
        counts = Counts.of(numbers, seen.values, seen.strongest, seen.position, len(self.pictures))
        return Found(Winners.of(numbers, seen.values, seen.position).best(self.keep), counts)


def missing(pictures: PictureSet, folder: RunFolder) -> list[int]:
    """Numbers of the shards whose files are not there yet."""
    every = range(len(shards(len(pictures))))
    return [number for number in every if not folder.file("shards", number).is_file()]


def by_shard(pictures: PictureSet, numbers: Sequence[int]) -> Iterator[tuple[int, Iterator[tuple[int, Read]]]]:
    """The inputs of these shards, one shard after the other; the next is read while one is computed."""
    every = shards(len(pictures))
    mine = [every[number] for number in numbers]
    inputs = read_ahead(pictures, chain.from_iterable(mine))
    for number, shard in zip(numbers, mine, strict=True):
        yield number, islice(inputs, len(shard))


def device_of(model: nn.Module) -> torch.device:
    """Where a model is."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _check_no_tokens(layers: Sequence[str], units: Sequence[Tensor]) -> None:
    for layer, each in zip(layers, units, strict=True):
        if each.dim() == TOKEN_DIMS:
            raise BadType(f"a gallery needs a layer of maps or of vectors; {layer!r} gives tokens")


def _nothing(units: Tensor) -> Found:
    channels = units.shape[1]
    return Found(Winners.none(channels), Counts.none(channels))


def readable(inputs: Iterable[tuple[int, Read]], unreadable: list[tuple[int, str]]) -> Iterator[tuple[int, Tensor]]:
    """Those that could be read; the others are noted."""
    for number, x in inputs:
        if isinstance(x, str):
            unreadable.append((number, x))
        else:
            yield number, x


def merged(files: Iterable[bytes], keep: int) -> Shard:
    """Shards in their order as one."""
    found: tuple[Found, ...] = ()
    unreadable: list[tuple[int, str]] = []
    shapes = np.zeros((0, 4), np.int64)
    for shard in map(Shard.decoded, files):
        unreadable += shard.unreadable
        if found and shard.found:
            found = tuple(old.merged(new, keep) for old, new in zip(found, shard.found, strict=True))
        found = found or shard.found
        shapes = _needed(np.concatenate([shapes, shard.shapes]), found)
    return Shard(found, tuple(unreadable), shapes)


def _needed(shapes: Array, found: Iterable[Found]) -> Array:
    """Those of images that somebody may ask for."""
    images = [image for each in found for image in (each.winners.image, each.counts.sample.image[:1])]
    return shapes[
        np.isin(shapes[:, 0], np.unique(np.concatenate([np.zeros(0, np.int64), *(image.ravel() for image in images)])))
    ]
