"""Rewritten nets against the oracle: every rule, on every way of writing an activation, to ten digits."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from nets import IN_PLACE_ON_VIEWS, NETS, POOLS, SMOOTH_NETS, TOKEN_LINEAR, Builder, random_nets
from oracles import attribution, mixed_signal, state_digest, switches_of
from torch import Tensor

import attribkit

RULES = ["backprop", "deconvnet", "guided"]


def assert_same_output(found: Any, expected: Any) -> None:
    """The same containers, and in them the same tensors bit for bit."""
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        assert_same_output(list(found.values()), list(expected.values()))
    elif isinstance(expected, (tuple, list)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same_output(one, other)
    elif dataclasses.is_dataclass(expected):
        assert_same_output(vars(found), vars(expected))
    else:
        assert found == expected


def assert_follows(build: Builder, rule: str, activations: str = "rectifiers", twin: Builder | None = None) -> None:
    """A rewritten net computes what its original does, brings down what the oracle says, and leaves no trace.

    `twin` builds the same function for the oracle, where the oracle cannot look into the net itself.
    """
    model, x = build()
    before = state_digest(model)
    rewritten = attribkit.rewrite(model, rule, activations=activations)
    image = x.clone().requires_grad_()
    output, without_grad = rewritten(image), rewritten(x)
    (found,) = torch.autograd.grad(mixed_signal(output), image)
    assert state_digest(model) == before

    plain = build()[0].eval()
    assert_same_output(output, plain(image))
    assert_same_output(without_grad, plain(x))
    expected = attribution((twin or build)()[0], x, mixed_signal, rule, activations)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * expected.abs().max().item())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", NETS)
def test_rules_on_rectifiers(name: str, rule: str) -> None:
    assert_follows(NETS[name], rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SMOOTH_NETS)
def test_rules_on_smooth_activations(name: str, rule: str) -> None:
    assert_follows(SMOOTH_NETS[name], rule, activations="all")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", IN_PLACE_ON_VIEWS)
def test_rules_on_activations_written_into_views(name: str, rule: str) -> None:
    build, twin = IN_PLACE_ON_VIEWS[name]
    assert_follows(build, rule, twin=twin)


@pytest.mark.parametrize("rule", RULES)
def test_a_linear_over_tokens_computes_what_it_does_with_frozen_weights(rule: str) -> None:
    """Bit for bit when the original's weights need no gradient, as the rewritten ones never do; else rounded.

    Here torch.matmul itself chooses the order of its sums by the weight's `requires_grad`.
    """
    model, x = TOKEN_LINEAR()
    rewritten = attribkit.rewrite(model.eval(), rule)
    torch.testing.assert_close(rewritten(x), model(x), rtol=0, atol=1e-14)
    assert torch.equal(rewritten(x), model.requires_grad_(False)(x))
    image = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(mixed_signal(rewritten(image)), image)
    expected = attribution(model, x, mixed_signal, rule)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * expected.abs().max().item())


@pytest.mark.parametrize("name", [*NETS, *SMOOTH_NETS])
def test_backprop_is_autograd(name: str) -> None:
    build = {**NETS, **SMOOTH_NETS}[name]
    gradients = []
    for model in (attribkit.rewrite(build()[0], "backprop", activations="all"), build()[0].eval()):
        image = build()[1].requires_grad_()
        gradients += torch.autograd.grad(mixed_signal(model(image)), image)
    found, expected = gradients
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * expected.abs().max().item())


@pytest.mark.parametrize("name", SMOOTH_NETS)
def test_smooth_activations_are_refused_unless_asked_for(name: str) -> None:
    model, x = SMOOTH_NETS[name]()
    with pytest.raises(attribkit.NothingToRewrite, match="all"):
        attribkit.rewrite(model, "guided")(x)


@pytest.mark.parametrize("rule", RULES)
@settings(deadline=None, max_examples=13)  # of each rule
@given(build=random_nets())
def test_rules_on_random_nets(rule: str, build: Builder) -> None:
    assert_follows(build, rule)


@pytest.mark.parametrize("how", ["uniform", "center", "corner", "overwrite"])
@pytest.mark.parametrize("name", POOLS)
def test_other_ways_down_through_pools(name: str, how: str) -> None:
    model, x = NETS[name]()
    options = {"overlap": "overwrite"} if how == "overwrite" else {"switches": how}
    rewritten = attribkit.rewrite(model, "deconvnet", **options)
    image = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(mixed_signal(rewritten(image)), image)
    expected = attribution(model, x, mixed_signal, "deconvnet", pools=how)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * expected.abs().max().item())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", POOLS)
def test_replaying_another_images_switches(name: str, rule: str) -> None:
    model, x = NETS[name]()
    other = x.flip(0, 2) * 2
    rewritten = attribkit.rewrite(model, rule, switches=attribkit.record_switches(model, other))
    image = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(mixed_signal(rewritten(image)), image)
    expected = attribution(model, x, mixed_signal, rule, pools=switches_of(model, other, mixed_signal))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * expected.abs().max().item())
