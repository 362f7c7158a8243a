"""Parts of images that units see: which go up through the network together, and which units share a way up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from attribkit.explaining.windows import Crop
from attribkit.units import Unit

OWN_PASS = 10_000
"""So many pixels more is what a pass through a network takes, however little goes through it."""

Columns = list[tuple[int, ...]]
"""Numbers of units: the first of each part, which go down together, then the second of each, and so on."""


def together(crops: Sequence[Crop], units: Sequence[Unit], ways: int, pixels: int) -> Iterator[Columns]:
    """Passes, each with parts of one shape and so many pixels at the most.

    Units of one part share a way up where the part is so large that this spares more than it takes to go down one by
    one. `ways` are the rules by which each goes down.
    """
    alike: dict[tuple[tuple[int, ...], int], list[list[int]]] = {}
    for shape, groups in _groups(crops, units).items():
        for group in groups if math.prod(shape) > OWN_PASS * ways else _each(groups):
            alike.setdefault((shape, len(group)), []).append(group)
    for (shape, _), groups in alike.items():
        size = max(1, pixels // math.prod(shape))
        yield from (list(zip(*groups[i : i + size], strict=True)) for i in range(0, len(groups), size))


def cost(passes: Iterable[Columns], crops: Sequence[Crop], ways: int) -> float:
    """What passes take: pixels that go up once, and down for each column and rule."""
    return sum(
        len(columns[0]) * math.prod(crops[columns[0][0]].shape) * (1 + ways * len(columns))
        + OWN_PASS * ways * len(columns)
        for columns in passes
    )


def _groups(crops: Sequence[Crop], units: Sequence[Unit]) -> dict[tuple[int, ...], list[list[int]]]:
    """For each shape the numbers of units, those of one part of one image together."""
    found: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
    for number, (crop, unit) in enumerate(zip(crops, units, strict=True)):
        place = (unit.image, *(span.start for span in crop.pixels[1:]))
        found.setdefault(crop.shape, {}).setdefault(place, []).append(number)
    return {shape: list(places.values()) for shape, places in found.items()}


def _each(groups: list[list[int]]) -> list[list[int]]:
    """A group of its own for each, in the order of the units."""
    return [[number] for number in sorted(number for group in groups for number in group)]
