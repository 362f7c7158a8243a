"""Two plots of a network as SVG: what each rule loses, and how alike its map stays while layers are made random."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from attribkit.reference_models.switch_study.wording import RULES, Json, filled, main, short

WIDTH, RIGHT = 420, 402  # so narrow that letters can be read on a telephone

# Shapes around (0, 0): rules can be distinguished without colours, too.
MARKS = {
    "guided": "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0z",
    "deconvnet": "M-4,-4h8v8h-8z",
    "backprop": "M0,-5.5l5.5,5.5l-5.5,5.5l-5.5,-5.5z",
}


@dataclass(frozen=True)
class Axis:
    """From values to places across a plot."""

    low: float
    step: float
    steps: int
    left: float

    def at(self, value: float) -> float:
        return round(self.left + (value - self.low) / (self.steps * self.step) * (RIGHT - self.left), 1)

    @property
    def ticks(self) -> list[float]:
        return [round(self.low + index * self.step, 2) + 0.0 for index in range(self.steps + 1)]


def axis(values: Iterable[float | None], left: float) -> Axis:
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    step = next((step for step in (0.02, 0.05, 0.1, 0.2) if high - low <= 6 * step), 0.5)
    first = math.floor(low / step)
    return Axis(first * step, step, math.ceil(high / step) - first, left)


def plots(name: str, network: Json) -> dict[str, str]:
    """The SVG of each."""
    trained = network["trained"]
    measured = main(network)
    metrics = dict.fromkeys(each["metric"] for each in measured)
    by_metric = {metric: [each for each in measured if each["metric"] == metric] for metric in metrics}
    ends = [loss[end] for each in measured for loss in each["losses"].values() for end in ("low", "high")]
    margins = [each["margin"] for each in measured]
    cascade = trained["failures"]["cascade"]
    layers = [row["layer"] for row in cascade[RULES[0]]]
    ranks = [row["rank"]["mean"] for rows in cascade.values() for row in rows]
    gutter = 20 + 6.5 * max((len(short(layer, 22)) for layer in layers), default=0)
    losses, likeness = axis([0.0, *margins, *ends], 70), axis([0, 1, *ranks], gutter)
    shared = {"name": name, "marks": MARKS, "width": WIDTH, "right": RIGHT}
    return {
        "losses": filled("losses.svg", by_metric=by_metric, axis=losses, **shared),
        "cascade": filled("cascade.svg", cascade=cascade, layers=layers, axis=likeness, **shared),
    }
