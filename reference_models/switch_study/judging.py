"""From the scores of a network to its measurements and verdicts, metric by metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from attribkit.reference_models.switch_study.subjects import WITH
from attribkit.reference_models.switch_study.validation import MARGINS, RULES, Scored
from attribkit.reference_models.switch_study.verdict import (
    Interval,
    Scores,
    Verdict,
    loss,
    mean_interval,
    verdict,
    worst,
)


@dataclass(frozen=True)
class Measurement:
    """One metric of one kind of unit: means by condition and rule, what each rule loses, and the verdict."""

    metric: str
    unit: str
    means: Mapping[str, Mapping[str, Interval]]
    losses: Mapping[str, Interval]
    margin: float
    verdict: Verdict


def measurements(scored: Mapping[str, Scored], without: str, *, resamples: int, seed: int) -> list[Measurement]:
    """Intervals and verdicts from the scores of one subject, by metric."""
    measured = []
    for metric, kinds in scored.items():
        margin = MARGINS[metric]
        for kind, conditions in kinds.items():
            losses = {
                rule: loss(array(conditions[WITH][rule]), array(conditions[without][rule]), resamples, seed)
                for rule in RULES
            }
            means = {
                condition: {rule: mean_interval(array(scores[rule]), resamples, seed) for rule in RULES}
                for condition, scores in conditions.items()
            }
            outcome = verdict(losses["guided"], losses["deconvnet"], margin)
            measured.append(Measurement(metric, kind, means, losses, margin, outcome))
    return measured


def verdicts(measured: list[Measurement]) -> dict[str, Verdict]:
    """One for each metric: the worst over its kinds of unit."""
    return {metric: worst(each.verdict for each in measured if each.metric == metric) for metric in MARGINS}


def array(values: list[float]) -> Scores:
    """Scores as numbers; null, as JSON has it, is undefined."""
    return np.asarray(values, dtype=np.float64)
