"""What the study runs and keeps as a whole: a task for one network with one kind of weights, done once."""

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
from attribkit.reference_models.provenance import digest_of_code
from attribkit.reference_models.switch_study import figures, subjects, validation
from attribkit.reference_models.switch_study.subjects import RANDOM_SHARE, Subject
from attribkit.reference_models.switch_study.testset import TestSet
from attribkit.report.pictures import write_png

TRAINED = "trained"
OF_TRAINED = ("failures", "figures")
TASKS = ("facts", *validation.MARGINS, *OF_TRAINED)

# The code that every part follows from, and what the figures follow from besides: in attribkit, and in this folder.
LIBRARY, STUDY = Path(attribkit.__file__).parent, Path(__file__).parent
SCORED_BY = (("engine", "metrics", "structure"), ("parts.py", "subjects.py", "testset.py", "validation.py"))
DRAWN_BY = (("explaining", "report/pictures.py"), ("figures.py",))


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
    """A task for one network with one kind of weights. The key is of all that its document follows from."""

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
    codes = {task: code_of(task) for task in TASKS}
    every = []
    for network in networks:
        asked = _digest_of_question(network, tests, settings)
        every += [
            Part(network, weights, task, hashlib.sha256(f"{asked} {codes[task]}".encode()).hexdigest()[:16])
            for weights in RANDOM_SHARE
            for task in TASKS
            if weights == TRAINED or task not in OF_TRAINED
        ]
    return every


def code_of(task: str) -> str:
    """A digest of the sources that the document of a task follows from."""
    followed = [SCORED_BY, DRAWN_BY] if task == "figures" else [SCORED_BY]
    digests = [digest_of_code(LIBRARY, library) + digest_of_code(STUDY, study) for library, study in followed]
    return " ".join(digests)


def _digest_of_question(network: str, tests: TestSet, settings: Settings) -> str:
    """Of what is asked: the network with its weights, the pictures, the settings, under these versions."""
    question = [network, asdict(settings), tests.digest, attribkit.__version__, torch.__version__]
    digest = hashlib.sha256(json.dumps(question).encode())
    for name, tensor in sorted(subjects.read(network).model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def missing(networks: Iterable[str]) -> dict[str, str]:
    """The networks that cannot be had with trained weights, and why."""
    reasons = {}
    for network in networks:
        try:
            subjects.read(network)
        except (WeightsError, OSError) as error:
            reasons[network] = " ".join(str(error).split())
    return reasons


def kept(part: Part, out: Path) -> dict[str, Any] | None:
    """What an earlier run left of a part; nothing if its settings, pictures, weights or code were others."""
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
    subject = subjects.prepared(part.network, part.weights, loaded, tests, settings.seed, settings.device)
    if part.task == "facts":
        document = _facts(subject, tests.labels if loaded.labels == tests.classes else None)
    elif part.task == "failures":
        document = _failures(subject.first(settings.compared), settings)
    elif part.task == "figures":
        document = {"pictures": _pictures(subject, out)}
    else:
        document = _scores(part, subject, settings)
    folder = out / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / part.file, json.dumps({"key": part.key} | _rounded(document)).encode())


def _scores(part: Part, subject: Subject, settings: Settings) -> dict[str, Any]:
    asked = settings.asked if part.weights == TRAINED else settings.compared
    scores, bounds = validation.scores(subject, part.task, asked=asked, steps=settings.steps, seed=settings.seed)
    return {"scores": scores, "bounds": bounds}


def _failures(subject: Subject, settings: Settings) -> dict[str, Any]:
    return {
        "alike": validation.failures(subject, seed=settings.seed),
        "cascade": validation.cascade(subject, seed=settings.seed),
    }


def _pictures(subject: Subject, out: Path) -> list[dict[str, str]]:
    (out / "figures").mkdir(parents=True, exist_ok=True)
    written = []
    for stem, (picture, caption) in figures.figures(subject).items():
        file = f"figures/{quote(subject.name, safe='')}-{stem}.png"
        write_png(out / file, picture)
        written.append({"file": file, "caption": f"{subject.name}. {caption}"})
    return written


def _facts(subject: Subject, labels: Tensor | None) -> dict[str, Any]:
    """Which condition is without switches, the layers that are asked, and what each network gets wrong.

    Percent of the images: those named wrongly, where it is known what is on them, and those named differently than by
    the net as it is.
    """
    own = subject.units["class"].channels.cpu()
    named = {"as it is": own}
    if subject.pooled is not None:
        named["after strides_to_pools"] = Cases(subject.pooled, subject.images).classes.cpu()

    def percent(wrong: Tensor) -> float:
        return 100 * float(wrong.double().mean())

    errors = {
        network: {"error": None if labels is None else percent(classes != labels), "changed": percent(classes != own)}
        for network, classes in named.items()
    }
    return {"without": subject.without, "layers": {"middle": subject.middle, "last": subject.last}, "errors": errors}


def _rounded(value: Any) -> Any:
    """To what is the same in each run on a machine; undefined scores as null, which JSON knows."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value
