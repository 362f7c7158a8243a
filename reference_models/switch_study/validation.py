"""Does guided backprop work without switches? The experiment that docs/validation.md lays down.

A subject, a network with its images, is looked at in *conditions* (with switches, without) under each rule, and every
metric gives one score an image. What is compared sees the same images and the same units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from attribkit import Cases, evaluate, metrics, rewrite
from attribkit.metrics.cases import batches
from attribkit.metrics.scoring import MapMaker
from attribkit.reference_models.switch_study.subjects import RANDOM_SHARE, WITH, Subject, Units, maps_of, same_unit
from attribkit.reference_models.switch_study.verdict import (
    Interval,
    Scores,
    Verdict,
    loss,
    mean_interval,
    verdict,
    worst,
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


Row = dict[str, list[float]]  # rule, or whatever else makes maps -> a score an image
Scored = dict[str, dict[str, Row]]  # unit, condition -> row


def scores(one: Subject, metric: str, *, asked: int, steps: int, seed: int) -> tuple[Scored, dict[str, Row]]:
    """A metric for every kind of unit, condition and rule; and its bounds: what maps get that ask no network.

    Metrics of logits see the first `asked` images only; they and random weights are asked with switches and without.
    """
    of_logits = metric in OF_LOGITS
    who = one.first(asked) if of_logits else one
    only_two = of_logits or RANDOM_SHARE[one.weights] > 0
    conditions = {key: pair for key, pair in one.conditions.items() if not only_two or key in (WITH, one.without)}
    found: Scored = {}
    bounds: dict[str, Row] = {}
    for kind in ("class",) if of_logits else who.units:
        judges = {net: _judge(metric, who, kind, net, steps, seed) for net, _ in conditions.values()}
        found[kind] = {
            condition: {rule: judges[net].score(partial(maps_of, net, way, rule)).tolist() for rule in RULES}
            for condition, (net, way) in conditions.items()
        }
        own = judges[one.net]
        mapped = {name: own.score(mapper) for name, mapper in (_BOUNDS | own.mappers).items()}
        bounds[kind] = {name: values.tolist() for name, values in (mapped | own.bounds()).items()}
    return found, bounds


Mapper = Callable[[Units, Tensor], Tensor]

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


def _judge(metric: str, one: Subject, kind: str, net: nn.Module, steps: int, seed: int) -> Judge:
    """Of one kind of unit; where pixels are put in and out, the response is that of the network that was explained."""
    if metric == "source retrieval":
        return Judge(partial(_retrieval, one, kind), {"the image itself": lambda _, images: images})
    if metric == "image dependence":
        return Judge(partial(_dependence, one, same_unit(one, kind)))
    cases = Cases(net, one.images, one.units[kind].channels, steps, seed)

    def score(mapper: Mapper) -> Tensor:
        return evaluate(_method(mapper), metric, cases)

    return Judge(score, bounds=partial(_ceiling, cases)) if metric == "occlusion" else Judge(score)


def _method(mapper: Mapper) -> MapMaker:
    """A mapper, asked for classes as `evaluate` asks."""
    return lambda images, classes: mapper(Units(None, classes), images)


def _retrieval(one: Subject, kind: str, mapper: Mapper) -> Tensor:
    groups = zip(_groups(mapper(one.units[kind], one.images)), _groups(one.pictures), strict=True)
    return torch.cat([metrics.found_sources(maps, pictures) for maps, pictures in groups]).double()


def _dependence(one: Subject, units: Units, mapper: Mapper) -> Tensor:
    return torch.cat([metrics.image_dependence(maps) for maps in _groups(mapper(units, one.images))])


def _groups(rows: Tensor) -> tuple[Tensor, ...]:
    """Groups of equal size, of a hundred or more; of all, where there are fewer than two hundred."""
    return rows.tensor_split(max(1, len(rows) // GROUP))


def _ceiling(cases: Cases) -> dict[str, Tensor]:
    (small, drops), (large, others) = cases.drops.items()
    return {"the other occluder": metrics.occlusion_ceiling(drops, small, others, large, cases.images)}


# ------------------------------------------------------------------------------------- what is known to go wrong


def failures(one: Subject, *, seed: int) -> dict[str, dict[str, Row]]:
    """Likeness of maps that ought to differ: those of two classes, and those of different start signals.

    By condition and rule, one number an image; near 1 the map does not depend on what is asked.
    """
    cases = Cases(one.net, one.images)
    found: dict[str, dict[str, Row]] = {"class sensitivity": {}, "signal convergence": {}}
    for condition, (net, way) in one.conditions.items():
        if condition not in (WITH, one.without):
            continue
        found["class sensitivity"][condition] = {
            rule: evaluate(_method(partial(maps_of, net, way, rule)), "class sensitivity", cases).tolist()
            for rule in RULES
        }
        found["signal convergence"][condition] = {
            rule: _convergence(net, way, rule, one, seed).tolist() for rule in RULES
        }
    return found


def _convergence(net: nn.Module, way: str, rule: str, one: Subject, seed: int) -> Tensor:
    rewritten = rewrite(net, rule, switches=way)
    forward = partial(rewritten.forward_to, one.last)
    return torch.cat(
        [
            metrics.signal_convergence(metrics.maps_of_random_signals(forward, one.images[part], SIGNALS, seed))
            for part in batches(one.images)
        ]
    )


def cascade(one: Subject, *, seed: int) -> list[tuple[str, Row, Row]]:
    """How like its own map each rule's map of the class stays while layers are made random, from the top down.

    For some layers, evenly chosen, the last one among them: rank similarity and SSIM by rule, of the network as it is.
    """
    units = one.units["class"]
    way = one.conditions[one.without][1]
    own = {rule: maps_of(one.net, way, rule, units, one.images) for rule in RULES}
    count = sum(1 for _ in metrics.cascade(one.net, seed))  # gone through twice, as copies of a network are large
    chosen = set(np.linspace(0, count - 1, min(CASCADE, count)).round().astype(int).tolist())
    found = []
    for index, (layer, net) in enumerate(metrics.cascade(one.net, seed)):
        if index not in chosen:
            continue
        pairs = {rule: (own[rule], maps_of(net, way, rule, units, one.images)) for rule in RULES}
        rank = {rule: metrics.rank_similarity(*pair).tolist() for rule, pair in pairs.items()}
        ssim = {rule: metrics.structural_similarity(*pair).tolist() for rule, pair in pairs.items()}
        found.append((layer, rank, ssim))
    return found


# ------------------------------------------------------------------------------------------------------ the verdict


@dataclass(frozen=True)
class Judged:
    """One metric of one kind of unit: means by condition and rule, what each rule loses, and the verdict."""

    metric: str
    unit: str
    means: Mapping[str, Mapping[str, Interval]]
    losses: Mapping[str, Interval]
    margin: float
    verdict: Verdict


def judged(scored: Mapping[str, Scored], without: str, *, resamples: int, seed: int) -> list[Judged]:
    """Intervals and verdicts from the scores of one subject, by metric."""
    found = []
    for metric, kinds in scored.items():
        for kind, cells in kinds.items():
            losses = {
                rule: loss(array(cells[WITH][rule]), array(cells[without][rule]), resamples, seed) for rule in RULES
            }
            means = {
                condition: {rule: mean_interval(array(row[rule]), resamples, seed) for rule in RULES}
                for condition, row in cells.items()
            }
            margin = MARGINS[metric]
            found.append(
                Judged(metric, kind, means, losses, margin, verdict(losses["guided"], losses["deconvnet"], margin))
            )
    return found


def verdicts(found: list[Judged]) -> dict[str, Verdict]:
    """One for each metric: the worst over its kinds of unit."""
    return {metric: worst(one.verdict for one in found if one.metric == metric) for metric in MARGINS}


def array(values: list[float]) -> Scores:
    """Scores as numbers; null, as JSON has it, is undefined."""
    return np.asarray(values, dtype=np.float64)
