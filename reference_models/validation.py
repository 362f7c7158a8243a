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

from attribkit import evaluation, rewrite
from attribkit.reference_models.subjects import WITH, Subject, Units, batches, maps_of, outputs, same_unit
from attribkit.reference_models.verdict import Interval, Scores, Verdict, loss, mean_interval, verdict, worst

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

    Metrics of logits see the first `asked` images only.
    """
    of_logits = metric in OF_LOGITS
    who = one.first(asked) if of_logits else one
    conditions = {key: pair for key, pair in one.conditions.items() if not of_logits or key in (WITH, one.without)}
    found: Scored = {}
    bounds: dict[str, Row] = {}
    for kind in ("class",) if of_logits else who.units:
        nets = dict.fromkeys(net for net, _ in conditions.values())
        judges = {net: _JUDGES[metric](who, kind, net, steps, seed) for net in nets}
        found[kind] = {
            condition: {rule: judges[net].judge(partial(maps_of, net, way, rule)).tolist() for rule in RULES}
            for condition, (net, way) in conditions.items()
        }
        own = judges[one.net]
        mapped = {name: own.judge(mapper) for name, mapper in (_BOUNDS | own.mappers).items()}
        bounds[kind] = {name: values.tolist() for name, values in (mapped | own.bounds).items()}
    return found, bounds


Mapper = Callable[[Units, Tensor], Tensor]


class Judge(NamedTuple):
    """Scores the maps that a mapper makes; with bounds of its own: other mappers, or scores."""

    judge: Callable[[Mapper], Tensor]
    mappers: dict[str, Mapper] = {}  # noqa: RUF012  # never written to
    bounds: dict[str, Tensor] = {}  # noqa: RUF012


_BOUNDS: dict[str, Mapper] = {
    "Sobel map": lambda _, images: evaluation.sobel_maps(images),
    "random map": lambda _, images: evaluation.random_maps(images),
    "centred Gaussian": lambda _, images: evaluation.centred_gaussian_maps(images),
}


def _retrieval(one: Subject, kind: str, net: nn.Module, steps: int, seed: int) -> Judge:
    def judge(mapper: Mapper) -> Tensor:
        maps = mapper(one.units[kind], one.images)
        groups = zip(_groups(maps), _groups(one.pictures), strict=True)
        return torch.cat([evaluation.found_sources(some, pictures) for some, pictures in groups]).double()

    return Judge(judge, {"the image itself": lambda _, images: images})


def _groups(rows: Tensor) -> tuple[Tensor, ...]:
    """Groups of equal size, of a hundred or more; of all, where there are fewer than two hundred."""
    return rows.tensor_split(max(1, len(rows) // GROUP))


def _dependence(one: Subject, kind: str, net: nn.Module, steps: int, seed: int) -> Judge:
    units = same_unit(one, kind)
    return Judge(
        lambda mapper: torch.cat([evaluation.image_dependence(some) for some in _groups(mapper(units, one.images))])
    )


def _insertion(one: Subject, kind: str, net: nn.Module, steps: int, seed: int) -> Judge:
    """Put in and taken out by the map; the response is that of the network that was explained."""
    responds = _responds(net, one.units[kind])

    def judge(mapper: Mapper) -> Tensor:
        maps = mapper(one.units[kind], one.images)
        gains = [
            evaluation.insertion(responds, one.images, maps, fill=fill, steps=steps, seed=seed)
            - evaluation.deletion(responds, one.images, maps, fill=fill, steps=steps, seed=seed)
            for fill in ("zero", "blur")
        ]
        return torch.stack(gains).mean(0)

    return Judge(judge)


def _occlusion(one: Subject, kind: str, net: nn.Module, steps: int, seed: int) -> Judge:
    """Squares of two and of three eighths of the side, moved by one."""
    responds = _responds(net, one.units[kind])
    eighth = one.images.shape[-1] // 8
    drops = {
        size: evaluation.occlusion_drops(responds, one.images, size, stride=eighth) for size in (2 * eighth, 3 * eighth)
    }

    def judge(mapper: Mapper) -> Tensor:
        maps = mapper(one.units[kind], one.images)
        agreements = [evaluation.occlusion_agreement(maps, drop, size) for size, drop in drops.items()]
        return torch.stack(agreements).mean(0)

    (small, drop), (large, other) = drops.items()
    return Judge(
        judge, bounds={"the other occluder": evaluation.occlusion_ceiling(drop, small, other, large, one.images)}
    )


def _grid(one: Subject, kind: str, net: nn.Module, steps: int, seed: int) -> Judge:
    """Each image in a mosaic with eight others that are taken for other classes, in a cell drawn for it.

    Undefined where there are no such eight, as with an untrained network that takes all images for the same.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = one.units[kind].channels
    cells = torch.randint(9, (len(classes),), generator=generator)
    mosaics: dict[int, list[int]] = {}
    for index, cell in enumerate(cells.tolist()):
        others = (classes != classes[index]).nonzero()[:, 0]
        if len(others) >= 8:
            drawn = others[torch.randperm(len(others), generator=generator)[:8]].tolist()
            mosaics[index] = [*drawn[:cell], index, *drawn[cell:]]

    def judge(mapper: Mapper) -> Tensor:
        found = torch.full((len(classes),), torch.nan, dtype=torch.float64)
        indices = torch.tensor(list(mosaics), dtype=torch.long)
        together = torch.tensor(list(mosaics.values()), dtype=torch.long)
        for part in batches(one.images[indices], pixels=500_000 // 9):
            images = evaluation.mosaics(one.images[together[part]])
            some = indices[part]
            maps = mapper(Units(None, classes[some]), images)
            found[some] = evaluation.grid_scores(maps, cells[some])
        return found

    return Judge(judge)


_JUDGES: Mapping[str, Callable[[Subject, str, nn.Module, int, int], Judge]] = {
    "source retrieval": _retrieval,
    "image dependence": _dependence,
    "insertion - deletion": _insertion,
    "occlusion": _occlusion,
    "grid": _grid,
}


def _responds(net: nn.Module, units: Units) -> list[Callable[[Tensor], Tensor]]:
    """For each image its unit's response, of any number of images."""

    def respond(channel: int) -> Callable[[Tensor], Tensor]:
        def of(images: Tensor) -> Tensor:
            with torch.no_grad():
                output: Tensor = net(images)
            return output[:, channel]

        return of

    return [respond(channel) for channel in units.channels.tolist()]


# ------------------------------------------------------------------------------------- what is known to go wrong


def failures(one: Subject, *, seed: int) -> dict[str, dict[str, Row]]:
    """Likeness of maps that ought to differ: those of two classes, and those of different start signals.

    By condition and rule, one number an image; near 1 the map does not depend on what is asked.
    """
    classes = one.units["class"]
    second = Units(None, outputs(one.net, one.images).topk(2, dim=1).indices[:, 1])
    found: dict[str, dict[str, Row]] = {"class sensitivity": {}, "signal convergence": {}}
    for condition, (net, way) in one.conditions.items():
        if condition not in (WITH, one.without):
            continue
        for rule in RULES:
            pair = (maps_of(net, way, rule, units, one.images) for units in (classes, second))
            alike = evaluation.cosine_similarity(*pair).tolist()
            found["class sensitivity"].setdefault(condition, {})[rule] = alike
            alike = _convergence(net, way, rule, one, seed).tolist()
            found["signal convergence"].setdefault(condition, {})[rule] = alike
    return found


def _convergence(net: nn.Module, way: str, rule: str, one: Subject, seed: int) -> Tensor:
    rewritten = rewrite(net, rule, switches=way)
    forward = partial(rewritten.forward_to, one.last)
    return torch.cat(
        [
            evaluation.signal_convergence(evaluation.maps_of_random_signals(forward, one.images[part], SIGNALS, seed))
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
    stages = list(evaluation.cascade(one.net, seed))
    chosen = np.unique(np.linspace(0, len(stages) - 1, min(CASCADE, len(stages))).round().astype(int))
    found = []
    for layer, net in (stages[index] for index in chosen):
        pairs = {rule: (own[rule], maps_of(net, way, rule, units, one.images)) for rule in RULES}
        rank = {rule: evaluation.rank_similarity(*pair).tolist() for rule, pair in pairs.items()}
        ssim = {rule: evaluation.structural_similarity(*pair).tolist() for rule, pair in pairs.items()}
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
