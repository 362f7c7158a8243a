"""Cases to score methods of attribution on: a model, images, and the class that is asked of each.

cases = attribkit.Cases(model, images)
attribkit.evaluate(captum.attr.GuidedBackprop(model).attribute, "grid", cases)      # one score an image
attribkit.evaluate(attribkit.rewrite(model, "guided"), "grid", cases)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from attribkit.errors import BadValue
from attribkit.metrics import evaluation

Method = Callable[[Tensor, Tensor], Tensor]
"""Images and a class each go in, their maps come out, as from `attribute` of Captum's classes."""


@dataclass(frozen=True, eq=False)
class Cases:
    """What every method is asked alike. `targets` are the classes that the model names, unless you say others.

    `steps` and `seed` are of the metrics that put pixels in and out, and that draw.
    """

    model: nn.Module
    images: Tensor
    targets: Tensor | None = None
    steps: int = 8
    seed: int = 0

    @cached_property
    def classes(self) -> Tensor:
        """The class that is asked of each image."""
        if self.targets is None:
            return self.scores.argmax(1)
        if self.targets.shape != (len(self.images),):
            raise BadValue(f"{tuple(self.targets.shape)} targets do not fit {len(self.images)} images: give one each")
        return self.targets.to(self.images.device)

    @cached_property
    def scores(self) -> Tensor:
        """What the model says of the images."""
        with torch.no_grad():
            scores = torch.cat([self.model(self.images[part]) for part in batches(self.images)])
        if scores.dim() != 2:
            raise BadValue(f"the model gives {tuple(scores.shape)}, not a score for each class: name a classifier")
        return scores

    @cached_property
    def responses(self) -> list[evaluation.Respond]:
        """For each image the score of its class, as a function of any images."""
        return [self._response(target) for target in self.classes.tolist()]

    def _response(self, target: int) -> evaluation.Respond:
        return lambda images: self.model(images)[:, target]

    @cached_property
    def drops(self) -> dict[int, Tensor]:
        """What covering each part costs, by the side of the square: two and three eighths of the image's."""
        eighth = self.images.shape[-1] // 8
        return {
            size: evaluation.occlusion_drops(self.responses, self.images, size, stride=eighth)
            for size in (2 * eighth, 3 * eighth)
        }

    @cached_property
    def mosaics(self) -> dict[int, tuple[list[int], int]]:
        """For each image nine, eight of them of other classes and itself in a cell that is drawn for it.

        There are none where fewer than eight are of other classes.
        """
        generator = torch.Generator().manual_seed(self.seed)
        cells = torch.randint(9, (len(self.images),), generator=generator)
        found = {}
        for index, cell in enumerate(cells.tolist()):
            others = (self.classes != self.classes[index]).nonzero()[:, 0]
            if len(others) >= 8:
                drawn = others[torch.randperm(len(others), generator=generator)[:8]].tolist()
                found[index] = ([*drawn[:cell], index, *drawn[cell:]], cell)
        return found


def evaluate(method: nn.Module | Method, metric: str | Callable[[Method, Cases], Tensor], cases: Cases) -> Tensor:
    """The score of a method for each image, NaN where it is undefined; for all metrics more is better, but the last.

    `method` is a function from images and classes to maps, or a network whose gradient is the map: one of `rewrite`.
    `metric` is one of `METRICS` by name (docs/metrics.md says what they mean), or a function of yours.
    """
    if isinstance(metric, str) and metric not in METRICS:
        raise BadValue(f"metric={metric!r} is none of {', '.join(METRICS)}")
    score = METRICS[metric] if isinstance(metric, str) else metric
    return score(_gradient(method) if isinstance(method, nn.Module) else method, cases)


def _gradient(net: nn.Module) -> Method:
    def attribute(images: Tensor, classes: Tensor) -> Tensor:
        maps: list[Tensor] = []
        for part in batches(images):
            with torch.enable_grad():
                x = images[part].detach().clone().requires_grad_()
                maps += torch.autograd.grad(net(x).gather(1, classes[part, None]).sum(), x)
        return torch.cat(maps)

    return attribute


def batches(images: Tensor, pixels: int = 500_000) -> Iterator[slice]:
    """Parts of at most fifty images, and fewer of large ones, so that all that a network keeps fits in memory."""
    size = max(1, min(50, pixels // images.shape[2:].numel()))
    return (slice(start, start + size) for start in range(0, len(images), size))


def _retrieval(method: Method, cases: Cases) -> Tensor:
    return evaluation.found_sources(method(cases.images, cases.classes), cases.images).double()


def _dependence(method: Method, cases: Cases) -> Tensor:
    """The same class is asked of all images: the one that most of the cases have."""
    same = cases.classes.mode().values.expand_as(cases.classes)
    return evaluation.image_dependence(method(cases.images, same))


def _insertion_less_deletion(method: Method, cases: Cases) -> Tensor:
    """The mean of two fills."""
    maps = method(cases.images, cases.classes)
    gains = []
    for fill in ("zero", "blur"):
        into, out = (
            area(cases.responses, cases.images, maps, fill=fill, steps=cases.steps, seed=cases.seed)
            for area in (evaluation.insertion, evaluation.deletion)
        )
        gains.append(into - out)
    return torch.stack(gains).mean(0)


def _occlusion(method: Method, cases: Cases) -> Tensor:
    """The mean of two squares."""
    maps = method(cases.images, cases.classes)
    agreements = [evaluation.occlusion_agreement(maps, drops, size) for size, drops in cases.drops.items()]
    return torch.stack(agreements).mean(0)


def _grid(method: Method, cases: Cases) -> Tensor:
    found = torch.full((len(cases.images),), torch.nan, dtype=torch.float64, device=cases.images.device)
    which = torch.tensor(list(cases.mosaics), dtype=torch.long)
    for part in batches(cases.images[which], pixels=500_000 // 9):
        some = which[part]
        members, cells = zip(*(cases.mosaics[index] for index in some.tolist()), strict=True)
        maps = method(evaluation.mosaics(cases.images[torch.tensor(members)]), cases.classes[some])
        found[some] = evaluation.grid_scores(maps, cells)
    return found


def _class_sensitivity(method: Method, cases: Cases) -> Tensor:
    """The cosine with the map of the class that the model finds next best; near 1 is bad."""
    rest = cases.scores.scatter(1, cases.classes[:, None], -torch.inf)
    maps, others = (method(cases.images, classes) for classes in (cases.classes, rest.argmax(1)))
    return evaluation.cosine_similarity(maps, others)


METRICS: Mapping[str, Callable[[Method, Cases], Tensor]] = {
    "source retrieval": _retrieval,
    "image dependence": _dependence,
    "insertion - deletion": _insertion_less_deletion,
    "occlusion": _occlusion,
    "grid": _grid,
    "class sensitivity": _class_sensitivity,
}
