"""The document of the study, results.json: verdicts of the trained networks, and every number behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from attribkit.reference_models.provenance import commit, versions
from attribkit.reference_models.switch_study import judging
from attribkit.reference_models.switch_study.intervals import interval, on_the_same_images
from attribkit.reference_models.switch_study.parts import TRAINED, Part, Settings
from attribkit.reference_models.switch_study.testset import TestSet
from attribkit.reference_models.switch_study.validation import PRIMARY, RULES, Scored, tasks_of

Json = dict[str, Any]
Documents = dict[Part, Json]


def results(
    documents: Documents, tests: TestSet, settings: Settings, margins: Mapping[str, float], lacking: dict[str, str]
) -> Json:
    """Put the documents of all parts together.

    Args:
        documents: What each part left.
        tests: The pictures that were drawn.
        settings: How thoroughly it was asked.
        margins: How much of each metric may be lost; metrics that are not in it are left out.
        lacking: Why some networks are not there.

    Returns:
        The whole document.
    """
    return {
        "versions": versions(),
        "commit": commit(),
        "settings": asdict(settings),
        "data": {"source": tests.source, "digest": tests.digest},
        "images": _counts(tests, settings, len(tests.pictures)),
        "margins": dict(margins),
        "primary": dict(zip(("metric", "unit"), PRIMARY, strict=True)),
        "networks": {
            name: _network(by_weights, settings, margins) for name, by_weights in by_network(documents).items()
        },
        "pictures": [
            picture | {"network": part.network}
            for part, document in documents.items()
            for picture in document.get("pictures", ())
        ],
        "missing": lacking,
    }


def by_network(documents: Documents) -> dict[str, dict[str, dict[str, Json]]]:
    """Sort the documents of parts: by network, weights and task."""
    sorted_out: dict[str, dict[str, dict[str, Json]]] = {}
    for part, document in documents.items():
        sorted_out.setdefault(part.network, {}).setdefault(part.weights, {})[part.task] = document
    return sorted_out


def scored(tasks: Mapping[str, Json], metrics: Mapping[str, float]) -> dict[str, Scored]:
    """Find the scores of some metrics among the documents of tasks."""
    return {
        metric: cells
        for task in tasks_of(metrics)
        for metric, cells in tasks[task]["scores"].items()
        if metric in metrics
    }


def _counts(tests: TestSet, settings: Settings, drawn: int) -> Json:
    """How many images there were, which may be fewer than were asked for."""
    few = {name: min(drawn, getattr(settings, name)) for name in ("asked", "paired", "compared")}
    return {"drawn": drawn, "candidates": drawn + len(tests.rivals), **few}


def _network(by_weights: dict[str, dict[str, Json]], settings: Settings, margins: Mapping[str, float]) -> Json:
    """What the scores of a network come to with each kind of weights; only trained ones are judged."""
    facts = by_weights[TRAINED]["facts"]
    network: Json = {key: facts[key] for key in ("compared", "layers", "renamed", "images")}
    network["primary"] = None
    for weights, tasks in by_weights.items():
        network[weights] = _of_weights(tasks, weights, facts, settings, margins)
    for each in network[TRAINED]["measurements"]:
        if (each["metric"], each["unit"], each["without"]) == (*PRIMARY, facts["compared"][0]):
            network["primary"] = each
    return network


def _of_weights(
    tasks: dict[str, Json], weights: str, facts: Json, settings: Settings, margins: Mapping[str, float]
) -> Json:
    scores = scored(tasks, margins)
    measured = judging.measurements(scores, facts["compared"], margins, settings.resampling, facts["renamed"])
    unjudged = {} if weights == TRAINED else {"verdict": None}
    found: Json = {
        "errors": tasks["facts"]["errors"],
        "measurements": [plain(asdict(each)) | unjudged for each in measured],
        "means": [
            row | {"means": _each(row["means"], lambda one: plain(asdict(one)))}
            for row in judging.means(scores, settings.resampling)
        ],
        "zeros": {task: tasks[task]["zeros"] for task in tasks_of(margins)},
    }
    if "beside" in tasks:
        found |= {key: _intervals(tasks["beside"][key], settings) for key in ("donors", "lattice", "recognised")}
    if "strides" in tasks:
        found["strides"] = _steps(tasks["strides"]["steps"], settings)
    if "failures" in tasks:
        found["failures"] = _failures(tasks["failures"], settings)
    return found


def _steps(steps: list[Json], settings: Settings) -> list[Json]:
    """With each stride that was replaced: what every rule loses of what it has with switches."""
    described = []
    for step in steps[1:]:
        losses = {}
        for rule in RULES:
            own, without = on_the_same_images([judging.array(each["found"][rule]) for each in (step, steps[0])])
            losses[rule] = plain(asdict(interval(own - without, settings.resampling)))
        described.append({"layer": step["layer"], "renamed": step["renamed"], "losses": losses})
    return described


def _failures(document: Json, settings: Settings) -> Json:
    stages = {
        rule: [
            {"layer": layer, "rank": _intervals(rank[rule], settings), "ssim": _intervals(ssim[rule], settings)}
            for layer, rank, ssim in document["cascade"]
        ]
        for rule in RULES
    }
    return {**_intervals(document["alike"], settings), "cascade": stages}


def _intervals(value: Any, settings: Settings) -> Any:
    """Of scores, wherever they are in a document."""
    return _each(value, lambda scores: plain(asdict(interval(judging.array(scores), settings.resampling))))


def _each(value: Any, change: Any) -> Any:
    """Everything in dictionaries of dictionaries, changed."""
    return {key: _each(inner, change) for key, inner in value.items()} if isinstance(value, dict) else change(value)


def plain(value: Any) -> Any:
    """Without the numbers that JSON does not know: the mean of nothing, an interval without end."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
