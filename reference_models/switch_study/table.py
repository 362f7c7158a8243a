"""scores.csv: every score of every image, for whoever wants to compute something else from them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from attribkit.reference_models.switch_study import judging
from attribkit.reference_models.switch_study.document import Documents, by_network, scored
from attribkit.reference_models.switch_study.testset import TestSet
from attribkit.reference_models.switch_study.validation import BESIDE, FLOORS, RULES

MAKERS = (*RULES, *FLOORS, *BESIDE)
COLUMNS = ("network", "weights", "metric", "unit", "condition", "image", *MAKERS)


def scores(documents: Documents, tests: TestSet, metrics: Mapping[str, Any]) -> bytes:
    """One line per image of each network, weights, metric, unit and condition, with who made the map across.

    Of a metric of pairs, the mean over an image's pairs. An undefined score is an empty field.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for network, by_weights in by_network(documents).items():
        for weights, tasks in by_weights.items():
            for metric, kinds in scored(tasks, metrics).items():
                for unit, cells in kinds.items():
                    for condition, makers in cells.items():
                        about = (network, weights, metric, unit, condition)
                        writer.writerows([*about, *row] for row in _rows(makers, tests))
    return text.getvalue().encode()


def _rows(makers: Mapping[str, Any], tests: TestSet) -> Iterator[list[str]]:
    columns = {name: _per_image(makers[name]) for name in MAKERS if name in makers}
    for index in range(len(columns[RULES[0]])):
        name = tests.names[index] if tests.names else str(index)
        yield [name, *(_written(columns[maker][index]) if maker in columns else "" for maker in MAKERS)]


def _per_image(values: list[Any]) -> list[float]:
    scores = judging.array(values)
    each: list[float] = (scores if scores.ndim == 1 else np.nanmean(scores, axis=1)).tolist()
    return each


def _written(score: float) -> str:
    return "" if np.isnan(score) else f"{round(score, 5):g}"
