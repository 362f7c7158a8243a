"""Does guided backprop work without switches? The experiment that docs/validation-design.md lays down.

A subject, a network with its images, is looked at in *conditions* (with switches, without) under each rule, and every
metric gives one score per image. What is compared sees the same images and the same units.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from attribkit import Cases, evaluate, metrics, rewrite
from attribkit.metrics.cases import batches
from attribkit.metrics.scoring import MapMaker
from attribkit.reference_models.switch_study.subjects import (
    RANDOM_SHARE,
    WITH,
    ChosenUnits,
    Subject,
    maps_of,
    same_unit,
)

RULES = ("backprop", "deconvnet", "guided")
GROUP = 100  # images among which a map's source is looked for
SIGNALS = 4
CASCADE = 10  # stages at most

# By how much guided may lose.
MARGINS = {
    "source retrieval": 0.10,
    "image dependence": 0.10,
    "insertion - deletion": 0.05,
    "occlusion": 0.10,
    "grid": 0.05,
}
OF_LOGITS = ("insertion - deletion", "occlusion", "grid")
"""These run a network many times for each image, and are asked of class scores only, with switches and without."""


# ------------------------------------------------------------------------------------------------------- the scores


ByMapper = dict[str, list[float]]  # rule, or whatever else makes maps -> one score per image
Scored = dict[str, dict[str, ByMapper]]  # unit, condition -> scores


def scores(subject: Subject, metric: str, *, asked: int, steps: int, seed: int) -> tuple[Scored, dict[str, ByMapper]]:
    """A metric for every kind of unit, condition and rule; and its bounds: what maps get that ask no network.

    Metrics of logits see the first `asked` images only; they and random weights are asked with switches and without.
    """
    of_logits = metric in OF_LOGITS
    if of_logits:
        subject = subject.first(asked)
    only_two = of_logits or RANDOM_SHARE[subject.weights] > 0
    conditions = {
        name: pair for name, pair in subject.conditions.items() if not only_two or name in (WITH, subject.without)
    }
    scored: Scored = {}
    bounds: dict[str, ByMapper] = {}
    for kind in ("class",) if of_logits else subject.units:
        judges = {net: _judge(metric, subject, kind, net, steps, seed) for net, _ in conditions.values()}
        scored[kind] = {
            condition: {rule: judges[net].score(partial(maps_of, net, way, rule)).tolist() for rule in RULES}
            for condition, (net, way) in conditions.items()
        }
        own = judges[subject.net]
        mapped = {name: own.score(mapper) for name, mapper in (_BOUNDS | own.mappers).items()}
        bounds[kind] = {name: values.tolist() for name, values in (mapped | own.bounds()).items()}
    return scored, bounds


Mapper = Callable[[ChosenUnits, Tensor], Tensor]

_BOUNDS: dict[str, Mapper] = {
    "Sobel map": lambda _, images: metrics.sobel_maps(images),
    "random map": lambda _, images: metrics.random_maps(images),
    "centred Gaussian": lambda _, images: metrics.centred_gaussian_maps(images),
}


class Judge(NamedTuple):
    """Scores the maps that a mapper makes; with bounds of its own: other mappers, or scores."""

    score: Callable[[Mapper], Tensor]
    mappers: dict[str, Mapper] = {}  # noqa: RUF012  # never written to
    bounds: Callable[[], dict[str, Tensor]] = dict


def _judge(metric: str, subject: Subject, kind: str, net: nn.Module, steps: int, seed: int) -> Judge:
    """Of one kind of unit; where pixels are put in and out, the response is that of the network that was explained."""
    if metric == "source retrieval":
        return Judge(partial(_retrieval, subject, kind), {"the image itself": lambda _, images: images})
    if metric == "image dependence":
        return Judge(partial(_dependence, subject, same_unit(subject, kind)))
    cases = Cases(net, subject.images, subject.units[kind].channels, steps, seed)

    def score(mapper: Mapper) -> Tensor:
        return evaluate(_method(mapper), metric, cases)

    return Judge(score, bounds=partial(_ceiling, cases)) if metric == "occlusion" else Judge(score)


def _method(mapper: Mapper) -> MapMaker:
    """A mapper, asked for classes as `evaluate` asks."""
    return lambda images, classes: mapper(ChosenUnits(None, classes), images)


def _retrieval(subject: Subject, kind: str, mapper: Mapper) -> Tensor:
    groups = zip(_groups(mapper(subject.units[kind], subject.images)), _groups(subject.pictures), strict=True)
    return torch.cat([metrics.found_sources(maps, pictures) for maps, pictures in groups]).double()


def _dependence(subject: Subject, units: ChosenUnits, mapper: Mapper) -> Tensor:
    return torch.cat([metrics.image_dependence(maps) for maps in _groups(mapper(units, subject.images))])


def _groups(rows: Tensor) -> tuple[Tensor, ...]:
    """Groups of equal size, of a hundred or more; of all, where there are fewer than two hundred."""
    return rows.tensor_split(max(1, len(rows) // GROUP))


def _ceiling(cases: Cases) -> dict[str, Tensor]:
    (small, drops), (large, others) = cases.drops.items()
    return {"the other occluder": metrics.occlusion_ceiling(drops, small, others, large, cases.images)}


# ------------------------------------------------------------------------------------- what is known to go wrong


def failures(subject: Subject, *, seed: int) -> dict[str, dict[str, ByMapper]]:
    """Likeness of maps that ought to differ: those of two classes, and those of different start signals.

    By condition and rule, one number per image; near 1 the map does not depend on what is asked.
    """
    cases = Cases(subject.net, subject.images)
    alike: dict[str, dict[str, ByMapper]] = {"class sensitivity": {}, "signal convergence": {}}
    for condition, (net, way) in subject.conditions.items():
        if condition not in (WITH, subject.without):
            continue
        alike["class sensitivity"][condition] = {
            rule: evaluate(_method(partial(maps_of, net, way, rule)), "class sensitivity", cases).tolist()
            for rule in RULES
        }
        alike["signal convergence"][condition] = {
            rule: _convergence(net, way, rule, subject, seed).tolist() for rule in RULES
        }
    return alike


def _convergence(net: nn.Module, way: str, rule: str, subject: Subject, seed: int) -> Tensor:
    rewritten = rewrite(net, rule, switches=way)
    forward = partial(rewritten.forward_to, subject.last)
    return torch.cat(
        [
            metrics.signal_convergence(metrics.maps_of_random_signals(forward, subject.images[part], SIGNALS, seed))
            for part in batches(subject.images)
        ]
    )


def cascade(subject: Subject, *, seed: int) -> list[tuple[str, ByMapper, ByMapper]]:
    """How like its own map each rule's map of the class stays while layers are made random, from the top down.

    For some layers, evenly chosen, the last one among them: rank similarity and SSIM by rule, of the network as it is.
    """
    units = subject.units["class"]
    way = subject.conditions[subject.without][1]
    own = {rule: maps_of(subject.net, way, rule, units, subject.images) for rule in RULES}
    count = sum(1 for _ in metrics.cascade(subject.net, seed))  # gone through twice, as copies of a network are large
    chosen = set(np.linspace(0, count - 1, min(CASCADE, count)).round().astype(int).tolist())
    stages = []
    for index, (layer, net) in enumerate(metrics.cascade(subject.net, seed)):
        if index not in chosen:
            continue
        pairs = {rule: (own[rule], maps_of(net, way, rule, units, subject.images)) for rule in RULES}
        rank = {rule: metrics.rank_similarity(*pair).tolist() for rule, pair in pairs.items()}
        ssim = {rule: metrics.structural_similarity(*pair).tolist() for rule, pair in pairs.items()}
        stages.append((layer, rank, ssim))
    return stages
