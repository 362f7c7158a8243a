"""Where tensors of a batch differ from one that all of them share: a window per item, of one size for all.

Along one dimension, item i differs at most from `starts[i]` to `starts[i] + length`. Windows lie inside the tensor:
where one would overhang it is moved inwards, and what it then has of the shared values are those.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spans:
    """Windows along one dimension of `size`."""

    starts: tuple[int, ...]
    length: int
    size: int

    @classmethod
    def around(cls, spans: Iterable[tuple[int, int]], size: int) -> Spans:
        """The shortest windows of one length that hold these, each from a start to an end."""
        inside = [(max(0, start), min(size, end)) for start, end in spans]
        length = max(1, *(end - start for start, end in inside))
        return cls(tuple(max(0, min(start, size - length)) for start, _ in inside), length, size)

    def joined(self, other: Spans) -> Spans:
        """Windows that hold those of both."""
        ends = ((a + self.length, b + other.length) for a, b in zip(self.starts, other.starts, strict=True))
        starts = map(min, self.starts, other.starts)
        return Spans.around(zip(starts, map(max, ends), strict=True), self.size)

    def everywhere(self) -> Spans:
        """Windows that have all of it."""
        return Spans((0,) * len(self.starts), self.size, self.size)

    def overlaps(self, other: Spans) -> list[tuple[slice, slice]]:
        """What each window shares with that of another: where it is in this one, and where in that."""
        found = []
        for a, b in zip(self.starts, other.starts, strict=True):
            start, end = max(a, b), max(a, b, min(a + self.length, b + other.length))
            found.append((slice(start - a, end - a), slice(start - b, end - b)))
        return found

    def padded(self, before: int, after: int) -> Spans:
        """The same windows once the dimension is longer at both ends."""
        return Spans(tuple(start + before for start in self.starts), self.length, self.size + before + after)


@dataclass(frozen=True)
class Kernel:
    """What slides along one dimension: a convolution's kernel or a pool's."""

    size: int
    stride: int
    padding: int
    dilation: int

    @property
    def reach(self) -> int:
        return (self.size - 1) * self.dilation + 1

    def reached(self, spans: Spans, outputs: int) -> Spans:
        """Where its outputs look into the windows."""
        first = [-(-(start + self.padding - self.reach + 1) // self.stride) for start in spans.starts]
        last = [(start + spans.length - 1 + self.padding) // self.stride for start in spans.starts]
        return Spans.around(((a, b + 1) for a, b in zip(first, last, strict=True)), outputs)

    def seen(self, outputs: Spans, size: int) -> Spans:
        """What its outputs in some windows see of the padded dimension, whose size is `size`."""
        length = (outputs.length - 1) * self.stride + self.reach
        return Spans(tuple(start * self.stride for start in outputs.starts), length, size)

    def multiplied(self, size: int, outputs: int) -> float:
        """How many outputs that lie inside have as many cells to multiply as all of them, whose padding has none."""
        first = torch.arange(outputs)[:, None] * self.stride - self.padding
        cells = first + torch.arange(self.size) * self.dilation
        return int(((cells >= 0) & (cells < size)).sum()) / self.size

    def overhang(self, size: int, outputs: int) -> int:
        """By how much the last output looks beyond the padding at the end, as in ceil mode."""
        return max(0, (outputs - 1) * self.stride + self.reach - size - 2 * self.padding)


@dataclass(frozen=True)
class Place:
    """Windows in the last two dimensions."""

    rows: Spans
    columns: Spans

    @property
    def is_everywhere(self) -> bool:
        return self.rows.length == self.rows.size and self.columns.length == self.columns.size

    @property
    def cells(self) -> int:
        """How many a window has."""
        return self.rows.length * self.columns.length

    def joined(self, other: Place) -> Place:
        return Place(self.rows.joined(other.rows), self.columns.joined(other.columns))

    def cut(self, shared: Tensor) -> Tensor:
        """What the windows have of a tensor 1 x ... x H x W."""
        height, width = self.rows.length, self.columns.length
        corners = zip(self.rows.starts, self.columns.starts, strict=True)
        return torch.cat([shared[..., top : top + height, left : left + width] for top, left in corners])

    def put(self, windows: Tensor, inner: Tensor, place: Place) -> None:
        """Write what windows at `place` have into these, as far as they overlap."""
        rows, columns = self.rows.overlaps(place.rows), self.columns.overlaps(place.columns)
        slices = list(zip(rows, columns, strict=True))
        if all(each == slices[0] for each in slices):
            (to_row, from_row), (to_column, from_column) = slices[0]
            windows[..., to_row, to_column] = inner[..., from_row, from_column]
            return
        for window, part, ((to_row, from_row), (to_column, from_column)) in zip(windows, inner, slices, strict=True):
            window[..., to_row, to_column] = part[..., from_row, from_column]


def grown(shared: Tensor, windows: Tensor, place: Place, wider: Place) -> Tensor:
    """The windows at `place` with what is shared around them, as windows at `wider`."""
    if wider == place:
        return windows
    around = wider.cut(shared)
    wider.put(around, windows, place)
    return around


def blocks(rows: int, columns: int, side: int) -> list[list[tuple[int, int]]]:
    """The positions of a grid in blocks whose windows are of one size: as far from an edge, which cuts them off."""
    return [
        [(row, column) for row in band for column in bar] for band in _cut(rows, side) for bar in _cut(columns, side)
    ]


def _cut(count: int, side: int) -> Sequence[Sequence[int]]:
    """Numbers in even pieces of at most `side`, those at both ends first."""
    inwards = sorted(range(count), key=lambda number: min(number, count - 1 - number))
    pieces = -(-count // side)
    edges = [count * piece // pieces for piece in range(pieces + 1)]
    return [inwards[start:end] for start, end in itertools.pairwise(edges)]
