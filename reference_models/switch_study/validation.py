"""Does guided backprop work without switches? The scores that docs/validation-design.md lays down.

A subject, a network with its images, is looked at in *conditions* (with switches, without) under each rule, and every
metric gives one score per image, or per pair of images. What is compared sees the same images and the same units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attribkit import Cases, evaluate, metrics
from attribkit.metrics.scoring import MapMaker
from attribkit.reference_models.switch_study.subjects import (
    AFTER,
    ANOTHERS,
    RANDOM_SHARE,
    WITH,
    ChosenUnits,
    Subject,
    maps_of,
    same_unit,
)

RULES = ("backprop", "deconvnet", "guided")

# By how much guided may lose.
MARGINS = {
    "source retrieval": 0.10,
    "source lead": 0.05,
    "image dependence": 0.10,
    "insertion - deletion": 0.05,
    "occlusion": 0.10,
    "grid": 0.05,
}
PRIMARY = ("source retrieval", "last")
"""The metric and the unit whose verdict is the network's; named before any figure was seen."""

OF_CLASS = ("insertion - deletion", "occlusion", "grid")
"""These run a network many times for each image, and are asked of classes only, with switches and without."""

LESS_ANOTHERS = ("insertion - deletion", "occlusion")
"""From these the score of another image's map is subtracted: a map may be right by being strong in the middle."""

TASKS: Mapping[str, tuple[str, ...]] = {
    "sources": ("source retrieval", "source lead"),
    **{metric: (metric,) for metric in ("image dependence", *OF_CLASS)},
}
"""What is run at once, and the metrics that come of it."""

DONOR = "donor retrieval"
FEWEST_ALIKE = 1e-5  # a lead below it is a tie; leads are kept to five digits
SHOWS_NOTHING = {"grid": 1 / 9}
"""What a map scores that is zero everywhere; in the other metrics 0."""


ByMaker = dict[str, list[float] | list[list[float]]]  # rule, or whatever else makes maps -> scores
Scored = dict[str, dict[str, ByMaker]]  # unit, condition -> scores
Zeros = dict[str, dict[str, dict[str, int]]]  # unit, condition, rule -> how many maps were zero everywhere

Mapper = Callable[[ChosenUnits, Tensor], Tensor]
Judge = Callable[[Mapper, list[Tensor]], dict[str, Tensor]]
"""Gives the scores of the maps that a mapper makes, by metric; and adds, of each, whether it is zero everywhere."""

FLOORS: dict[str, Mapper] = {
    "random map": lambda _, images: metrics.random_maps(images),
    "centred Gaussian": lambda _, images: metrics.centred_gaussian_maps(images),
}
"""Maps that know neither image nor network."""

BESIDE: dict[str, Mapper] = {"Sobel map": lambda _, images: metrics.sobel_maps(images)}


def floors_of(metric: str) -> tuple[str, ...]:
    """Name the floors that a rule has to be above. Noise is no floor where differing from image to image is asked."""
    return tuple(name for name in FLOORS if metric != "image dependence" or name != "random map")


@dataclass(frozen=True)
class Effort:
    """How many images are asked where that is dear, how many are paired, in how many steps pixels go in and out."""

    asked: int
    paired: int
    steps: int
    seed: int


def scores(
    subject: Subject, task: str, effort: Effort, pictures: Tensor | None = None
) -> tuple[dict[str, Scored], Zeros]:
    """Score every kind of unit, condition and rule; and, with switches, the maps that ask no network.

    Args:
        subject: The network and its images.
        task: One of `TASKS`.
        effort: How many images are asked.
        pictures: Those among which the source of a map is looked for, the subject's own first.

    Returns:
        The scores by metric, and how many maps were zero everywhere.
    """
    few = {"image dependence": effort.paired} | dict.fromkeys(OF_CLASS, effort.asked)
    subject = subject.first(few.get(task, len(subject.images)))
    candidates = None if pictures is None else metrics.Candidates.of(pictures)
    scored: dict[str, Scored] = {metric: {} for metric in TASKS[task]}
    zeros: Zeros = {}
    for kind in subject.units:
        if task in OF_CLASS and kind.removesuffix(AFTER) != "class":
            continue
        judges: dict[nn.Module, Judge] = {}
        for condition, (net, way) in conditions(subject, task).items():
            if net not in judges:
                judges[net] = _judge(task, subject, kind, net, effort, candidates)
            makers: dict[str, Mapper] = {rule: partial(maps_of, net, way, rule) for rule in RULES}
            if condition == WITH:
                makers |= FLOORS | BESIDE
            for name, mapper in makers.items():
                nothing: list[Tensor] = []
                for metric, values in judges[net](mapper, nothing).items():
                    scored[metric].setdefault(kind, {}).setdefault(condition, {})[name] = listed(values)
                if name in RULES:
                    count = sum(int(each.sum()) for each in nothing)
                    zeros.setdefault(kind, {}).setdefault(condition, {})[name] = count
    return scored, zeros


def listed(values: Tensor) -> list[float] | list[list[float]]:
    """One number per image; of pairs, the rows of a symmetrical matrix below its diagonal."""
    rows: list[Any] = values.tolist()
    return rows if values.dim() == 1 else [row[:index] for index, row in enumerate(rows)]


def conditions(subject: Subject, task: str) -> dict[str, tuple[nn.Module, str]]:
    """Those that a task is asked in: all of them where that is cheap, and weights are trained."""
    only_compared = task in OF_CLASS or RANDOM_SHARE[subject.weights] > 0
    compared = [WITH, *subject.compared]
    return {name: pair for name, pair in subject.conditions.items() if not only_compared or name in compared}


def _judge(
    task: str, subject: Subject, kind: str, net: nn.Module, effort: Effort, candidates: metrics.Candidates | None
) -> Judge:
    """Of one kind of unit; where pixels are put in and out, the response is that of the network that is explained."""
    if task == "sources":
        return partial(_sources, subject, kind, candidates or metrics.Candidates.of(subject.pictures))
    if task == "image dependence":
        return partial(_distances, subject, same_unit(subject, kind))
    cases = Cases(net, subject.images, subject.units[kind].channels, effort.steps, effort.seed)
    answerable = ~_evaluated(FLOORS["random map"], task, cases).isnan()
    return partial(_of_class, task, cases, answerable)


def _sources(
    subject: Subject, kind: str, candidates: metrics.Candidates, mapper: Mapper, nothing: list[Tensor]
) -> dict[str, Tensor]:
    lead = leads(subject, kind, candidates, torch.arange(len(subject.images)), mapper, nothing)
    return {"source retrieval": (lead > FEWEST_ALIKE).double(), "source lead": lead}


def leads(
    subject: Subject, kind: str, candidates: metrics.Candidates, sources: Tensor, mapper: Mapper, nothing: list[Tensor]
) -> Tensor:
    """How much better each map fits its source than the best other picture; 0 where it is zero everywhere."""
    maps = _noted(mapper, nothing)(subject.units[kind], subject.images)
    return metrics.source_leads(maps, candidates, sources)


def _distances(subject: Subject, units: ChosenUnits, mapper: Mapper, nothing: list[Tensor]) -> dict[str, Tensor]:
    """Of pairs; of one with a map that is zero everywhere 0."""
    maps = _noted(mapper, nothing)(units, subject.images)
    return {"image dependence": metrics.map_distances(maps).nan_to_num(0).cpu()}


def _of_class(task: str, cases: Cases, answerable: Tensor, mapper: Mapper, nothing: list[Tensor]) -> dict[str, Tensor]:
    """Undefined where even noise has no score: where the question has no answer. Else a score without is nothing's."""
    own = _evaluated(_noted(mapper, nothing), task, cases).nan_to_num(SHOWS_NOTHING.get(task, 0.0))
    if task in LESS_ANOTHERS:
        others = cases.images[another_of_the_same(cases.classes)]
        own = own - _evaluated(lambda units, _: mapper(units, others), task, cases).nan_to_num(0.0)
    return {task: torch.where(answerable, own, torch.nan)}


def _evaluated(mapper: Mapper, metric: str, cases: Cases) -> Tensor:
    """A mapper, asked for classes as `evaluate` asks."""
    method: MapMaker = lambda images, classes: mapper(ChosenUnits(None, classes), images)  # noqa: E731
    return evaluate(method, metric, cases)


def another_of_the_same(classes: Tensor) -> Tensor:
    """For each image the number of the next one of its class, round and round; of the next one, if there is none."""
    named = classes.tolist()
    count = len(named)
    nexts = []
    for index, own in enumerate(named):
        following = [(index + step) % count for step in range(1, count)]
        alike = (other for other in following if named[other] == own)
        nexts.append(next(alike, (index + 1) % count))
    return torch.tensor(nexts, device=classes.device)


def _noted(mapper: Mapper, nothing: list[Tensor]) -> Mapper:
    """The same, which notes of each map whether it is zero everywhere."""

    def made(units: ChosenUnits, images: Tensor) -> Tensor:
        maps = mapper(units, images)
        nothing.append(~maps.flatten(1).any(1).cpu())
        return maps

    return made


def donors(subject: Subject, pictures: Tensor) -> dict[str, ByMaker]:
    """Whether a map with another image's switches is found to come from that other image, by unit and rule."""
    if ANOTHERS not in subject.conditions:
        return {}
    net, way = subject.conditions[ANOTHERS]
    candidates = metrics.Candidates.of(pictures)
    sources = torch.arange(len(subject.images)).roll(1)
    found: dict[str, ByMaker] = {}
    for kind in subject.units:
        makers = {rule: partial(maps_of, net, way, rule) for rule in RULES}
        found[kind] = {
            rule: (leads(subject, kind, candidates, sources, mapper, []) > FEWEST_ALIKE).double().tolist()
            for rule, mapper in makers.items()
        }
    return found


def tasks_of(chosen: Iterable[str]) -> list[str]:
    """The tasks that metrics come of."""
    wanted = set(chosen)
    return [task for task, of_it in TASKS.items() if wanted & set(of_it)]
