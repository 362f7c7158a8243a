"""Does guided backprop work without switches? The experiment that docs/validation.md lays down.

A *subject* is a network with its images. It is looked at in *conditions* (with switches, without) under each rule, and
every metric gives one score an image. What is compared sees the same images and the same units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attribkit import evaluation, record_switches, rewrite, strides_to_pools
from attribkit.reference_models.verdict import Interval, Scores, Verdict, loss, mean_interval, verdict, worst
from attribkit.switches import Switches

RULES = ("backprop", "deconvnet", "guided")
WITH = "own switches"
GROUP = 100  # images among which a map's source is looked for
BATCH = 50

# For each metric by how much guided may lose, and whether it asks about inner units too or class logits only.
MARGINS = {
    "source retrieval": 0.10,
    "image dependence": 0.10,
    "insertion - deletion": 0.05,
    "occlusion": 0.10,
    "grid": 0.05,
}
OF_LOGITS = ("insertion - deletion", "occlusion", "grid")


@dataclass(frozen=True)
class Units:
    """What is explained of each image: a channel and a position of a layer, or a class (without layer and position)."""

    layer: str | None
    channels: Tensor
    positions: Tensor | None = None

    def responses(self, output: Tensor) -> Tensor:
        """Those of each image's own unit."""
        rows = torch.arange(len(output))
        if self.positions is None:
            return output[rows, self.channels]
        return output.flatten(2)[rows, self.channels, self.positions]

    def of(self, part: slice) -> Units:
        return Units(self.layer, self.channels[part], None if self.positions is None else self.positions[part])


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, its images as it takes them and as pictures from 0 to 1, and the two layers that are asked.

    `pooled` is the network after `strides_to_pools`, where it has no pools of its own.
    """

    name: str
    weights: str
    net: nn.Module
    pooled: nn.Module | None
    middle: str
    last: str
    images: Tensor
    pictures: Tensor

    @property
    def without(self) -> str:
        """The condition that has no switches."""
        return "uniform" if self.pooled is None else "as it is"

    @property
    def conditions(self) -> Mapping[str, tuple[nn.Module, str]]:
        """A network and the way down through its pools."""
        if self.pooled is not None:
            return {WITH: (self.pooled, "own"), self.without: (self.net, "own")}
        ways = {"uniform": "uniform", "center": "center", "corner": "corner", "another image's": "another"}
        return {WITH: (self.net, "own"), **{name: (self.net, way) for name, way in ways.items()}}

    @cached_property
    def units(self) -> dict[str, Units]:
        """Chosen in the network as it is: the strongest of each layer, and the class that is predicted."""
        with torch.no_grad():
            logits = torch.cat([self.net(part) for part in self.images.split(BATCH)])
            return {
                "middle": _strongest(self.net, self.middle, self.images),
                "last": _strongest(self.net, self.last, self.images),
                "class": Units(None, logits.argmax(1)),
            }

    def first(self, count: int) -> Subject:
        """The same of the first images only."""
        images, pictures = self.images[:count], self.pictures[:count]
        return replace(self, images=images, pictures=pictures)


def subject(
    name: str, weights: str, net: nn.Module, layers: tuple[str, str], images: Tensor, pictures: Tensor
) -> Subject:
    """A network with its pools, or beside itself with pools in place of its strides."""
    has_pools = any(isinstance(module, nn.MaxPool2d) for module in net.modules())
    pooled = None if has_pools else strides_to_pools(net).eval()
    return Subject(name, weights, net.eval(), pooled, *layers, images, pictures)


def with_other_weights(one: Subject, seed: int) -> Iterator[Subject]:
    """The same subject untrained, and with its upper third random."""
    for weights, share in (("untrained", 1.0), ("upper third random", 1 / 3)):
        net = evaluation.with_upper_layers_random(one.net, share, seed)
        yield subject(one.name, weights, net, (one.middle, one.last), one.images, one.pictures)


def _outputs(net: nn.Module, layer: str | None, images: Tensor) -> Tensor:
    """A layer's output; the network is not rewritten, and so its gradient is its own."""
    if layer is None:
        output: Tensor = net(images)
        return output
    return _reached(rewrite(net, "backprop"), layer, images)


def _strongest(net: nn.Module, layer: str, images: Tensor) -> Units:
    outputs = torch.cat([_outputs(net, layer, part) for part in images.split(BATCH)]).flatten(2)
    strength, places = outputs.max(2)
    channels = strength.argmax(1)
    return Units(layer, channels, places.gather(1, channels[:, None])[:, 0])


def _same_unit(one: Subject, kind: str) -> Units:
    """One unit for all images: the channel that is strongest most often, in the middle."""
    units = one.units[kind]
    channel = units.channels.mode().values
    middle = None
    if units.layer is not None:
        with torch.no_grad():
            height, width = _outputs(one.net, units.layer, one.images[:1]).shape[2:]
        middle = torch.full_like(units.channels, height // 2 * width + width // 2)
    return Units(units.layer, channel.expand_as(units.channels), middle)


def maps_of(net: nn.Module, way: str, rule: str, units: Units, images: Tensor) -> Tensor:
    """The map of each image's unit."""
    maps: list[Tensor] = []
    others = images.roll(1, 0)
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        switches: str | Switches = record_switches(net, others[part]) if way == "another" else way
        rewritten = rewrite(net, rule, switches=switches)
        x = images[part].clone().requires_grad_()
        output = rewritten(x) if units.layer is None else _reached(rewritten, units.layer, x)
        maps += torch.autograd.grad(units.of(part).responses(output).sum(), x)
    return torch.cat(maps)


def _reached(rewritten: Any, layer: str, x: Tensor) -> Tensor:
    output: Tensor = rewritten.forward_to(layer, x)
    return output


# ------------------------------------------------------------------------------------------------------- the scores


Scored = dict[str, dict[str, dict[str, dict[str, list[float]]]]]  # metric, unit, condition, rule -> a score an image


def scores(one: Subject, *, asked: int, steps: int, seed: int) -> Scored:
    """Every metric for every kind of unit, condition and rule; those of logits for the first `asked` images only."""
    found: Scored = {}
    few = one.first(asked)
    for kind in one.units:
        for metric in MARGINS:
            if metric in OF_LOGITS and kind != "class":
                continue
            cells = found.setdefault(metric, {}).setdefault(kind, {})
            for condition, (net, way) in one.conditions.items():
                if metric in OF_LOGITS and condition not in (WITH, one.without):
                    continue  # they take most of the time
                judge = _JUDGES[metric](few if metric in OF_LOGITS else one, kind, net, steps, seed)
                cells[condition] = {rule: judge(partial(maps_of, net, way, rule)).tolist() for rule in RULES}
    return found


Mapper = Callable[[Units, Tensor], Tensor]
Judge = Callable[[Mapper], Tensor]


def _retrieval(one: Subject, kind: str, net: nn.Module, steps: int, seed: int) -> Judge:
    def judge(mapper: Mapper) -> Tensor:
        maps = mapper(one.units[kind], one.images)
        groups = zip(maps.split(GROUP), one.pictures.split(GROUP), strict=True)
        return torch.cat([evaluation.found_sources(some, pictures) for some, pictures in groups]).double()

    return judge


def _dependence(one: Subject, kind: str, net: nn.Module, steps: int, seed: int) -> Judge:
    units = _same_unit(one, kind)
    return lambda mapper: torch.cat(
        [evaluation.image_dependence(some) for some in mapper(units, one.images).split(GROUP)]
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

    return judge


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

    return judge


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
        for start in range(0, len(mosaics), BATCH // 5):
            some = list(mosaics)[start : start + BATCH // 5]
            images = evaluation.mosaics(one.images[torch.tensor([mosaics[index] for index in some])])
            maps = mapper(Units(None, classes[some]), images)
            found[some] = evaluation.grid_scores(maps, cells[some])
        return found

    return judge


_JUDGES: dict[str, Callable[[Subject, str, nn.Module, int, int], Judge]] = {
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


def judged(scored: Scored, without: str, *, resamples: int, seed: int) -> list[Judged]:
    """Intervals and verdicts from the scores of one subject."""
    found = []
    for metric, kinds in scored.items():
        for kind, cells in kinds.items():
            losses = {
                rule: loss(_array(cells[WITH][rule]), _array(cells[without][rule]), resamples, seed) for rule in RULES
            }
            means = {
                condition: {rule: mean_interval(_array(row[rule]), resamples, seed) for rule in RULES}
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


def _array(values: list[float]) -> Scores:
    return np.asarray(values, dtype=np.float64)
