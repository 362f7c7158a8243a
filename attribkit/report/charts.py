"""Charts: curves with their spread, and rows of values with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.report.marks import PALETTE, Marks

Array = npt.NDArray[Any]

_WIDTH, _HEIGHT = 360, 240
_LEFT, _RIGHT, _TOP, _FOOT = 40, 350, 30, 196
_ROW, _GROUP = 17, 9


@dataclass(frozen=True, eq=False)
class Series:
    """Values in an order, and where they may lie.

    Attributes:
        name: What it is called in a legend.
        values: The values; NaN is left out.
        low, high: Their bounds; None where there are none.
        level: A value to compare with, drawn as a dashed line; NaN where there is none.
    """

    name: str
    values: Array
    low: Array | None = None
    high: Array | None = None
    level: float = math.nan


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, not more than a few."""
    raw = (high - low) / max(1, most - 1)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * times for times in (1, 2, 2.5, 5, 10) if unit * times >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(step * number, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def curves(title: str, across: str, x: Sequence[float], series: Sequence[Series], top: float | None = None) -> Marks:
    """Lines over numbers, from zero up.

    Args:
        title: What the values are.
        across: What the numbers are.
        x: The numbers, rising.
        series: Lines, each with a band where it has bounds.
        top: The largest value that there is room for; without it, the largest that there is.
    """
    marks = Marks(_WIDTH, _HEIGHT)
    largest = top or _largest(series) or 1.0
    start, end = min(x), max(x)

    def place(value: float, number: float) -> tuple[float, float]:
        share = (value - start) / ((end - start) or 1.0)
        return _LEFT + share * (_RIGHT - _LEFT), _FOOT - min(1.05, number / largest) * (_FOOT - _TOP)

    marks.text((4, 16), title)
    for tick in ticks(0, largest):
        marks.line([place(start, tick), place(end, tick)])
        marks.text((_LEFT - 6, place(start, tick)[1] + 4), f"{tick:g}", "end", faint=True)
    for tick in ticks(start, end, 7):
        marks.text((place(tick, 0)[0], _FOOT + 18), f"{tick:g}", "middle", faint=True)
    marks.text(((_LEFT + _RIGHT) / 2, _FOOT + 36), across, "middle", faint=True)
    for colour, each in zip(colours(len(series)), series, strict=True):
        known = np.flatnonzero(np.isfinite(each.values)).tolist()
        if each.low is not None and each.high is not None and len(known):
            forth = [place(x[i], each.low[i]) for i in known]
            marks.band(forth + [place(x[i], each.high[i]) for i in known[::-1]], colour)
        if len(known) > 1:
            marks.line([place(x[i], each.values[i]) for i in known], colour)
        if math.isfinite(each.level):
            marks.line([place(start, each.level), place(end, each.level)], colour, dashed=True)
    return marks


def rows(title: str, across: str, names: Sequence[str], series: Sequence[Series], top: float | None = None) -> Marks:
    """For each name a dot per series, with a line from its low bound to its high one.

    Args:
        title: What the values are.
        across: Their unit.
        names: One per row.
        series: Dots, from above down in each row.
        top: The largest value that there is room for; without it, the largest that there is.
    """
    high = max(1, len(series)) * _ROW + _GROUP
    foot = _TOP + high * len(names)
    marks = Marks(_WIDTH, foot + 46)
    largest = top or _largest(series) or 1.0
    left = min(150, 14 + 7 * max(map(len, names)))

    def across_at(value: float) -> float:
        return left + value / largest * (_RIGHT - 6 - left)

    marks.text((4, 16), title)
    for tick in ticks(0, largest):
        marks.line([(across_at(tick), _TOP - 4), (across_at(tick), foot)])
        marks.text((across_at(tick), foot + 16), f"{tick:g}", "middle", faint=True)
    marks.text(((left + _RIGHT) / 2, foot + 34), across, "middle", faint=True)
    for row, name in enumerate(names):
        middle = _TOP + high * row + (high - _GROUP) / 2
        marks.text((4, middle + 4), shortened(name))
    for number, (colour, each) in enumerate(zip(colours(len(series)), series, strict=True)):
        if math.isfinite(each.level):
            marks.line([(across_at(each.level), _TOP - 4), (across_at(each.level), foot)], colour, dashed=True)
        for row in np.flatnonzero(np.isfinite(each.values)).tolist():
            y = _TOP + high * row + _ROW * (number + 0.5)
            if each.low is not None and each.high is not None:
                marks.line([(across_at(each.low[row]), y), (across_at(each.high[row]), y)], colour)
            marks.dot((across_at(each.values[row]), y), colour)
    return marks


def legend(entries: Sequence[str], dashed: str = "") -> Marks:
    """The colours of series by their names, and what a dashed line means.

    Args:
        entries: Names, in the order of the series.
        dashed: In words.
    """
    marks = Marks(_WIDTH, 20 * (len(entries) + bool(dashed)) + 8)
    for number, (colour, name) in enumerate(zip(colours(len(entries)), entries, strict=True)):
        y = 20 * number + 14
        marks.line([(4, y), (34, y)], colour)
        marks.text((42, y + 4), shortened(name, 44))
    if dashed:
        y = 20 * len(entries) + 14
        marks.line([(4, y), (34, y)], (130, 130, 130), dashed=True)
        marks.text((42, y + 4), dashed, faint=True)
    return marks


def colours(count: int) -> list[tuple[int, int, int]]:
    """One for each of so many series, in their order; from the ninth on again from the first."""
    return [PALETTE[number % len(PALETTE)] for number in range(count)]


def shortened(name: str, most: int = 19) -> str:
    """The end of a long name, which says more than its beginning."""
    return name if len(name) <= most else f"...{name[3 - most :]}"


def _largest(series: Sequence[Series]) -> float:
    """The largest value or level, with some room above."""
    every = [part for each in series for part in (each.values, each.high, each.level) if part is not None]
    flat = np.concatenate([np.ravel(part) for part in every]) if every else np.zeros(0)
    return float(flat[np.isfinite(flat)].max(initial=0)) * 1.05
