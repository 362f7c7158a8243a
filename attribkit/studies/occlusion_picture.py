"""The maps of an occlusion as pictures of the image's own size, beside the feature map's projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.report import layout, pictures
from attribkit.report.pictures import Picture
from attribkit.report.sheet import Cell, Row, sheet
from attribkit.studies.occlusion import Occlusion

Array = npt.NDArray[Any]
Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 94, 0),
    (86, 180, 233),
    (204, 121, 167),
    (240, 228, 66),
)
"""Of the classes that are most probable at the most places, apart for every kind of colour blindness."""
OTHERS: Colour = (150, 150, 150)

_SIDE = 224


@dataclass(frozen=True, eq=False)
class Covered:
    """One image, covered window by window, and what is shown of it.

    Attributes:
        name: Its file's.
        picture: H x W x 3 bytes, as the network saw it.
        occlusion: Of this image alone.
        labels: The classes' names, where there are any.
        projection: The feature map, all of its units at once, projected down: C x H x W; None where there is none.
        method: The rule of the projection.
    """

    name: str
    picture: Picture
    occlusion: Occlusion
    labels: Sequence[str]
    projection: Array | None
    method: str

    @property
    def correlation(self) -> float | None:
        """Between what a window covers of the projection and what it takes from the activity, over all windows.

        None where either is the same everywhere.
        """
        result = self.occlusion
        if self.projection is None:
            return None
        strength = np.abs(self.projection.astype(np.float64)).sum(0)
        height, width = result.window
        covered = [
            [strength[max(0, top) : top + height, max(0, left) : left + width].sum() for left in result.columns]
            for top in result.rows
        ]
        drop = result.clean[0, 1] - result.activity[0]
        if not np.isfinite(drop).all() or np.ptp(covered) == 0 or np.ptp(drop) == 0:
            return None
        return float(np.corrcoef(np.ravel(covered), np.ravel(drop))[0, 1])

    def label(self, number: int) -> str:
        """A class by its name, or by its number."""
        return self.labels[number] if number < len(self.labels) else f"class {number}"

    @property
    def legend(self) -> list[tuple[Colour, str, float]]:
        """The classes that are most probable somewhere: colour, name, share of the places; the rarest ones as one."""
        numbers, counts = np.unique(self.occlusion.best[0], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        shares = counts[order] / counts.sum()
        shown = [(COLOURS[i], self.label(int(numbers[order[i]])), float(shares[i])) for i in range(len(order))[:7]]
        rest = float(shares[7:].sum())
        return [*shown, (OTHERS, f"{len(order) - 7} other classes", rest)] if rest else shown

    def maps(self) -> dict[str, tuple[Picture, str]]:
        """The three maps and the projection by their names, each with what its colours mean."""
        result = self.occlusion
        chances = pictures.picture(self._spread(result.probability[0])[None], "absolute", 1.0)
        target = self.label(result.target[0])
        found = {"probability": (chances, f"of {target}: black 0, bright 1; {result.clean[0, 0]:.3g} uncovered")}
        if self.projection is not None:
            strength = float(max(result.clean[0, 1], np.abs(result.activity).max())) or 1.0
            activity = pictures.picture(self._spread(result.activity[0])[None], "absolute", strength)
            what = f"{result.layer}, channel {result.channel[0]}: black 0, bright {strength:.3g}"
            found["activity"] = (activity, f"{what}; {result.clean[0, 1]:.3g} uncovered")
        found["most probable class"] = (self._classes(), "colours: see the legend")
        if self.projection is not None:
            found["projection"] = (
                pictures.picture(self.projection, "classic"),
                f"of that feature map by {self.method}; mid-grey is zero",
            )
        return found

    def _classes(self) -> Picture:
        numbers, counts = np.unique(self.occlusion.best[0], return_counts=True)
        order = numbers[np.argsort(-counts, kind="stable")]
        best = self._spread(self.occlusion.best[0])
        drawn = np.empty((*best.shape, 3), np.uint8)
        drawn[:] = OTHERS
        for number, colour in zip(order, COLOURS, strict=False):
            drawn[best == number] = colour
        return drawn

    def _spread(self, values: Array) -> Array:
        """For each pixel the value of the window whose middle is nearest."""
        result = self.occlusion
        nearest = [
            np.abs(np.arange(size)[:, None] + 0.5 - (np.array(begun) + side / 2)).argmin(1)
            for size, begun, side in zip(
                self.picture.shape[:2], (result.rows, result.columns), result.window, strict=True
            )
        ]
        return values[np.ix_(*nearest)]

    @property
    def summary(self) -> str:
        """What was found, in one line."""
        result = self.occlusion
        chances = result.probability[0]
        row, column = np.unravel_index(chances.argmin(), chances.shape)
        words = [
            f"{self.label(result.target[0])}: {result.clean[0, 0]:.1%} uncovered, {chances.min():.1%} at the lowest, "
            f"with rows from {result.rows[row]} and columns from {result.columns[column]} covered"
        ]
        if self.projection is not None:
            known = "is undefined" if self.correlation is None else f"{self.correlation:.2f}"
            words.append(f"correlation of the activity's drop and the projection {known}")
        return "; ".join(words)


def drawn(covered: Covered) -> Picture:
    """The picture with a window on it, the maps and the projection side by side, and the legend below."""
    factor = max(1, _SIDE // max(covered.picture.shape[:2]))
    images = {"picture": (_with_window(covered), "the window's size in its middle"), **covered.maps()}
    shown = [Cell([name, words], image, factor) for name, (image, words) in images.items()]
    result = covered.occlusion
    foot = [f"Window {_by(result.window)}, stride {_by(result.stride)}, edge {result.edge}; {result.computed}."]
    return layout.drawn(sheet(covered.name, covered.summary, [shown, _legend(covered)], foot))


def _with_window(covered: Covered) -> Picture:
    """The picture, and in its middle the outline of a window."""
    image = covered.picture.copy()
    (height, width), (rows, columns) = covered.occlusion.window, image.shape[:2]
    top, left = (rows - height) // 2, (columns - width) // 2
    for line in (
        np.s_[[top, top + height - 1], left : left + width],
        np.s_[top : top + height, [left, left + width - 1]],
    ):
        image[line] = (255, 196, 0)
    return image


def _legend(covered: Covered) -> Row:
    cells = []
    for colour, name, share in covered.legend[:5]:
        image = np.empty((14, 60, 3), np.uint8)
        image[:] = colour
        cells.append(Cell([name, f"at {share:.0%} of the places"], image))
    return cells


def _by(pair: tuple[int, int]) -> str:
    return "x".join(map(str, pair))
