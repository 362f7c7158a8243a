"""Probes as a chart, a table and words: of a network as it is, and of the same network changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.report import charts, layout
from attribkit.report.charts import Series
from attribkit.report.marks import Marks, drawn
from attribkit.report.pictures import Picture
from attribkit.report.sheet import Cell, sheet
from attribkit.studies.probes import Probes

Array = npt.NDArray[Any]

READING = (
    "Each dot is the share of test images that a linear classifier on a layer's features gets right, with its 95% "
    "interval over these images. The dashed line is the share of the most frequent class. "
    "All layers share the images, the split and the penalties that cross-validation chooses from."
)


def name_of(probes: Probes) -> str:
    return probes.changed or "as it is"


def chart(every: Sequence[Probes]) -> Marks:
    """A row per layer, and in it a dot for each way in which the network was changed."""
    layers = layers_of(every)
    series = []
    for number, each in enumerate(every):
        values, low, high = (_spread(held, each, layers) for held in (each.accuracy, each.low, each.high))
        series.append(Series(name_of(each), values, low, high, math.nan if number else each.chance))
    return charts.rows("accuracy of a linear classifier", "share of test images", layers, series, 1.0)


def layers_of(every: Sequence[Probes]) -> list[str]:
    """All layers that are in any of them, in the order of the first."""
    return list(dict.fromkeys(layer for each in every for layer in each.layers))


def _spread(values: Array, probes: Probes, layers: Sequence[str]) -> Array:
    """Values by layer, NaN where there is none."""
    known = dict(zip(probes.layers, values.tolist(), strict=True))
    return np.array([known.get(layer, np.nan) for layer in layers])


def legend(every: Sequence[Probes]) -> Marks:
    return charts.legend([name_of(each) for each in every], "dashed: the most frequent class")


def picture(heading: str, every: Sequence[Probes]) -> Picture:
    """The chart on a sheet."""
    rows = [[Cell([], drawn(legend(every)))], [Cell([], drawn(chart(every)))]]
    return layout.drawn(sheet(heading, summary(every[0]), list(rows), [READING, *notes(every)]))


def summary(probes: Probes) -> str:
    """The images, and the best layer."""
    best = int(probes.accuracy.argmax())
    return (
        f"{len(probes.train)} images to fit to, {len(probes.test)} to test on, {len(probes.classes)} classes; "
        f"best: {probes.layers[best]}, {probes.accuracy[best]:.1%}; the most frequent class: {probes.chance:.1%}"
    )


def notes(every: Sequence[Probes]) -> list[str]:
    """What a reader should know before believing a number."""
    said = []
    for each in every:
        if each.at_edge:
            said.append(
                f"{name_of(each)}: the best penalty is the first or last one tried for {', '.join(each.at_edge)}"
            )
        unfinished = [layer for layer, ended in zip(each.layers, each.ended, strict=True) if not ended]
        if unfinished:
            said.append(f"{name_of(each)}: the fit did not come to its end for {', '.join(unfinished)}")
    if every[0].unreadable:
        said.append(f"{len(every[0].unreadable)} images could not be read")
    return said


HEAD = ("layer", "network", "features", "accuracy", "from", "to", "penalty")


def lines(every: Sequence[Probes]) -> list[list[Any]]:
    """A line for each layer and network, under `HEAD`."""
    return [
        [layer, name_of(each), int(each.features[i]), float(each.accuracy[i]), float(each.low[i]), float(each.high[i]),
         float(each.penalty[i])]
        for each in every
        for i, layer in enumerate(each.layers)
    ]  # fmt: skip
