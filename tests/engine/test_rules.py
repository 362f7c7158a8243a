"""The table of two booleans, and rules of one's own, by hand on numbers and on a net small enough to follow."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attribkit
from attribkit.engine.rules import OPEN, RULES, Relay, Rule, resolve

# Every pair of signs of input and signal, and zero, which counts as closed in both.
INPUTS = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0, 2.0], dtype=torch.float64)
SIGNAL = torch.tensor([2.0, -3.0, 5.0, -7.0, 11.0, 0.0], dtype=torch.float64)

TABLE = {
    (False, False): [2.0, -3.0, 5.0, -7.0, 11.0, 0.0],
    (True, False): [2.0, -3.0, 0.0, 0.0, 0.0, 0.0],
    (False, True): [2.0, 0.0, 5.0, 0.0, 11.0, 0.0],
    (True, True): [2.0, 0.0, 0.0, 0.0, 0.0, 0.0],
}


def down(net: Any, x: Tensor, signal: Tensor) -> Tensor:
    image = x.clone().requires_grad_()
    return torch.autograd.grad(net(image), image, signal)[0]


@pytest.mark.parametrize(("gate", "rectify"), TABLE)
def test_a_rule_is_two_booleans(gate: bool, rectify: bool) -> None:
    """At a ReLU each combination of gate and rectify lets exactly the signals through that its row says."""
    net = attribkit.rewrite(nn.ReLU(), Rule("this", gate=gate, rectify=rectify))
    assert down(net, INPUTS, SIGNAL).tolist() == TABLE[gate, rectify]


def test_the_named_rules_are_rows_of_the_table() -> None:
    """backprop gates, the deconvnet rectifies, guided does both; there are no other names."""
    rows = {name: (rule.gate, rule.rectify) for name, rule in RULES.items()}
    assert rows == {"backprop": (True, False), "deconvnet": (False, True), "guided": (True, True)}
    assert list(RULES.values()) == [attribkit.BACKPROP, attribkit.DECONVNET, attribkit.GUIDED]
    for name, (gate, rectify) in rows.items():
        assert down(attribkit.rewrite(nn.ReLU(), name), INPUTS, SIGNAL).tolist() == TABLE[gate, rectify]


def test_guided_is_what_both_others_let_through() -> None:
    """Guided lets a signal pass where backprop and the deconvnet both do, and passes it unchanged."""
    found = {name: down(attribkit.rewrite(nn.ReLU(), name), INPUTS, SIGNAL) for name in RULES}
    assert torch.equal(found["guided"], torch.where((found["backprop"] != 0) & (found["deconvnet"] != 0), SIGNAL, 0))


@pytest.mark.parametrize(("gate", "rectify"), TABLE)
def test_a_leaky_function_leaks_what_it_closes(gate: bool, rectify: bool) -> None:
    """Gate and rectifier of a leaky ReLU multiply by its slope where a ReLU's close."""
    net = attribkit.rewrite(nn.LeakyReLU(0.5), Rule("this", gate=gate, rectify=rectify))
    expected = SIGNAL.clone()
    if rectify:
        expected = torch.where(SIGNAL > 0, expected, 0.5 * expected)
    if gate:
        expected = torch.where(INPUTS > 0, expected, 0.5 * expected)
    assert torch.equal(down(net, INPUTS, SIGNAL), expected)


@pytest.mark.parametrize(("gate", "rectify"), TABLE)
def test_a_function_closed_below_zero_when_the_rule_changes_it(gate: bool, rectify: bool) -> None:
    """The negative side of a GELU counts as closed to every gate but the chain rule's own."""
    net = attribkit.rewrite(nn.GELU(), Rule("this", gate=gate, rectify=rectify), activations="all")
    expected = F.relu(SIGNAL) if rectify else SIGNAL
    if gate:
        slope = down(F.gelu, INPUTS, torch.ones_like(INPUTS))
        expected = expected * (slope if not rectify else torch.where(INPUTS > 0, slope, 0))
    torch.testing.assert_close(down(net, INPUTS, SIGNAL), expected, rtol=0, atol=1e-15)


# Two layers with round numbers, so that every row below can be checked by hand.
FIRST = torch.tensor([[1.0, -1.0], [2.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
SECOND = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)


class TwoLayers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.relu(x @ FIRST.T) @ SECOND.T + 20)


def absolute(signal: Tensor, gate: Tensor) -> Tensor:
    return signal.abs() * gate


@pytest.mark.parametrize("rule", [absolute, Rule("absolute", function=absolute)], ids=["function", "Rule"])
def test_a_rule_of_ones_own_is_followed_at_every_activation(rule: Any) -> None:
    """A function of (signal, gate), bare or in a Rule, replaces the booleans: numbers worked out by hand.

    x = (3, 1): the hidden values are 2, 7, -2, so the gates are 1, 1, 0 and the output is 2 - 14 + 20 = 8, open.
    From above comes -1: absolute value 1, times (1, -2, 3), absolute and gated (1, 2, 0), times FIRST (5, 1).
    """
    x = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    net = attribkit.rewrite(TwoLayers(), rule)
    assert net(x).tolist() == [[8.0]]
    assert down(net, x, torch.tensor([[-1.0]], dtype=torch.float64)).tolist() == [[5.0, 1.0]]
    assert net.rule.name == "absolute"


def test_what_a_rule_of_ones_own_is_given() -> None:
    """The signal as it comes from above, and f'(x) in the signal's type, one for every element."""
    given: list[tuple[Tensor, Tensor]] = []

    def watch(signal: Tensor, gate: Tensor) -> Tensor:
        given.append((signal, gate))
        return signal

    for net, x in ((nn.ReLU(), INPUTS), (nn.LeakyReLU(0.25), INPUTS.float())):
        assert torch.equal(down(attribkit.rewrite(net, watch), x, SIGNAL.to(x.dtype)), SIGNAL.to(x.dtype))
    (signal, gate), (_, leaky) = given
    assert torch.equal(signal, SIGNAL)
    assert gate.dtype == torch.float64
    assert gate.tolist() == [1, 1, 0, 0, 0, 1]
    assert leaky.dtype == torch.float32
    assert leaky.tolist() == [1, 1, 0.25, 0.25, 0.25, 1]


@pytest.mark.parametrize(("gate", "rectify"), TABLE)
def test_a_function_replaces_the_booleans(gate: bool, rectify: bool) -> None:
    """With a function the booleans mean nothing: it is given the gate, and the signal as it came."""
    net = attribkit.rewrite(nn.ReLU(), Rule("mine", gate=gate, rectify=rectify, function=absolute))
    assert down(net, INPUTS, SIGNAL).tolist() == [2, 3, 0, 0, 0, 0]


def test_the_readme_of_rules_holds() -> None:
    """The rule shown at the top of `rules.py` runs, under the name that Python gives a lambda."""
    net = attribkit.rewrite(nn.ReLU(), lambda signal, gate: signal.abs() * gate)
    assert down(net, INPUTS, SIGNAL).tolist() == [2, 3, 0, 0, 0, 0]
    assert net.rule.name == "<lambda>"


def test_an_object_that_can_be_called_is_a_rule() -> None:
    """A callable object is a rule too, and is called by the name of its class."""

    class Halved:
        def __call__(self, signal: Tensor, gate: Tensor) -> Tensor:
            return 0.5 * signal * gate

    rule = resolve(Halved())
    assert rule.name == "Halved"
    assert down(attribkit.rewrite(nn.ReLU(), rule), INPUTS, SIGNAL).tolist() == [1, -1.5, 0, 0, 0, 0]


@pytest.mark.parametrize("rule", list(RULES.values()), ids=list(RULES))
def test_rules_and_their_names_are_the_same_thing(rule: Rule) -> None:
    """A rule stands for itself, and its name for it."""
    assert resolve(rule) is rule
    assert resolve(rule.name) is rule


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ("Guided", ValueError, "no rule is called 'Guided'; choose one of backprop, deconvnet, guided or pass a Rule"),
        ("", ValueError, "choose one of backprop, deconvnet, guided"),
        (None, TypeError, "a name, a Rule, a function of (signal, gate) or a mapping, not NoneType"),
        ((True, False), TypeError, "not tuple"),
    ],
)
def test_what_is_no_rule_is_told_what_is(wrong: Any, error: type[Exception], says: str) -> None:
    """One line with the names that there are."""
    with pytest.raises(error) as caught:
        resolve(wrong)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_is_backprop_where_nothing_else_is_said() -> None:
    assert Rule("mine").is_gradient
    assert not Rule("mine", rectify=True).is_gradient


def test_rules_that_everybody_shares_cannot_be_changed() -> None:
    for rule in (*RULES.values(), resolve({"*": "guided"})):
        with pytest.raises(dataclasses.FrozenInstanceError):
            rule.parts = rule.gate = False  # type: ignore[misc, union-attr]


def test_a_rule_with_a_function_is_given_every_gate_and_rectifies_if_it_wants_to() -> None:
    rule = Rule("mine", gate=False, rectify=True, function=absolute)
    assert (rule.gate, rule.rectify) == (True, False)


@pytest.mark.parametrize(
    ("function", "gave"),
    [
        (lambda signal, gate: None, "gave None for a signal of (6,)"),
        (lambda signal, gate: signal.sum(), "gave a tensor of () for a signal of (6,)"),
        (lambda signal, gate: signal[:5], "gave a tensor of (5,) for a signal of (6,)"),
        (lambda signal, gate: torch.cat([signal, gate]), "gave a tensor of (12,) for a signal of (6,)"),
    ],
)
def test_a_function_that_gives_no_signal_of_that_shape_is_refused(function: Any, gave: str) -> None:
    net = attribkit.rewrite(nn.ReLU(), Rule("mine", function=function))
    with pytest.raises(TypeError) as caught:
        down(net, INPUTS, SIGNAL)
    assert str(caught.value) == f"the rule 'mine' {gave}"


def test_a_rule_by_part_is_the_gradient_where_each_part_is() -> None:
    """And follows its parts, where the first pattern that fits counts."""
    assert resolve({"a": "backprop", "*": Rule("mine")}).is_gradient is True
    assert resolve({"a": "backprop", "*": "guided"}).is_gradient is False
    assert resolve({"a*": "deconvnet", "*": "guided"}).at("ab").name == "deconvnet"
    assert resolve({"a*": "deconvnet"}).at("b").name == "backprop"


def test_several_rules_over_one_pass_begin_with_the_first() -> None:
    relay = Relay([RULES["guided"], RULES["backprop"]])
    assert relay.current is RULES["guided"]
    assert relay.at("anywhere").current is RULES["guided"]


def test_the_open_rule_stops_nothing() -> None:
    assert OPEN.down(SIGNAL, None, torch.relu) is SIGNAL
    assert (OPEN.gate, OPEN.rectify) == (False, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("high", [6.0, 0.125, 2.0**-14])
def test_a_bounded_relu_is_closed_on_its_bounds_as_in_torch(high: float, dtype: torch.dtype) -> None:
    """And open right beside them, however small the numbers are."""
    bound = torch.tensor(high, dtype=dtype)
    zero = torch.zeros((), dtype=dtype)
    x = torch.stack([zero, -zero, bound, torch.nextafter(zero, bound), torch.nextafter(bound, zero), bound / 2, -bound])
    maps = []
    for net in (attribkit.rewrite(nn.Hardtanh(0.0, high), "backprop"), nn.Hardtanh(0.0, high)):
        image = x.clone().requires_grad_()
        maps.append(torch.autograd.grad(net(image).sum(), image)[0])
    assert torch.equal(maps[0], maps[1])
