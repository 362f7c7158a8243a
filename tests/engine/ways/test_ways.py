"""Every way that people write a network: the rule's map, or said; the model's own code must not notice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import ways_calls
import ways_code
import ways_holdings
import ways_inside
import ways_originals
import ways_parts
import ways_smooth
import ways_subclasses
import ways_unreached
from ways_checks import RULES, check
from ways_harness import HONEST, RIGHT, Calling, Expected, LeftAlone, OrRefused, Refused, Way, in_double_precision

import attribkit

SECTIONS = [
    ways_code,
    ways_subclasses,
    ways_calls,
    ways_unreached,
    ways_parts,
    ways_smooth,
    ways_originals,
    ways_holdings,
    ways_inside,
]
ALL = {f"{file.ways.section}: {way.name}": way for file in SECTIONS for way in file.ways.all.values()}


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """Nets and what their forward makes are float64, so that a map's last digits can be compared."""
    with in_double_precision():
        yield


# dynamo looks at every input's gradient, also where there can be none
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("way", ALL.values(), ids=ALL)
def test_way(way: Way, rule: str) -> None:
    """The way's map is the oracle's, or it is said or refused as the way expects; the original stays as it was."""
    check(way, rule)


# The harness itself: what it must notice --------------------------------------------------------------------

EXPECTED: list[Expected] = [RIGHT, HONEST, LeftAlone(), OrRefused("x"), Refused(attribkit.NothingToRewrite)]


class Plain(torch.nn.Module):
    """What a bad library might make of a model: the model itself, under the name of guided backprop."""

    sites: tuple[attribkit.Site, ...] = ()

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval()

    def forward(self, x: Any) -> Any:
        return self.model(x)


def relu(x: Any) -> Any:
    return torch.relu(x)


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda expected: type(expected).__name__)
def test_a_plain_gradient_under_another_name_is_noticed(expected: Expected, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is expected of a way, a plain gradient without a word is not it; under backprop it is."""
    monkeypatch.setattr(attribkit, "rewrite", lambda model, *args, **options: Plain(model))
    way = Way("plain", lambda: Calling(relu), lambda: Calling(relu), expected, later=False)
    check(way, "backprop")
    for rule in ("deconvnet", "guided"):
        with pytest.raises(AssertionError):
            check(way, rule)


SPOILING: dict[str, Callable[[Any], Any]] = {
    "a mode": lambda model: model.eval(),
    "a write that changes nothing": lambda model: model.conv1.weight.detach().add_(0.0),
    "a gradient": lambda model: setattr(model.conv1.weight, "grad", torch.zeros_like(model.conv1.weight)),
    "a hook": lambda model: model.relu.register_forward_hook(lambda *args: None),
    "an attribute": lambda model: setattr(model.relu, "mark", 1),
    "a class": lambda model: setattr(model.relu, "__class__", torch.nn.ReLU6),
    "a frozen weight": lambda model: model.conv2.weight.requires_grad_(False),
    "a statistic": lambda model: model.norm.running_mean.add_(0.0),
}


@pytest.mark.parametrize("name", SPOILING)
def test_a_touched_original_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least trace in the model, whatever comes out."""
    right = attribkit.rewrite

    def rewrite(model: Any, *args: Any, **options: Any) -> Any:
        net = right(model, *args, **options)
        SPOILING[name](model)
        return net

    monkeypatch.setattr(attribkit, "rewrite", rewrite)
    way = Way("touched", lambda: Calling(relu), lambda: Calling(relu), RIGHT)
    with pytest.raises(AssertionError, match="the original has changed"):
        check(way, "deconvnet")


def test_a_twin_that_is_another_network_is_noticed() -> None:
    """A fault in the tests themselves."""
    way = Way("other", lambda: Calling(relu), lambda: Calling(torch.abs), RIGHT)
    with pytest.raises(AssertionError):
        check(way, "backprop")
