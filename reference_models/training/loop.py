"""Training a reference model: one loop, stopped and resumed at any epoch, the same weights either way.

What is random in an epoch (order, shifts, dropout) comes from the seed and the epoch's number alone, so that
a run that was killed goes on from its last checkpoint to the very weights of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from attribkit.errors import AttribkitError, BadValue
from attribkit.reference_models.architectures import architecture, build, takes
from attribkit.reference_models.data import Data
from attribkit.reference_models.normalisation import Normalisation, fit
from attribkit.reference_models.process import keep_freed_memory
from attribkit.reference_models.trained import Trained, bundled, load, save
from attribkit.reference_models.training import run
from attribkit.reference_models.training.batches import Loader
from attribkit.reference_models.training.muon import Muon
from attribkit.reference_models.training.recipes import Recipe
from attribkit.reference_models.training.workers import Workers
from attribkit.structure.folding import fold_batch_norm

_ATTEMPTS = 4  # the first, and three with another seed
_DEAD_AFTER, _STUCK_AFTER = 3, 10  # epochs
_EVALUATION_BATCH = 500

Metrics = dict[str, Any]
OnStep = Callable[[int], None]  # gets how many images were trained on


class DeadRun(AttribkitError, RuntimeError):
    """Every attempt stopped learning."""


@dataclass(frozen=True)
class Job:
    """What is to be trained."""

    model: str
    recipe: Recipe
    seed: int
    data: Data
    device: torch.device
    keep: frozenset[int] = frozenset()
    workers: Workers = field(default_factory=Workers)

    @property
    def description(self) -> dict[str, Any]:
        """What run.json says."""
        return {
            "model": self.model,
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "data": {"source": self.data.source, "digest": self.data.digest, "classes": list(self.data.classes)},
            **run.surroundings(),
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else self.device.type,
            "workers": self.workers.count,
        }

    def check(self) -> None:
        """Raise a `ValueError` for what cannot be trained, before anything is written."""
        side = self.data.train.images.shape[1]
        smallest = architecture(self.model).side
        if side < smallest:
            raise BadValue(f"{self.model} needs images of at least {smallest} pixels, these have {side}")
        if self.recipe.batch % self.workers.count:
            raise BadValue(f"a batch of {self.recipe.batch} cannot be shared among {self.workers.count} processes")
        if self.recipe.start is not None:
            _start(self.model, self.recipe.start, len(self.data.classes))
        if self.recipe.batch_norm and self.workers.count > 1 and self.device.type == "cpu":
            raise BadValue("batch norm over several processes needs GPUs: use --recipe paper, or one process")


def suited(recipe: Recipe, model: str, data: Data) -> Recipe:
    """The recipe, with whole images throughout where the network is too large for pieces of them."""
    sides = [round(recipe.piece * side) for side in data.train.images.shape[1:3]]
    return recipe if takes(model, *sides) else replace(recipe, piece=1.0)


@dataclass
class State:
    """How far a run is."""

    net: nn.Module
    optimiser: Optimizer
    epoch: int = 0
    attempt: int = 0
    metrics: list[Metrics] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "attempt": self.attempt,
            "metrics": self.metrics,
        }


def train(job: Job, folder: Path, on_step: OnStep = lambda images: None) -> Iterator[Metrics]:
    """Train, giving each epoch's metrics; the folder is `run.opened`. Ends with the trained file in it."""
    keep_freed_memory()
    state = _resumed(job, folder) or _fresh(job)
    if state.epoch == job.recipe.epochs and _trained_file(job, folder).is_file():
        return
    normalisation = fit(job.data.train.images, whiten=job.recipe.whiten)
    train_set = Loader.of(job.data.train, normalisation, job.recipe, job.device)
    test_set = Loader.of(job.data.test, normalisation, job.recipe, job.device)
    while state.epoch < job.recipe.epochs:
        metrics = _trained_epoch(job, state, train_set, on_step)
        named = named_classes(state.net, test_set, job.recipe)
        metrics |= {"test_error": _percent_wrong(named, test_set.labels), "named": len(named.unique())}
        state.epoch += 1
        state.metrics.append(metrics)
        if _is_dead(metrics, len(job.data.classes)):
            metrics["dead"] = True
            state = _reseeded(job, state)
        elif job.workers.first:
            if state.epoch in job.keep:
                save(folder / f"epoch-{state.epoch:03}.safetensors", _result(job, state, normalisation, folder))
            run.save_checkpoint(folder, state.to_dict())
        yield metrics
    if job.workers.first:
        _finish(job, state, normalisation, folder)


def _fresh(job: Job, attempt: int = 0) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(_seed(job, attempt, epoch=0))
        net = build(job.model, len(job.data.classes), training=job.recipe.training)
    if job.recipe.start is not None:
        net.load_state_dict(_start(job.model, job.recipe.start, len(job.data.classes)))
    net = net.to(job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return State(net, _optimiser(net, job.recipe), attempt=attempt)


def _start(model: str, name: str, classes: int) -> dict[str, Tensor]:
    """The weights to begin with, where they fit."""
    path = bundled(name)
    if path is None:
        raise BadValue(
            f"the recipe begins with the weights of {name}, and none come with attribkit: choose another recipe"
        )
    weights = load(path).net.state_dict()
    wanted = build(model, classes).state_dict()
    if {key: tensor.shape for key, tensor in weights.items()} != {key: tensor.shape for key, tensor in wanted.items()}:
        raise BadValue(f"the recipe begins with the weights of {name}, which do not fit {model} of {classes} classes")
    return weights


def _optimiser(net: nn.Module, recipe: Recipe) -> Optimizer:
    """Weights in the first group, and biases, scales and shifts in the second."""
    weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in net.parameters() if parameter.ndim == 1]
    other_rate = recipe.rate if recipe.other_rate is None else recipe.other_rate
    groups: list[dict[str, Any]] = [
        {"params": weights, "lr": recipe.rate, "full_rate": recipe.rate, "momentum": recipe.momentum},
        {"params": others, "lr": other_rate, "full_rate": other_rate, "momentum": recipe.momentum},
    ]
    if recipe.optimiser == "muon":
        groups[0]["orthogonal"] = True
        return Muon(groups)
    groups[0]["weight_decay"] = recipe.weight_decay
    return SGD(groups, nesterov=recipe.nesterov, momentum=recipe.momentum)


def _resumed(job: Job, folder: Path) -> State | None:
    stored = run.load_checkpoint(folder, job.device)
    if stored is None:
        return None
    state = _fresh(job, stored["attempt"])
    state.net.load_state_dict(stored["net"])
    state.optimiser.load_state_dict(stored["optimiser"])
    state.epoch, state.metrics = stored["epoch"], stored["metrics"]
    return state


def _trained_epoch(job: Job, state: State, loader: Loader, on_step: OnStep) -> Metrics:
    recipe, workers = job.recipe, job.workers
    piece = recipe.seen(state.epoch / recipe.epochs)
    seed = _seed(job, state.attempt, state.epoch + 1)
    generator = torch.Generator().manual_seed(seed)
    steps, total = loader.steps(recipe.batch), torch.zeros((), device=job.device)
    net = workers.wrapped(state.net.train())
    start = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(seed + workers.rank)  # dropout
        for step, (images, labels) in enumerate(loader.epoch(recipe.batch, generator, piece)):
            slowed = recipe.slowed((state.epoch + (step + 0.5) / steps) / recipe.epochs)
            for group in state.optimiser.param_groups:
                group["lr"] = group["full_rate"] * slowed
            loss = _loss(net, workers.share(images), workers.share(labels), recipe)
            state.optimiser.zero_grad()
            loss.backward()
            state.optimiser.step()
            total += loss.detach()
            on_step(len(images))
    seconds = time.perf_counter() - start
    return {
        "epoch": state.epoch + 1,
        "attempt": state.attempt,
        "loss": float(workers.mean(total / steps)),
        "rate": round(steps * min(recipe.batch, len(loader.labels)) / seconds, 1),
        "seconds": round(seconds, 2),
    }


def _loss(net: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    with _autocast(images, recipe):
        logits = net(images)
    return F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)


def _autocast(images: Tensor, recipe: Recipe) -> torch.autocast:
    return torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")


def error(net: nn.Module, loader: Loader, recipe: Recipe) -> float:
    """The share of the loader's images that `net` names wrongly, in percent."""
    return _percent_wrong(named_classes(net, loader, recipe), loader.labels)


@torch.no_grad()
def named_classes(net: nn.Module, loader: Loader, recipe: Recipe) -> Tensor:
    """What `net` says of each of the loader's images."""
    net.eval()
    margin = loader.shift
    height, width = loader.images.shape[1:3]
    inner = loader.images[:, margin : height - margin, margin : width - margin].permute(0, 3, 1, 2)
    named = []
    for images in inner.split(_EVALUATION_BATCH):
        with _autocast(images, recipe):
            named.append(net(images).argmax(1))
    return torch.cat(named)


def _percent_wrong(named: Tensor, labels: Tensor) -> float:
    return 100 * int((named != labels).sum()) / len(labels)


def _is_dead(metrics: Metrics, classes: int) -> bool:
    """Not a number; after three epochs, still what logits that are all zero give; after ten, half the classes dead."""
    loss, epoch = metrics["loss"], metrics["epoch"]
    silent = epoch >= _DEAD_AFTER and abs(loss - math.log(classes)) < 1e-3
    return not math.isfinite(loss) or silent or (epoch >= _STUCK_AFTER and 2 * metrics["named"] < classes)


def _reseeded(job: Job, state: State) -> State:
    if state.attempt + 1 == _ATTEMPTS:
        raise DeadRun(f"{job.model} stopped learning with {_ATTEMPTS} seeds: try a smaller rate or another recipe")
    fresh = _fresh(job, state.attempt + 1)
    fresh.metrics = state.metrics
    return fresh


def _seed(job: Job, attempt: int, epoch: int) -> int:
    """Another number for each of the three; workers add their rank to it."""
    return ((job.seed * _ATTEMPTS + attempt) * 100_003 + epoch) * 1_009


def _result(job: Job, state: State, normalisation: Normalisation, folder: Path) -> Trained:
    """The network with its batch norms folded away: the layers that the paper has."""
    net = build(job.model, len(job.data.classes))
    trained = fold_batch_norm(state.net) if job.recipe.batch_norm else state.net
    net.load_state_dict(trained.state_dict())
    return Trained(net.eval(), normalisation, _facts(job, state, folder))


def _facts(job: Job, state: State, folder: Path) -> dict[str, Any]:
    """How it came about; the commit is that of the start, whatever is committed while it trains."""
    return {
        "architecture": job.model,
        "channels": 3,
        "classes": list(job.data.classes),
        "side": int(job.data.train.images.shape[1]),
        "epochs": state.epoch,
        "attempt": state.attempt,
        "minutes": round(sum(metrics["seconds"] for metrics in state.metrics) / 60, 1),
        **{key: value for key, value in run.described(folder).items() if key != "model"},
    }


def _trained_file(job: Job, folder: Path) -> Path:
    return folder / f"{job.model}.safetensors"


def _finish(job: Job, state: State, normalisation: Normalisation, folder: Path) -> None:
    """Write the trained file: as float16 if that names as many images rightly, and the error of each."""
    result = _result(job, state, normalisation, folder)
    plain = Recipe("", epochs=1)
    test_set = Loader.of(job.data.test, normalisation, plain, torch.device("cpu"))
    exact = error(result.net, test_set, plain)
    halved = build(job.model, len(job.data.classes))
    halved.load_state_dict({name: tensor.half().float() for name, tensor in result.net.state_dict().items()})
    rounded = error(halved, test_set, plain)
    dtype = torch.float16 if abs(rounded - exact) <= 0.05 else torch.float32
    facts = {
        **result.facts,
        "trained_error": state.metrics[-1]["test_error"],
        "error": rounded if dtype == torch.float16 else exact,
        "error_float32": exact,
    }
    save(_trained_file(job, folder), Trained(result.net, normalisation, facts), dtype)
