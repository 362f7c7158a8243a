"""The document of the study, results.json: verdicts of the trained networks, and every number behind them."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from attribkit.reference_models.provenance import commit, versions
from attribkit.reference_models.switch_study import judging, validation
from attribkit.reference_models.switch_study.parts import TRAINED, Part, Settings
from attribkit.reference_models.switch_study.testset import TestSet
from attribkit.reference_models.switch_study.verdict import mean_interval

Json = dict[str, Any]


def results(documents: dict[Part, Json], tests: TestSet, settings: Settings, lacking: dict[str, str]) -> Json:
    """The whole document from those of all parts; `lacking` says why some networks are not in it."""
    by_network: dict[str, dict[str, Json]] = {}
    for part, document in documents.items():
        by_network.setdefault(part.network, {}).setdefault(part.weights, {})[part.task] = document
    return {
        "versions": versions(),
        "commit": commit(),
        "settings": asdict(settings),
        "data": {"source": tests.source, "digest": tests.digest},
        "margins": validation.MARGINS,
        "networks": {name: _network(tasks, settings) for name, tasks in by_network.items()},
        "pictures": [picture for tasks in by_network.values() for picture in tasks[TRAINED]["figures"]["pictures"]],
        "missing": lacking,
    }


def _network(tasks: dict[str, Json], settings: Settings) -> Json:
    """What the scores of a network come to with each kind of weights; only trained ones are judged."""
    facts = tasks[TRAINED]["facts"]
    network: Json = {"verdict": {}, "without": facts["without"], "layers": facts["layers"]}
    for weights, documents in tasks.items():
        measured = judging.measurements(
            {metric: documents[metric]["scores"] for metric in validation.MARGINS},
            facts["without"],
            resamples=settings.resamples,
            seed=settings.seed,
        )
        network[weights] = {
            "errors": documents["facts"]["errors"],
            "measurements": [
                _plain(asdict(each)) | ({} if weights == TRAINED else {"verdict": None}) for each in measured
            ],
            "bounds": _bounds(documents, settings),
        }
        if weights == TRAINED:
            network["verdict"] = judging.verdicts(measured)
            network[weights]["failures"] = _failures(documents["failures"], settings)
    return network


def _bounds(documents: Json, settings: Settings) -> list[Json]:
    return [
        {"metric": metric, "unit": unit, "means": _intervals(scores, settings)}
        for metric in validation.MARGINS
        for unit, scores in documents[metric]["bounds"].items()
    ]


def _failures(document: Json, settings: Settings) -> Json:
    stages = {
        rule: [
            {"layer": layer, "rank": _intervals(rank[rule], settings), "ssim": _intervals(ssim[rule], settings)}
            for layer, rank, ssim in document["cascade"]
        ]
        for rule in validation.RULES
    }
    return {**_intervals(document["alike"], settings), "cascade": stages}


def _intervals(value: Any, settings: Settings) -> Any:
    """Of scores, wherever they are in a document."""
    if isinstance(value, dict):
        return {key: _intervals(inner, settings) for key, inner in value.items()}
    return _plain(asdict(mean_interval(judging.array(value), settings.resamples, settings.seed)))


def _plain(value: Any) -> Any:
    """Without the numbers that JSON does not know: the mean of nothing, an interval without end."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
