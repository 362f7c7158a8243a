"""A rule by part: each site follows the rule of the first pattern that its name fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attribkit

ALL = {"backprop": (True, False), "deconvnet": (False, True), "guided": (True, True)}


class Net(nn.Module):
    """Two modules and a function, under names of their own."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
            self.body = nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU()).double()
            self.head = nn.Conv2d(5, 2, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.head(self.body(self.stem(x))))


def images() -> Tensor:
    return torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(1)).double()


def by_hand(net: Net, x: Tensor, rules: list[str]) -> Tensor:
    """The map of the sum of the output, layer by layer; `rules` are those of the three ReLUs, from below."""
    convolutions = [net.stem[0], net.body[0], net.head]
    inputs, before = [x], []
    for convolution in convolutions:
        before.append(convolution(inputs[-1]).detach())
        inputs.append(before[-1].clamp(min=0))
    signal = torch.ones_like(inputs[-1])
    for convolution, below, z, rule in reversed(list(zip(convolutions, inputs, before, rules, strict=False))):
        gate, rectify = ALL[rule]
        signal = signal * (z > 0) if gate else signal
        signal = signal * (signal > 0) if rectify else signal
        signal = F.conv_transpose2d(signal, convolution.weight)
        assert signal.shape == below.shape
    return signal.detach()


def pulled_down(net: nn.Module, x: Tensor) -> Tensor:
    image = x.clone().requires_grad_()
    return torch.autograd.grad(net(image).sum(), image)[0]


CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "modules by name": ({"stem.1": "backprop", "*": "guided"}, ["backprop", "guided", "guided"]),
    "a group": ({"stem.*": "deconvnet", "body.*": "guided"}, ["deconvnet", "guided", "backprop"]),
    "a function": ({"#relu": "deconvnet", "*": "backprop"}, ["backprop", "backprop", "deconvnet"]),
    "the first pattern wins": ({"*": "guided", "body.1": "backprop"}, ["guided", "guided", "guided"]),
    "rules as objects": ({"[sb]*": attribkit.GUIDED, "*": attribkit.DECONVNET}, ["guided", "guided", "deconvnet"]),
}


@pytest.mark.parametrize("name", CASES)
def test_each_site_follows_the_first_pattern_that_it_fits(name: str) -> None:
    """What no pattern fits keeps its gradient."""
    rule, rules = CASES[name]
    net = Net()
    found = pulled_down(attribkit.rewrite(net, rule), images())
    torch.testing.assert_close(found, by_hand(net, images(), rules), rtol=0, atol=1e-12)


def test_a_rule_of_ones_own_in_one_part() -> None:
    """A function among the rules gets the gates of its own part."""
    net, seen = Net(), []

    def spy(signal: Tensor, gate: Tensor) -> Tensor:
        seen.append(tuple(gate.shape))
        return signal * gate

    found = pulled_down(attribkit.rewrite(net, {"body.1": spy, "*": "backprop"}), images())
    assert seen == [(2, 5, 6, 6)]
    torch.testing.assert_close(found, by_hand(net, images(), ["backprop"] * 3), rtol=0, atol=1e-12)


def test_a_pattern_that_fits_no_site_is_refused_with_the_nearest_names() -> None:
    """A misspelt pattern must not silently leave its part alone; functions are known by the first forward pass."""
    net = attribkit.rewrite(Net(), {"stern.1": "backprop", "*": "guided"})
    with pytest.raises(attribkit.AttribkitError, match=r"no site matches the pattern 'stern\.1' .* stem\.1"):
        net(images())


def test_a_module_that_is_no_site_is_no_part() -> None:
    """Patterns are held against the names of sites: a convolution has no rule."""
    with pytest.raises(attribkit.AttribkitError, match=r"no site matches the pattern 'head'"):
        attribkit.rewrite(Net(), {"head": "guided"})(images())


def test_an_empty_mapping_is_no_rule() -> None:
    """It says what one looks like."""
    with pytest.raises(ValueError, match="at least one pattern"):
        attribkit.rewrite(Net(), {})


def test_a_rule_by_part_names_itself_by_its_parts() -> None:
    """In print, and where an error says which rule it was."""
    net = attribkit.rewrite(Net(), {"body.1": "guided", "*": attribkit.DECONVNET})
    assert net.rule.name == "body.1: guided, *: deconvnet"
    assert "rule=body.1: guided, *: deconvnet, 2 of 2 sites swapped" in repr(net)
    with pytest.raises(attribkit.NothingToRewrite, match=r"the 0: guided rule finds no rectifier"):
        attribkit.rewrite(nn.Sequential(nn.GELU()), {"0": "guided"})(images())


def test_a_rule_by_part_keeps_gates_if_one_of_its_parts_does() -> None:
    """A deconvnet throughout needs none."""
    gates = {
        rules: attribkit.rewrite(Net(), dict.fromkeys(("stem.*", "*"), "deconvnet") | {"stem.*": rules}).rule.gate
        for rules in ALL
    }
    assert gates == {"backprop": True, "deconvnet": False, "guided": True}


def test_a_rule_by_part_is_the_one_in_force_itself() -> None:
    """As a plain rule is; only several rules over one pass take turns."""
    for rule in ({"*": "guided"}, "guided"):
        net = attribkit.rewrite(Net(), rule)
        assert net.rule.current is net.rule
