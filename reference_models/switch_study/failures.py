"""What is known to go wrong with maps: they are alike where they ought to differ, or drawn on the strides' lattice."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from attribkit import Cases, evaluate, metrics, rewrite
from attribkit.explaining.fields import receptive_field
from attribkit.metrics.cases import batches
from attribkit.reference_models.switch_study.subjects import WITH, ChosenUnits, Subject, maps_of
from attribkit.reference_models.switch_study.validation import RULES, ByMaker

SIGNALS = 4
CASCADE = 10  # stages at most


def failures(subject: Subject, *, seed: int) -> dict[str, dict[str, ByMaker]]:
    """Likeness of maps that ought to differ: those of two classes, and those of different start signals.

    By condition and rule, one number per image; near 1 the map does not depend on what is asked.
    """
    cases = Cases(subject.net, subject.images)
    alike: dict[str, dict[str, ByMaker]] = {"class sensitivity": {}, "signal convergence": {}}
    for condition, (net, way) in subject.conditions.items():
        if condition not in (WITH, subject.without):
            continue
        alike["class sensitivity"][condition] = {rule: _sensitivity(net, way, rule, cases).tolist() for rule in RULES}
        alike["signal convergence"][condition] = {
            rule: _convergence(net, way, rule, subject, seed).tolist() for rule in RULES
        }
    return alike


def _sensitivity(net: nn.Module, way: str, rule: str, cases: Cases) -> Tensor:
    def method(images: Tensor, classes: Tensor) -> Tensor:
        return maps_of(net, way, rule, ChosenUnits(None, classes), images)

    return evaluate(method, "class sensitivity", cases)


def _convergence(net: nn.Module, way: str, rule: str, subject: Subject, seed: int) -> Tensor:
    rewritten = rewrite(net, rule, switches=way)
    forward = partial(rewritten.forward_to, subject.last)
    return torch.cat(
        [
            metrics.signal_convergence(metrics.maps_of_random_signals(forward, subject.images[part], SIGNALS, seed))
            for part in batches(subject.images)
        ]
    )


def cascade(subject: Subject, *, seed: int) -> list[tuple[str, ByMaker, ByMaker]]:
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


def lattice(subject: Subject) -> dict[str, dict[str, ByMaker]]:
    """The share of each map's energy on the lattice of the strides below its unit, by unit, condition and rule.

    Of the class it is the lattice below the last layer. Units with no stride below them have none.
    """
    strides = {kind: stride_below(subject, kind) for kind in ("middle", "last", "class")}
    shares: dict[str, dict[str, ByMaker]] = {}
    for kind, stride in strides.items():
        if stride < 2 or kind in subject.left_out:
            continue
        shares[kind] = {}
        for condition in (WITH, *subject.compared):
            net, way = subject.conditions[condition]
            maps = {rule: maps_of(net, way, rule, subject.units[kind], subject.images) for rule in RULES}
            shares[kind][condition] = {rule: metrics.lattice_energy(maps[rule], stride).tolist() for rule in RULES}
    return shares


def stride_below(subject: Subject, kind: str) -> int:
    """By how many pixels of the image neighbours in a unit's layer are apart."""
    layer = subject.middle if kind == "middle" else subject.last
    return receptive_field(subject.net, layer, subject.images[:1]).windows[0].stride
