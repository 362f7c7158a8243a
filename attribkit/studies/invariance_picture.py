"""Invariance and correspondence as charts and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.report import charts, layout
from attribkit.report.charts import Series
from attribkit.report.marks import Marks, drawn
from attribkit.report.pictures import Picture
from attribkit.report.sheet import Cell, Row, sheet
from attribkit.studies.correspondence import Correspondence
from attribkit.studies.invariance import Invariance
from attribkit.studies.moves import WORDS, Move

Array = npt.NDArray[Any]

DISTANCE = "distance of the features"
PROBABILITY = "probability of the class"
DASHED = "dashed: to another picture (the median)"
CONTROL = "random boxes: mean, least and largest draw"


@dataclass(frozen=True)
class Chart:
    """A chart, and what it shows in words."""

    name: str
    marks: Marks


def quartiles(values: Array) -> tuple[Array, Array, Array]:
    """Median, lower and upper quartile over the first dimension, of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    filled = np.where(known.any(0), values, 0.0)
    result = np.nanquantile(filled, [0.5, 0.25, 0.75], axis=0)
    median, low, high = np.where(known.any(0), result, np.nan)
    return median, low, high


def series(result: Invariance, kind: str) -> list[Series]:
    """For each layer the distances under one kind of move."""
    other = quartiles(result.other)[0]
    return [
        Series(layer, *quartiles(result.distance[:, number, result.moves(kind)]), level=float(other[number]))
        for number, layer in enumerate(result.layers)
    ]


def moved(result: Invariance) -> list[Chart]:
    """Two charts for each kind of move: distance by layer, and probability."""
    made = []
    for kind in dict.fromkeys(result.kinds):
        numbers = result.moves(kind)
        chances = [Series(PROBABILITY, *quartiles(result.probability[:, numbers]))]
        for title, lines, top in ((DISTANCE, series(result, kind), None), (PROBABILITY, chances, 1.0)):
            made.append(Chart(f"{title}: {WORDS[kind]}", _of_kind(title, kind, result.amounts[numbers], lines, top)))
    return made


def _of_kind(title: str, kind: str, amounts: Array, lines: Sequence[Series], top: float | None) -> Marks:
    if kind == "flip":
        return charts.rows(title, "", [f"flip {Move(kind, amount).name}" for amount in amounts], lines, top)
    order = np.argsort(amounts, kind="stable")
    percent = 100.0 if kind in ("down", "right") else 1.0
    ordered = [
        Series(line.name, line.values[order], line.low[order], line.high[order], line.level)
        for line in lines
        if line.low is not None and line.high is not None
    ]
    return charts.curves(title, WORDS[kind], (amounts[order] * percent).tolist(), ordered, top)


def corresponding(result: Correspondence) -> list[Chart]:
    """A chart for each part: its distance by layer, and that of random boxes."""
    made = []
    for number, part in enumerate(result.parts):
        own, spread, control = result.distance[number], result.spread[number], result.control[number]
        shown = [Series(part, own, np.maximum(0, own - spread), own + spread), _by_chance(control)]
        count = result.pairs[number]
        title = f"{charts.shortened(part, 24)} in {count} pair{'s' if count > 1 else ''} of images"
        made.append(Chart(title, charts.rows(title, "share of unlike signs", result.layers, shown)))
    return made


def _by_chance(control: Array) -> Series:
    """For each layer the mean, the least and the largest draw, of what is known."""
    known: Array = np.isfinite(np.where(np.isfinite(control), control, -np.inf).max(axis=1))
    filled = np.where(known[:, None], control, 0.0)
    mean, least, most = (np.where(known, each(filled, axis=1), np.nan) for each in (np.nanmean, np.nanmin, np.nanmax))
    return Series("random boxes", mean, least, most)


def legend(result: Invariance) -> Marks:
    return charts.legend(result.layers, DASHED if np.isfinite(result.other).any() else "")


def picture(heading: str, result: Invariance, parts: Correspondence | None) -> Picture:
    """All charts on a sheet, two in a row."""
    rows: list[Row] = [[Cell(["layers"], drawn(legend(result)))]]
    rows += _in_pairs([chart.marks for chart in moved(result)])
    if parts is not None:
        rows.append([Cell(["parts"], drawn(charts.legend(["a part: mean and deviation", CONTROL])))])
        rows += _in_pairs([chart.marks for chart in corresponding(parts)])
    return layout.drawn(sheet(heading, summary(result), rows, [NORMALISED, BORDER]))


def _in_pairs(marks: Sequence[Marks]) -> list[Row]:
    return [[Cell([], drawn(each)) for each in marks[start : start + 2]] for start in range(0, len(marks), 2)]


NORMALISED = (
    "Distance: Euclidean, between the feature vectors of the original and the moved picture, over the length of the "
    "original's. Lines are medians over the images, bands go from quartile to quartile."
)
BORDER = (
    "Pictures are moved about their middle before the model's preprocessing, so that what it would have cropped away "
    "comes in, and beyond the border grey."
)


def summary(result: Invariance) -> str:
    """How many images and layers, and the answer under all moves."""
    count = len(result.names)
    words = [f"{count} image{'s' if count > 1 else ''}, {len(result.kinds)} moves each"]
    if (result.best >= 0).all():
        kept = (result.best == result.clean[:, 1:]).mean()
        words.append(f"the most probable class stays in {kept:.0%} of them")
    return "; ".join(words)


def table(result: Invariance) -> list[list[str]]:
    """A line per kind of move: the mean over its moves of the median distance, by layer, and of the probability."""
    lines = []
    for kind in dict.fromkeys(result.kinds):
        numbers = result.moves(kind)
        cells = [f"{quartiles(result.distance[:, i, numbers])[0].mean():.3f}" for i in range(len(result.layers))]
        chance = quartiles(result.probability[:, numbers])[0].mean()
        lines.append([kind, *cells, f"{chance:.3f}", f"{result.border[:, numbers].mean():.0%}"])
    other = quartiles(result.other)[0]
    known = [["another picture", *(f"{each:.3f}" for each in other), "", ""]] if np.isfinite(other).all() else []
    return [*lines, *known]


def part_lines(result: Correspondence) -> list[list[str]]:
    """A line for each part and layer: distance, spread, random boxes, and how many of these are not above."""
    lines = []
    for number, part in enumerate(result.parts):
        for i, layer in enumerate(result.layers):
            control = result.control[number, i]
            by_chance = f"{control[np.isfinite(control)].mean():.3f}" if np.isfinite(control).any() else "-"
            own, spread = result.distance[number, i], result.spread[number, i]
            below = f"{result.below[number, i]:.0%}"
            changed = f"{result.changed[number, i]:.0%}"
            lines.append([part, layer, f"{own:.3f}", f"{spread:.3f}", by_chance, below, changed])
    return lines
