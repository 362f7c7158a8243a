"""A network with its images, ready for the experiment: its units, its conditions, and the maps of a rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attribkit import Cases, Explainer, LoadedModel, Unit, load, metrics, record_switches, rewrite, strides_to_pools
from attribkit.engine.torch_private import AnyBatchNorm
from attribkit.errors import BadValue
from attribkit.metrics.cases import batches
from attribkit.reference_models.switch_study.testset import TestSet

WITH = "own switches"
UNIFORM, AS_IT_IS, ANOTHERS = "uniform", "as it is", "another image's"
AFTER = ", chosen after surgery"
RANDOM_SHARE = {"trained": 0.0, "untrained": 1.0, "upper third random": 1 / 3}
"""Kinds of weights, by the share of the layers that is made random, from the top."""


@dataclass(frozen=True)
class ChosenUnits:
    """What is explained of each image: a channel and a position of a layer, or a class (without layer and position)."""

    layer: str | None
    channels: Tensor
    positions: Tensor | None = None

    def responses(self, output: Tensor) -> Tensor:
        """Those of each image's own unit."""
        rows = torch.arange(len(output), device=output.device)
        if self.positions is None:
            return output[rows, self.channels]
        return output.flatten(2)[rows, self.channels, self.positions]

    def named(self, plane: Sequence[int]) -> list[Unit]:
        """One by one, in a map of this size."""
        where = [None] * len(self.channels) if self.positions is None else self.positions.tolist()
        places = [None if i is None else tuple(int(n) for n in np.unravel_index(i, plane)) for i in where]
        numbered = enumerate(zip(self.channels.tolist(), places, strict=True))
        return [Unit(image, self.layer, channel, place, math.nan) for image, (channel, place) in numbered]

    def of(self, part: slice | Sequence[int]) -> ChosenUnits:
        return ChosenUnits(self.layer, self.channels[part], None if self.positions is None else self.positions[part])


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, its images as it takes them and as pictures from 0 to 1, and the two layers that are asked.

    `pooled` is the network after `strides_to_pools`, where it has no pools of its own. `left_out` are units of which
    there is nothing to be learnt with these weights.
    """

    name: str
    weights: str
    net: nn.Module
    pooled: nn.Module | None
    middle: str
    last: str
    images: Tensor
    pictures: Tensor
    left_out: frozenset[str] = frozenset()

    @property
    def without(self) -> str:
        """The condition that has no switches."""
        return UNIFORM if self.pooled is None else AS_IT_IS

    @property
    def compared(self) -> list[str]:
        """The conditions that the one with switches is compared with; in "uniform" it is the same function."""
        return list(dict.fromkeys([self.without, UNIFORM]))

    @property
    def conditions(self) -> Mapping[str, tuple[nn.Module, str]]:
        """A network and the way down through its pools."""
        if self.pooled is not None:
            return {
                WITH: (self.pooled, "own"),
                AS_IT_IS: (self.net, "own"),
                UNIFORM: (self.pooled, "uniform"),
            }
        ways = {UNIFORM: "uniform", "center": "center", "corner": "corner", ANOTHERS: "another"}
        return {WITH: (self.net, "own"), **{name: (self.net, way) for name, way in ways.items()}}

    @cached_property
    def units(self) -> dict[str, ChosenUnits]:
        """The strongest of each layer, and the class that is predicted: chosen in the network as it is.

        Where surgery makes another network, chosen in that one as well.
        """
        chosen = self._chosen(self.net)
        if self.pooled is not None:
            chosen |= {kind + AFTER: units for kind, units in self._chosen(self.pooled).items()}
        return {kind: units for kind, units in chosen.items() if kind.removesuffix(AFTER) not in self.left_out}

    def _chosen(self, net: nn.Module) -> dict[str, ChosenUnits]:
        return {
            "middle": _strongest(net, self.middle, self.images),
            "last": _strongest(net, self.last, self.images),
            "class": ChosenUnits(None, Cases(net, self.images).classes),
        }

    def chooser(self, kind: str) -> nn.Module:
        """The network that units of a kind were chosen in."""
        return self.pooled if self.pooled is not None and kind.endswith(AFTER) else self.net

    def first(self, count: int) -> Subject:
        """The same of the first images only."""
        images, pictures = self.images[:count], self.pictures[:count]
        return replace(self, images=images, pictures=pictures)


def read(network: str) -> LoadedModel:
    """A classifier by its name, or by NAME=FILE with the weights of a file."""
    name, _, file = network.partition("=")
    loaded = load(name, file or "default")
    if loaded.output is not None:
        raise BadValue(f"{name} returns more than one score per class: use a classifier")
    return loaded


def prepared(
    network: str, weights: str, loaded: LoadedModel, tests: TestSet, seed: int, device: str = "cpu"
) -> Subject:
    """A network on pictures, with weights as they are or as random as their name says.

    Units whose layer lies below what is random are left out: they would repeat what the trained network has.
    """
    images = torch.stack([loaded.preprocess(picture) for picture in tests.pictures])
    pictured = as_pictures(loaded, images)
    share = RANDOM_SHARE[weights]
    net = metrics.with_upper_layers_random(loaded.model, share, seed) if share else loaded.model
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on a CPU
    subject = made(network, weights, net, images.to(device), pictured.to(device))
    if not share:
        return subject
    trained = loaded.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    layers = {"middle": subject.middle, "last": subject.last}
    same = {kind for kind, layer in layers.items() if _answers_alike(net, trained, layer, subject.images[:1])}
    return replace(subject, left_out=frozenset(same))


def as_pictures(loaded: LoadedModel, images: Tensor) -> Tensor:
    """What a network takes, as pictures from 0 to 1: N x 3 x H x W."""
    pictures = np.stack([loaded.unpreprocess(image) for image in images])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255


def candidates(loaded: LoadedModel, tests: TestSet, subject: Subject) -> Tensor:
    """All pictures among which a map's source is looked for, in grey: those of the subject first."""
    parts = [subject.pictures.mean(1, keepdim=True)]
    for start in range(0, len(tests.rivals), 100):
        images = torch.stack([loaded.preprocess(rival) for rival in tests.rivals[start : start + 100]])
        parts.append(as_pictures(loaded, images).mean(1, keepdim=True).to(subject.images.device))
    return torch.cat(parts)


def _answers_alike(net: nn.Module, other: nn.Module, layer: str, images: Tensor) -> bool:
    return torch.equal(*(_outputs(each.eval(), layer, images) for each in (net, other)))


def made(name: str, weights: str, net: nn.Module, images: Tensor, pictures: Tensor) -> Subject:
    """A network with its pools, or beside itself with pools in place of its strides."""
    pooled = None if _has_pools(net, images[:1]) else strides_to_pools(net).eval()
    return Subject(name, weights, net.eval(), pooled, *_asked_layers(net), images, pictures)


def _has_pools(net: nn.Module, image: Tensor) -> bool:
    """Whether an image meets a max-pool, be it a module or a function."""
    shadow = rewrite(net, "backprop")
    with torch.no_grad():
        shadow(image.clone())
    return any(site.kind == "pool" for site in shadow.sites)


def _asked_layers(net: nn.Module) -> tuple[str, str]:
    """The middle one and the last one of the layers that see more than a pixel, after their batch norms.

    A depthwise convolution, of which each channel sees one other that is often shut, stands back for the next
    convolution, which mixes what it gives. Of channels before the norm the strongest would be the one with the largest
    weights; after a ReLU6 it would be any of those that are at 6, where nothing passes.
    """
    modules = [*net.named_modules(), ("", net)]
    spatial = []
    sees = False  # more than a pixel, in a depthwise convolution that was the last one
    for (name, module), (after, follower) in pairwise(modules):
        if not isinstance(module, nn.Conv2d):
            continue
        sees = sees or max(module.kernel_size) > 1
        depthwise = module.groups == module.in_channels > 1
        if sees and not depthwise:
            spatial.append(_norm(after, follower) if isinstance(follower, AnyBatchNorm) else name)
            sees = False
    if not spatial:
        raise BadValue(f"{type(net).__name__} has no convolution that sees more than a pixel and mixes channels")
    return spatial[len(spatial) // 2], spatial[-1]


def _norm(name: str, norm: nn.Module) -> str:
    """A norm, or, in timm's that ends with its activation, the identity in between."""
    between = (f"{name}.{child}" for child, module in norm.named_children() if isinstance(module, nn.Identity))
    return next(between, name)


def _outputs(net: nn.Module, layer: str, images: Tensor) -> Tensor:
    """A layer's output."""
    shadow = rewrite(net, "backprop")
    with torch.no_grad():
        return torch.cat([_reached(shadow, layer, images[part]) for part in batches(images)])


def _strongest(net: nn.Module, layer: str, images: Tensor) -> ChosenUnits:
    strength, places = _outputs(net, layer, images).flatten(2).max(2)
    channels = strength.argmax(1)
    return ChosenUnits(layer, channels, places.gather(1, channels[:, None])[:, 0])


def same_unit(subject: Subject, kind: str) -> ChosenUnits:
    """One unit for all images: the channel that is strongest most often, in the middle."""
    units = subject.units[kind]
    channel = units.channels.mode().values
    middle = None
    if units.layer is not None:
        height, width = _outputs(subject.chooser(kind), units.layer, subject.images[:1]).shape[2:]
        middle = torch.full_like(units.channels, height // 2 * width + width // 2)
    return ChosenUnits(units.layer, channel.expand_as(units.channels), middle)


def maps_of(net: nn.Module, way: str, rule: str, units: ChosenUnits, images: Tensor) -> Tensor:
    """The map of each image's unit."""
    maps: list[Tensor] = []
    others = images.roll(1, 0)
    plane = () if units.layer is None else _outputs(net, units.layer, images[:1]).shape[2:]
    explainer = Explainer(net, rule, layer=units.layer, switches="own" if way == "another" else way)
    for part in batches(images):
        if way == "another":
            explainer = Explainer(net, rule, layer=units.layer, switches=record_switches(net, others[part]))
        maps.append(explainer.maps(images[part], units.of(part).named(plane))[rule])
    return torch.cat(maps)


def _reached(rewritten: Any, layer: str, x: Tensor) -> Tensor:
    output: Tensor = rewritten.forward_to(layer, x)
    return output
