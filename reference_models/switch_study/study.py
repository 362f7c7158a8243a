"""The study on switches from pictures to results: parts that are kept, one document."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

import attribkit
from attribkit import Cases
from attribkit.adapters.weights import WeightsError
from attribkit.files import write_whole
from attribkit.reference_models.process import keep_freed_memory
from attribkit.reference_models.switch_study import figures, subjects, validation
from attribkit.reference_models.switch_study.subjects import RANDOM_SHARE, Subject
from attribkit.reference_models.switch_study.testset import TestSet
from attribkit.reference_models.switch_study.verdict import mean_interval
from attribkit.report.pictures import write_png

TRAINED = "trained"
OF_TRAINED = ("failures", "figures")
TASKS = ("facts", *validation.MARGINS, *OF_TRAINED)


@dataclass(frozen=True)
class Settings:
    """What a reader may change. `asked` is the number of images for the metrics that run the network often.

    `compared` is the same for what gets no verdict.
    """

    images: int
    asked: int
    compared: int
    steps: int
    resamples: int
    seed: int = 0
    device: str = "cpu"


FULL = Settings(images=500, asked=500, compared=50, steps=8, resamples=2000)
QUICK = Settings(images=30, asked=20, compared=4, steps=4, resamples=500)


@dataclass(frozen=True)
class Part:
    """What is run and kept as a whole: a task for one network with one kind of weights.

    The key is of all that its document follows from.
    """

    network: str
    weights: str
    task: str
    key: str

    @property
    def file(self) -> str:
        words = (quote(self.network, safe=""), self.weights, self.task)
        return f"{'-'.join(words).replace(' ', '-')}.json"


def parts(networks: Sequence[str], tests: TestSet, settings: Settings) -> list[Part]:
    """Every task for every network with every kind of weights. The pictures are those drawn."""
    versions = [attribkit.__version__, torch.__version__]
    found = []
    for network in networks:
        digest = hashlib.sha256(json.dumps([network, asdict(settings), tests.digest, versions]).encode())
        for name, tensor in sorted(subjects.read(network).model.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        found += [
            Part(network, weights, task, digest.hexdigest()[:16])
            for weights in RANDOM_SHARE
            for task in TASKS
            if weights == TRAINED or task not in OF_TRAINED
        ]
    return found


def missing(networks: Iterable[str]) -> dict[str, str]:
    """The networks that cannot be had with trained weights, and why."""
    found = {}
    for network in networks:
        try:
            subjects.read(network)
        except (WeightsError, OSError) as error:
            found[network] = " ".join(str(error).split())
    return found


def kept(part: Part, out: Path) -> dict[str, Any] | None:
    """What an earlier run left of a part; nothing if its settings, pictures or weights were others."""
    path = out / "parts" / part.file
    if not path.is_file():
        return None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    is_whole = all((out / picture["file"]).is_file() for picture in document.get("pictures", ()))
    return document if document["key"] == part.key and is_whole else None


def run(part: Part, tests: TestSet, settings: Settings, out: Path) -> None:
    """Do one part and keep it in the folder."""
    keep_freed_memory()
    torch.set_num_threads(1)  # what comes out does not depend on how many processes there are
    loaded = subjects.read(part.network)
    one = subjects.prepared(part.network, part.weights, loaded, tests, settings.seed, settings.device)
    if part.task == "facts":
        found = _facts(one, tests.labels if loaded.labels == tests.classes else None)
    elif part.task == "failures":
        few = one.first(settings.compared)
        found = {
            "alike": validation.failures(few, seed=settings.seed),
            "cascade": validation.cascade(few, seed=settings.seed),
        }
    elif part.task == "figures":
        found = {"pictures": _pictures(one, out)}
    else:
        asked = settings.asked if part.weights == TRAINED else settings.compared
        scored, bounds = validation.scores(one, part.task, asked=asked, steps=settings.steps, seed=settings.seed)
        found = {"scores": scored, "bounds": bounds}
    folder = out / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / part.file, json.dumps({"key": part.key} | _rounded(found)).encode())


def _pictures(one: Subject, out: Path) -> list[dict[str, str]]:
    found = []
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for stem, (picture, caption) in figures.figures(one).items():
        file = f"figures/{quote(one.name, safe='')}-{stem}.png"
        write_png(out / file, picture)
        found.append({"file": file, "caption": f"{one.name}. {caption}"})
    return found


def _facts(one: Subject, labels: Tensor | None) -> dict[str, Any]:
    """Which condition is without switches, the layers that are asked, and what each network gets wrong.

    Percent of the images: named wrongly, where it is known what is on them, and otherwise than by the net as it is.
    """
    own = one.units["class"].channels.cpu()
    named = {"as it is": own}
    if one.pooled is not None:
        named["after strides_to_pools"] = Cases(one.pooled, one.images).classes.cpu()

    def percent(wrong: Tensor) -> float:
        return 100 * float(wrong.double().mean())

    errors = {
        name: {"error": None if labels is None else percent(found != labels), "changed": percent(found != own)}
        for name, found in named.items()
    }
    return {"without": one.without, "layers": {"middle": one.middle, "last": one.last}, "errors": errors}


def _rounded(value: Any) -> Any:
    """To what is the same in each run on a machine; undefined scores as null, which JSON knows."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value


# The document


def results(
    documents: dict[Part, dict[str, Any]], tests: TestSet, settings: Settings, lacking: dict[str, str]
) -> dict[str, Any]:
    """The document of the whole study: verdicts of the trained networks, and every figure behind them."""
    held: dict[str, dict[str, dict[str, Any]]] = {}
    for part, document in documents.items():
        held.setdefault(part.network, {}).setdefault(part.weights, {})[part.task] = document
    return {
        "settings": asdict(settings),
        "data": {"source": tests.source, "digest": tests.digest},
        "margins": validation.MARGINS,
        "networks": {name: _network(tasks, settings) for name, tasks in held.items()},
        "pictures": [picture for tasks in held.values() for picture in tasks[TRAINED]["figures"]["pictures"]],
        "missing": lacking,
    }


def _network(tasks: dict[str, dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """What the scores of a network come to with each kind of weights; only trained ones are judged."""
    facts = tasks[TRAINED]["facts"]
    network: dict[str, Any] = {"verdict": {}, "without": facts["without"], "layers": facts["layers"]}
    for weights, documents in tasks.items():
        judged = validation.judged(
            {metric: documents[metric]["scores"] for metric in validation.MARGINS},
            facts["without"],
            resamples=settings.resamples,
            seed=settings.seed,
        )
        found = network[weights] = {
            "errors": documents["facts"]["errors"],
            "figures": [_plain(asdict(one)) | ({} if weights == TRAINED else {"verdict": None}) for one in judged],
            "bounds": [
                {"metric": metric, "unit": unit, "means": _intervals(rows, settings)}
                for metric in validation.MARGINS
                for unit, rows in documents[metric]["bounds"].items()
            ],
        }
        if weights == TRAINED:
            network["verdict"] = validation.verdicts(judged)
            found["failures"] = _failures(documents["failures"], settings)
    return network


def _failures(document: dict[str, Any], settings: Settings) -> dict[str, Any]:
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
    return _plain(asdict(mean_interval(validation.array(value), settings.resamples, settings.seed)))


def _plain(value: Any) -> Any:
    """Without the numbers that JSON does not know: the mean of nothing, an interval without end."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
