"""What the study runs and keeps as a whole: a task for one network with one kind of weights, done once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

import attribkit
from attribkit import Cases
from attribkit.adapters.weights import WeightsError
from attribkit.files import write_whole
from attribkit.identity import digest_of_code
from attribkit.reference_models.process import keep_freed_memory
from attribkit.reference_models.switch_study import beside, eye, failures, figures, subjects, validation
from attribkit.reference_models.switch_study.intervals import Resampling
from attribkit.reference_models.switch_study.subjects import RANDOM_SHARE, Subject
from attribkit.reference_models.switch_study.testset import TestSet
from attribkit.report.pictures import write_png

TRAINED, UNTRAINED = "trained", "untrained"
BESIDE = ("beside", "strides", "failures", "figures")
ASKED_OF = {"beside": (TRAINED, UNTRAINED)} | dict.fromkeys(BESIDE[1:], (TRAINED,))
"""What gets no verdict, and of which weights it is asked."""

# The code that every part follows from, and what the figures follow from besides: in attribkit, and in this folder.
LIBRARY, STUDY = Path(attribkit.__file__).parent, Path(__file__).parent
SCORED_BY = (
    ("engine", "metrics", "structure"),
    ("parts.py", "subjects.py", "testset.py", "validation.py", "failures.py", "beside.py", "eye.py"),
)
DRAWN_BY = (("explaining", "report/pictures.py"), ("figures.py",))


@dataclass(frozen=True)
class Settings:
    """How many images are asked, and how thoroughly.

    `images` see what is cheap, and `asked` of them what runs the network often; `paired` are compared with each other,
    and `compared` are what gets no verdict. A map's source is looked for among `candidates`. The eye learns from
    `learnt` images.
    """

    images: int
    asked: int
    paired: int
    compared: int
    candidates: int
    learnt: int
    steps: int
    resamples: int
    seed: int = 0
    device: str = "cpu"

    @property
    def resampling(self) -> Resampling:
        return Resampling(self.resamples, self.seed)


FULL = Settings(
    images=500, asked=100, paired=200, compared=50, candidates=10_000, learnt=50_000, steps=8, resamples=2000
)
QUICK = Settings(images=20, asked=6, paired=12, compared=4, candidates=1000, learnt=2000, steps=4, resamples=500)
EPOCHS = 6  # of the eye; twice as many of few images
PHOTOGRAPHS = 1000  # at most, of a set that is not labelled: all that a folder has, in full


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


def parts(
    networks: Sequence[str], tests: TestSet, settings: Settings, metrics: Iterable[str] = validation.MARGINS
) -> list[Part]:
    """Every task for every network with every kind of weights. The pictures are those drawn."""
    tasks = ("facts", *validation.tasks_of(metrics), *BESIDE)
    codes = {task: code_of(task) for task in tasks}
    every = []
    for network in networks:
        asked = _digest_of_question(network, tests, settings)
        every += [
            Part(network, weights, task, hashlib.sha256(f"{asked} {codes[task]}".encode()).hexdigest()[:16])
            for weights in RANDOM_SHARE
            for task in tasks
            if weights in ASKED_OF.get(task, RANDOM_SHARE)
        ]
    return every


def code_of(task: str) -> str:
    """A digest of the sources that the document of a task follows from."""
    followed = [SCORED_BY, DRAWN_BY] if task == "figures" else [SCORED_BY]
    digests = [digest_of_code(LIBRARY, library) + digest_of_code(STUDY, study) for library, study in followed]
    return " ".join(digests)


def _digest_of_question(network: str, tests: TestSet, settings: Settings) -> str:
    """Of what is asked: the network with its weights, the pictures, the settings, under these versions."""
    asked = {key: value for key, value in asdict(settings).items() if key != "resamples"}
    question = [network, asked, tests.digest, attribkit.__version__, torch.__version__]
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


def prepare_eye(tests: TestSet, settings: Settings, out: Path) -> None:
    """Teach an eye, where there is something to learn from; one that is there already is kept."""
    if tests.train is not None:
        epochs = EPOCHS if settings.learnt > QUICK.learnt else 2 * EPOCHS
        classes = len(tests.classes)
        eye.prepared(out, tests.train, classes, images=settings.learnt, epochs=epochs, seed=settings.seed)


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
    labels = tests.labels if loaded.labels == tests.classes else None
    if part.task == "facts":
        document = _facts(subject, labels)
    elif part.task == "failures":
        document = _failures(subject.first(settings.compared), settings)
    elif part.task == "figures":
        everything = subject
        if tests.rivals:
            whole = replace(tests, pictures=tests.pictures + tests.rivals, rivals=())
            everything = subjects.prepared(part.network, part.weights, loaded, whole, settings.seed, settings.device)
        document = {"pictures": _pictures(subject, labels, everything, out)}
    else:
        document = _measured(part, subject, partial(subjects.candidates, loaded, tests, subject), settings, out, labels)
    folder = out / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / part.file, json.dumps({"key": part.key} | _rounded(document)).encode())


def _measured(
    part: Part, subject: Subject, candidates: Callable[[], Tensor], settings: Settings, out: Path, labels: Tensor | None
) -> dict[str, Any]:
    if part.task == "strides":
        return {"steps": beside.one_after_another(subject, candidates(), settings.compared)}
    if part.task == "beside":
        return beside.beside(subject, candidates(), None if labels is None else out, labels)
    return _scores(part, subject, settings, candidates() if part.task == "sources" else None)


def _scores(part: Part, subject: Subject, settings: Settings, candidates: Tensor | None) -> dict[str, Any]:
    asked = settings.asked if part.weights == TRAINED else settings.compared
    effort = validation.Effort(asked, settings.paired, settings.steps, settings.seed)
    scores, zeros = validation.scores(subject, part.task, effort, candidates)
    return {"scores": scores, "zeros": zeros}


def _failures(subject: Subject, settings: Settings) -> dict[str, Any]:
    return {
        "alike": failures.failures(subject, seed=settings.seed),
        "cascade": failures.cascade(subject, seed=settings.seed),
    }


def _pictures(subject: Subject, labels: Tensor | None, everything: Subject, out: Path) -> list[dict[str, str]]:
    (out / "figures").mkdir(parents=True, exist_ok=True)
    written = []
    for stem, (picture, caption) in figures.figures(subject, labels, everything).items():
        file = f"figures/{quote(subject.name, safe='')}-{stem}.png"
        write_png(out / file, picture)
        written.append({"file": file, "caption": f"{subject.name}. {caption}"})
    return written


def _errors(subject: Subject, labels: Tensor | None) -> dict[str, dict[str, float | None]]:
    own = Cases(subject.net, subject.images).classes.cpu()
    named = {"as it is": own}
    if subject.pooled is not None:
        named["after strides_to_pools"] = Cases(subject.pooled, subject.images).classes.cpu()

    def percent(wrong: Tensor) -> float:
        return 100 * float(wrong.double().mean())

    return {
        network: {"error": None if labels is None else percent(classes != labels), "changed": percent(classes != own)}
        for network, classes in named.items()
    }


def _facts(subject: Subject, labels: Tensor | None) -> dict[str, Any]:
    """Which condition is without switches, the layers that are asked, and what each network gets wrong.

    Percent of the images: those named wrongly, where it is known what is on them, and those named differently than by
    the net as it is.
    """
    errors = _errors(subject, labels)
    renamed = max(each["changed"] or 0.0 for each in errors.values())
    return {
        "compared": subject.compared,
        "layers": {"middle": subject.middle, "last": subject.last},
        "images": len(subject.images),
        "errors": errors,
        "renamed": renamed,
    }


def _rounded(value: Any) -> Any:
    """To what is the same in each run on a machine; undefined scores as null, which JSON knows."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value
