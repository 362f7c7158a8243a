"""Features of a data set: one pass for all layers, pooled to a bounded size, in halves of floats, shard by shard."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attribkit.errors import BadValue
from attribkit.files import npz
from attribkit.studies.data import PictureSet
from attribkit.studies.folder import RunFolder
from attribkit.studies.reading import Read, batches
from attribkit.studies.survey import by_shard, device_of, missing, readable
from attribkit.studies.truncated import Truncated

Array = npt.NDArray[Any]
HALF = 32_768.0
"""Up to this a layer's features are kept as they are; larger ones are divided by a power of two first."""


def grid_of(channels: int, sides: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Into how many rows and columns a map, or groups tokens, are averaged to come to at most so many numbers."""

    def cells(n: int) -> tuple[int, ...]:
        return tuple(min(n, side) for side in sides)

    return next(
        (cells(n) for n in range(max(sides, default=1), 1, -1) if channels * math.prod(cells(n)) <= most), cells(1)
    )


@dataclass(frozen=True, eq=False)
class Featuring:
    """What the pass does to a shard.

    Attributes:
        model: The network, on the device that works.
        pictures: The data.
        layers: Paths.
        grids: Of each layer, into how many rows and columns its maps are averaged, or its tokens into how many groups.
    """

    model: nn.Module
    pictures: PictureSet
    layers: tuple[str, ...]
    grids: tuple[tuple[int, ...], ...]

    def missing(self, folder: RunFolder) -> list[int]:
        """Numbers of the shards whose files are not there yet."""
        return missing(self.pictures, folder)

    def done(self, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """The files of shards by their numbers, one after the other; the next is read while one is computed."""
        net = Truncated(self.model, self.layers)
        for number, inputs in by_shard(self.pictures, numbers):
            yield number, self._shard(net, inputs)

    def _shard(self, net: Truncated, inputs: Iterable[tuple[int, Read]]) -> bytes:
        unreadable: list[tuple[int, str]] = []
        numbers: list[int] = []
        found: list[list[Array]] = []
        device = device_of(self.model)
        with torch.inference_mode():
            for some, images in batches(readable(inputs, unreadable), device):
                numbers += some
                layers = net(images.to(device))
                found.append([pooled(units, grid) for units, grid in zip(layers, self.grids, strict=True)])
        order = np.argsort(numbers)
        arrays = {"numbers": np.array(numbers, np.int64)[order], "unreadable": np.array(json.dumps(unreadable))}
        for index, layer in enumerate(self.layers if found else ()):
            whole = np.concatenate([each[index] for each in found])[order]
            arrays[f"{index}.scale"], arrays[f"{index}.half"] = halved(whole, layer)
        return npz(**arrays)


def pooled(units: Tensor, grid: tuple[int, ...]) -> Array:
    """Of a batch: images x features."""
    means = units
    if len(grid) == 1:
        means = F.adaptive_avg_pool1d(units, grid[0])
    elif len(grid) == 2:
        means = F.adaptive_avg_pool2d(units, (grid[0], grid[1]))
    return means.flatten(1).cpu().numpy()


def halved(values: Array, layer: str) -> tuple[Array, Array]:
    """A power of two, and the values over it as floats of 16 bits."""
    if not np.isfinite(values).all():
        raise BadValue(f"the layer {layer!r} gives NaN or infinity: it has no features to classify by")
    largest = float(np.abs(values).max(initial=0))
    scale = 2.0 ** max(0, math.ceil(math.log2(largest / HALF))) if largest > HALF else 1.0
    return np.array(scale), (values / scale).astype(np.float16)


def numbers_of(folder: RunFolder, count: int) -> tuple[Array, tuple[tuple[int, str], ...]]:
    """The images that could be read, and why the others could not."""
    numbers, unreadable = [np.zeros(0, np.int64)], []
    for shard in range(count):
        with np.load(folder.file("shards", shard), allow_pickle=False) as archive:
            numbers.append(archive["numbers"])
            unreadable += [(int(number), why) for number, why in json.loads(str(archive["unreadable"]))]
    return np.concatenate(numbers), tuple(unreadable)


def features_of(folder: RunFolder, count: int, layer: int) -> Array:
    """Of one layer, by its number, all images that could be read x features."""
    found = []
    for shard in range(count):
        with np.load(folder.file("shards", shard), allow_pickle=False) as archive:
            if f"{layer}.half" in archive:
                found.append(archive[f"{layer}.half"].astype(np.float32) * np.float32(archive[f"{layer}.scale"]))
    return np.concatenate(found)
