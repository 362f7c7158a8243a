"""What stands beside the verdicts: donors, what an eye names, the lattice, and strides replaced one after another."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attribkit import Cases, metrics, strides_to_pools
from attribkit.reference_models.switch_study import eye, failures, validation
from attribkit.reference_models.switch_study.subjects import WITH, Subject, maps_of
from attribkit.reference_models.switch_study.validation import FEWEST_ALIKE, PRIMARY, RULES, ByMaker, Mapper


def beside(subject: Subject, candidates: Tensor, folder: Path | None, labels: Tensor | None) -> dict[str, Any]:
    """Score what gets no verdict and is cheap.

    Args:
        subject: The network and its images.
        candidates: Pictures among which a map's source is looked for, the subject's first.
        folder: Where the eye is, if it knows what may be on the images.
        labels: What is on the images.

    Returns:
        The scores by what they are of.
    """
    known = {} if folder is None or labels is None else recognised(subject, eye.read(folder), labels)
    return {"donors": validation.donors(subject, candidates), "lattice": failures.lattice(subject), "recognised": known}


def recognised(subject: Subject, an_eye: nn.Module, labels: Tensor) -> dict[str, ByMaker]:
    """Whether an eye that has learnt from images names, in each map of the class, what is on its image."""
    found: dict[str, ByMaker] = {}
    for condition in (WITH, *subject.compared):
        net, way = subject.conditions[condition]
        makers: dict[str, Mapper] = {rule: partial(maps_of, net, way, rule) for rule in RULES}
        if condition == WITH:
            makers |= validation.FLOORS | validation.BESIDE
        found[condition] = {
            name: _rightly(an_eye, mapper(subject.units["class"], subject.images), labels)
            for name, mapper in makers.items()
        }
    found[WITH]["the image itself"] = _rightly(an_eye, subject.pictures, labels)
    return found


def _rightly(an_eye: nn.Module, maps: Tensor, labels: Tensor) -> list[float]:
    right: list[float] = (eye.named(an_eye, maps) == labels).double().tolist()
    return right


def one_after_another(subject: Subject, candidates: Tensor, count: int) -> list[dict[str, Any]]:
    """Replace a network's strides one after another, from the last to the first, and see what each step does.

    Args:
        subject: The network and its images; of one with pools there are no steps.
        candidates: Pictures among which a map's source is looked for, the subject's first.
        count: How many of the images are asked.

    Returns:
        For each step, the first one being none: the layer, how many percent of the images are renamed, and whether the
        source of each map of the primary unit is found, by rule.
    """
    if subject.pooled is None:
        return []
    few = subject.first(count)
    named = Cases(few.net, few.images).classes
    ready = metrics.Candidates.of(candidates)
    steps = []
    layers = [name for name, module in few.net.named_modules() if isinstance(module, nn.Conv2d) and _strides(module)]
    for replaced in range(len(layers) + 1):
        net = strides_to_pools(few.net, layers[len(layers) - replaced :]).eval() if replaced else few.net
        renamed = 100 * float((Cases(net, few.images).classes != named).double().mean())
        layer = layers[len(layers) - replaced] if replaced else None
        steps.append({"layer": layer, "renamed": renamed, "found": _found(few, net, ready)})
    return steps


def _strides(conv: nn.Conv2d) -> bool:
    return max(conv.stride) > 1


def _found(subject: Subject, net: nn.Module, candidates: metrics.Candidates) -> dict[str, list[float]]:
    sources = torch.arange(len(subject.images))
    found = {}
    for rule in RULES:
        lead = validation.leads(subject, PRIMARY[1], candidates, sources, partial(maps_of, net, "own", rule), [])
        found[rule] = (lead > FEWEST_ALIKE).double().tolist()
    return found
