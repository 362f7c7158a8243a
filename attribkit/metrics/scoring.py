"""A method scored on cases by a metric: one number per image.

cases = attribkit.Cases(model, images)
attribkit.evaluate(captum.attr.GuidedBackprop(model).attribute, "grid", cases)
attribkit.evaluate(attribkit.rewrite(model, "guided"), "grid", cases)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from attribkit.errors import BadValue
from attribkit.explaining.passes import gradient
from attribkit.metrics.cases import Cases, batches
from attribkit.metrics.grid import grid_scores, mosaics
from attribkit.metrics.perturbation import deletion, insertion, occlusion_agreement
from attribkit.metrics.retrieval import found_sources
from attribkit.metrics.similarity import cosine_similarity, image_dependence

MapMaker = Callable[[Tensor, Tensor], Tensor]
"""Images and one class for each go in, their maps come out, as from `attribute` of Captum's classes."""


def evaluate(method: nn.Module | MapMaker, metric: str | Callable[[MapMaker, Cases], Tensor], cases: Cases) -> Tensor:
    """The score of a method for each image. More is better, but for class sensitivity.

    Args:
        method: A function from images and classes to maps, or a network whose gradient is the map: one of `rewrite`.
        metric: "source retrieval", "image dependence", "insertion - deletion", "occlusion", "grid" or "class
            sensitivity" (docs/metrics.md says what they mean); or a function of yours, of a method and cases.
        cases: The model, the images and what is asked of them.

    Returns:
        One value per image, NaN where it is undefined.

    Raises:
        BadValue: There is no metric of that name, or the cases do not fit it.
    """
    if isinstance(metric, str) and metric not in METRICS:
        raise BadValue(f"there is no metric {metric!r}; choose one of {', '.join(METRICS)}")
    score = METRICS[metric] if isinstance(metric, str) else metric
    return score(_gradient(method) if isinstance(method, nn.Module) else method, cases)


def _gradient(net: nn.Module) -> MapMaker:
    def attribute(images: Tensor, classes: Tensor) -> Tensor:
        def score(part: slice) -> Callable[[Tensor], Tensor]:
            return lambda x: net(x).gather(1, classes[part, None]).sum()

        return torch.cat([gradient(score(part), images[part]) for part in batches(images)])

    return attribute


def _retrieval(method: MapMaker, cases: Cases) -> Tensor:
    return found_sources(method(cases.images, cases.classes), cases.images).double()


def _dependence(method: MapMaker, cases: Cases) -> Tensor:
    """The same class is asked of all images: the one that most of the cases have."""
    same = cases.classes.mode().values.expand_as(cases.classes)
    return image_dependence(method(cases.images, same))


def _insertion_less_deletion(method: MapMaker, cases: Cases) -> Tensor:
    """The mean of two fills."""
    maps = method(cases.images, cases.classes)
    gains = []
    for fill in ("zero", "blur"):
        into, out = (
            area(cases.responses, cases.images, maps, fill=fill, steps=cases.steps, seed=cases.seed)
            for area in (insertion, deletion)
        )
        gains.append(into - out)
    return torch.stack(gains).mean(0)


def _occlusion(method: MapMaker, cases: Cases) -> Tensor:
    """The mean of two squares."""
    maps = method(cases.images, cases.classes)
    agreements = [occlusion_agreement(maps, drops, size) for size, drops in cases.drops.items()]
    return torch.stack(agreements).mean(0)


def _grid(method: MapMaker, cases: Cases) -> Tensor:
    scores = torch.full((len(cases.images),), torch.nan, dtype=torch.float64, device=cases.images.device)
    which = torch.tensor(list(cases.mosaics), dtype=torch.long)
    for part in batches(cases.images[which], pixels=500_000 // 9):
        some = which[part]
        members, cells = zip(*(cases.mosaics[index] for index in some.tolist()), strict=True)
        maps = method(mosaics(cases.images[torch.tensor(members)]), cases.classes[some])
        scores[some] = grid_scores(maps, cells)
    return scores


def _class_sensitivity(method: MapMaker, cases: Cases) -> Tensor:
    """The cosine with the map of the class that the model finds next best; near 1 is bad."""
    rest = cases.scores.scatter(1, cases.classes[:, None], -torch.inf)
    maps, others = (method(cases.images, classes) for classes in (cases.classes, rest.argmax(1)))
    return cosine_similarity(maps, others)


METRICS: Mapping[str, Callable[[MapMaker, Cases], Tensor]] = {
    "source retrieval": _retrieval,
    "image dependence": _dependence,
    "insertion - deletion": _insertion_less_deletion,
    "occlusion": _occlusion,
    "grid": _grid,
    "class sensitivity": _class_sensitivity,
}
