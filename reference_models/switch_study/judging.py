"""From the scores of a network to its measurements: means, losses, the sentences of the claim, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attribkit.reference_models.switch_study.intervals import (
    Interval,
    Resampling,
    Scores,
    interval,
    on_the_same_images,
)
from attribkit.reference_models.switch_study.subjects import WITH
from attribkit.reference_models.switch_study.validation import RULES, ByMaker, Scored, floors_of
from attribkit.reference_models.switch_study.verdict import State, Verdict, is_better, keeps, loses, verdict


@dataclass(frozen=True)
class Measurement:
    """One metric of one kind of unit, with switches beside one condition without.

    `difference` is the main figure: what the deconvnet loses less what guided loses. `better` is what guided scores
    above the deconvnet, both with switches; `above` what each of them scores with switches above each floor.
    """

    metric: str
    unit: str
    without: str
    margin: float
    losses: Mapping[str, Interval]
    difference: Interval
    better: Interval
    above: Mapping[str, Mapping[str, Interval]]
    sentences: Mapping[str, State]
    verdict: Verdict


def measured(
    metric: str, unit: str, without: str, cells: Mapping[str, ByMaker], margin: float, resampling: Resampling,
    renamed: float = 0.0,
) -> Measurement:  # fmt: skip
    """Compare one condition without switches with the one that has them, over the same images.

    Args:
        metric: Which metric the scores are of.
        unit: Which kind of unit.
        without: The condition without switches.
        cells: The scores by condition and by who made the maps: rules, and with switches the floors, too.
        margin: How much may be lost.
        resampling: How intervals are found.
        renamed: How many percent of the images are named differently by the network with switches.

    Returns:
        The losses and what they say of the claim.
    """
    floors = [name for name in floors_of(metric) if name in cells[WITH]]
    pairs = [(WITH, rule) for rule in (*RULES, *floors)] + [(without, rule) for rule in RULES]
    alike = on_the_same_images([array(cells[condition][rule]) for condition, rule in pairs])
    of = dict(zip(pairs, alike, strict=True))

    def of_difference(first: Scores, second: Scores) -> Interval:
        return interval(first - second, resampling)

    lost = {rule: of[WITH, rule] - of[without, rule] for rule in RULES}
    losses = {rule: interval(lost[rule], resampling) for rule in RULES}
    above = {
        rule: {floor: of_difference(of[WITH, rule], of[WITH, floor]) for floor in floors}
        for rule in ("guided", "deconvnet")
    }
    better = of_difference(of[WITH, "guided"], of[WITH, "deconvnet"])
    sentences: dict[str, State] = {
        "guided keeps": keeps(losses["guided"], margin, above["guided"].values()),
        "deconvnet loses": loses(losses["deconvnet"], margin, above["deconvnet"].values()),
        "guided is better": is_better(better),
    }
    difference = of_difference(lost["deconvnet"], lost["guided"])
    halves = sentences["guided keeps"], sentences["deconvnet loses"]
    outcome = verdict(*halves, difference, margin, better.images, renamed)
    return Measurement(
        metric, unit, without, margin, losses, difference, better, above, sentences, outcome
    )  # fmt: skip


def measurements(
    scored: Mapping[str, Scored], compared: Sequence[str], margins: Mapping[str, float], resampling: Resampling,
    renamed: float = 0.0,
) -> list[Measurement]:  # fmt: skip
    """Compare every metric and kind of unit with each condition without switches; arguments are as in `measured`."""
    return [
        measured(metric, unit, without, cells, margins[metric], resampling, renamed)
        for metric, kinds in scored.items()
        for unit, cells in kinds.items()
        for without in compared
        if without in cells
    ]


def means(scored: Mapping[str, Scored], resampling: Resampling) -> list[dict[str, Any]]:
    """Find the mean of every cell, over the images that are defined for every rule and condition of its row."""
    rows = []
    for metric, kinds in scored.items():
        for unit, cells in kinds.items():
            makers = [(condition, maker) for condition, makers in cells.items() for maker in makers]
            alike = on_the_same_images([array(cells[condition][maker]) for condition, maker in makers])
            found: dict[str, dict[str, Interval]] = {}
            for (condition, maker), values in zip(makers, alike, strict=True):
                found.setdefault(condition, {})[maker] = interval(values, resampling)
            rows.append({"metric": metric, "unit": unit, "means": found})
    return rows


def array(values: Sequence[Any]) -> Scores:
    """Scores as numbers, null being undefined; of pairs kept as the rows below the diagonal, a matrix."""
    if not values or not isinstance(values[0], list):
        return np.asarray(values, dtype=np.float64)
    matrix = np.full((len(values), len(values)), np.nan)
    for index, row in enumerate(values):
        matrix[index, :index] = row[:index]
        matrix[:index, index] = row[:index]
    return matrix
