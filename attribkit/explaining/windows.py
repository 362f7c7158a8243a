"""Where in the image a unit looks: the windows of a layer's units, and the crop that one of them needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Along one dimension, unit i sees from i * stride - before to i * stride + after; None: to the edge."""

    size: int
    stride: int = 1
    before: int | None = None
    after: int | None = None

    def box(self, i: int) -> tuple[int, int]:
        """The first pixel that unit i sees, and the one after the last."""
        start = 0 if self.before is None else max(0, i * self.stride - self.before)
        stop = self.size if self.after is None else min(self.size, i * self.stride + self.after)
        return start, stop

    def is_inside(self, i: int) -> bool:
        """Whether unit i sees nothing beyond the edges."""
        if self.before is None or self.after is None:
            return False
        return i * self.stride >= self.before and i * self.stride + self.after <= self.size

    def longest(self) -> int:
        """The most pixels that a crop for a unit has."""
        if self.before is None or self.after is None:
            return self.size
        return min(self.size, self.before + self.after + self.stride - 1)

    def crop(self, i: int) -> tuple[int, int]:
        """The box of unit i, begun on a multiple of the stride, not behind the unit itself."""
        start, stop = self.box(i)
        start = min(start, i * self.stride)
        return start - start % self.stride, stop


@dataclass(frozen=True)
class ReceptiveField:
    """What a layer's units see.

    Attributes:
        windows: Theirs, one per dimension of the image.
        exact_on_crops: Whether a unit gives the same on the part of the image that it sees.
        shape: The layer's channels and the size of its map, where that is known.
    """

    windows: tuple[Window, ...]
    exact_on_crops: bool
    shape: tuple[int, ...] | None = None

    @classmethod
    def everything(cls, plane: Sequence[int]) -> ReceptiveField:
        """Units that see the whole of an image of this size."""
        return cls(tuple(Window(size) for size in plane), exact_on_crops=False)

    def box(self, position: Sequence[int] | None) -> tuple[int, ...]:
        """What the unit at a position sees.

        Args:
            position: Where the unit is in the layer's map; None, or a place in no map of the
                image such as a token's, stands for the whole map.

        Returns:
            First the starts, then the ends: top, left, bottom, right.
        """
        if not position or len(position) != len(self.windows):
            return (*(0 for _ in self.windows), *(w.size for w in self.windows))
        spans = [w.box(i) for w, i in zip(self.windows, position, strict=True)]
        return (*(s for s, _ in spans), *(e for _, e in spans))

    def share(self) -> float:
        """The part of an image that a unit's crop makes up, at the most."""
        return math.prod(w.longest() / w.size for w in self.windows)

    def worth_cropping(self) -> bool:
        """Whether a unit is explained with at most half of the arithmetic on the part that it sees."""
        return self.exact_on_crops and self.share() <= 0.5

    def crop(self, position: Sequence[int]) -> Crop:
        """The part of an image on which to run the network for this unit."""
        spans = [w.crop(i) for w, i in zip(self.windows, position, strict=True)]
        moved = tuple(i - s // w.stride for w, i, (s, _) in zip(self.windows, position, spans, strict=True))
        return Crop((slice(None), *(slice(*span) for span in spans)), moved)


@dataclass(frozen=True)
class Crop:
    """`image[crop.pixels]` is what a unit sees, and `position` is its place in the output for that."""

    pixels: tuple[slice, ...]
    position: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The spatial size."""
        return tuple(span.stop - span.start for span in self.pixels[1:])
