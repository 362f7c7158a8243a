"""Local response normalisation on the way down: past it under the deconvnet, through it under the others."""

from __future__ import annotations

import pytest
import torch
from nets import NETS
from oracles import attribution, mixed_signal
from torch import Tensor, nn
from torch.nn import functional as F

import attribkit

RULES = ["backprop", "deconvnet", "guided"]


class Normed(nn.Module):
    """A response norm strong enough that bypassing it shows, and a ReLU behind it."""

    def __init__(self, called: bool) -> None:
        super().__init__()
        self.norm = nn.LocalResponseNorm(3, alpha=2.0, beta=0.75, k=1.5)
        self.called = called

    def normed(self, x: Tensor) -> Tensor:
        return F.local_response_norm(x, 3, 2.0, 0.75, 1.5) if self.called else self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.normed(x) - 0.1)


def images() -> Tensor:
    return torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_hand(x: Tensor, rule: str, bypass: bool) -> Tensor:
    """The signal of `mixed_signal`, down through the ReLU by the rule, then past the norm or through it."""
    image = x.clone().requires_grad_()
    normed = F.local_response_norm(image, 3, 2.0, 0.75, 1.5)
    output = F.relu(normed - 0.1).detach().requires_grad_()
    (signal,) = torch.autograd.grad(mixed_signal(output), output)
    if rule != "backprop":
        signal = signal.clamp(min=0)
    if rule != "deconvnet":
        signal = torch.where(output > 0, signal, 0)
    return signal if bypass else torch.autograd.grad(normed, image, signal)[0]


def found_by(net: nn.Module, x: Tensor) -> Tensor:
    image = x.clone().requires_grad_()
    return torch.autograd.grad(mixed_signal(net(image)), image)[0]


@pytest.mark.parametrize("called", [False, True], ids=["module", "function"])
@pytest.mark.parametrize("norms", ["rule", "bypass", "gradient"])
@pytest.mark.parametrize("rule", RULES)
def test_the_signal_goes_past_the_norm_or_through_it(rule: str, norms: str, called: bool) -> None:
    """The deconvnet alone bypasses a norm unless `norms` says otherwise; the forward pass never changes."""
    model, x = Normed(called), images()
    net = attribkit.rewrite(model, rule, norms=norms)
    assert torch.equal(net(x), model(x))
    bypass = rule == "deconvnet" if norms == "rule" else norms == "bypass"
    torch.testing.assert_close(found_by(net, x), by_hand(x, rule, bypass), rtol=0, atol=1e-14)
    assert not torch.allclose(by_hand(x, rule, True), by_hand(x, rule, False))


@pytest.mark.parametrize("norms", ["rule", "bypass", "gradient"])
def test_rules_of_ones_own_keep_the_gradient_of_norms(norms: str) -> None:
    """A custom function is no deconvnet; booleans without a gate are."""
    x = images()
    function = attribkit.Rule("mine", function=lambda signal, gate: signal.clamp(min=0))
    booleans = attribkit.Rule("mine", gate=False, rectify=True)
    for rule, bypasses in ((function, False), (booleans, True)):
        bypass = bypasses if norms == "rule" else norms == "bypass"
        found = found_by(attribkit.rewrite(Normed(called=False), rule, norms=norms), x)
        torch.testing.assert_close(found, by_hand(x, "deconvnet", bypass), rtol=0, atol=1e-14)


def test_norms_are_listed_among_the_sites() -> None:
    """A norm is a site of its own kind, by name and with its calls, as module and as function."""
    for called, name, how in ((False, "norm", "module"), (True, "#local_response_norm", "function")):
        net = attribkit.rewrite(Normed(called), "deconvnet")
        net(images())
        assert attribkit.Site(name, "local_response_norm", "norm", how, 1, True) in net.sites


def test_a_norm_alone_is_nothing_to_rewrite() -> None:
    """Bypassing a norm is not what a rule promises: without any rectifier it is refused."""
    with pytest.raises(attribkit.NothingToRewrite):
        attribkit.rewrite(nn.Sequential(nn.LocalResponseNorm(3)), "deconvnet")(images())


@pytest.mark.parametrize("norms", ["rule", "bypass", "gradient"])
def test_several_methods_share_one_forward_pass(norms: str) -> None:
    """`explain` with all rules at once gives each the map that it gives alone, also across norms."""
    model, x = NETS["F.local_response_norm"]()
    rules = [*RULES, attribkit.Rule("open", gate=False)]
    calls: list[torch.Size] = []
    model.conv3.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].shape))
    options = {"target": 1, "output": lambda y: y.sum((2, 3)), "norms": norms}
    together = attribkit.explain(model, x, rules, **options)
    once = len(calls)
    assert list(together) == [*RULES, "open"]
    for rule in rules:
        name = rule if isinstance(rule, str) else rule.name
        calls.clear()
        alone = attribkit.explain(model, x, rule, **options)
        assert len(calls) == once, "the number of forward passes does not grow with the methods"
        torch.testing.assert_close(together[name].values, alone.values, rtol=0, atol=1e-12)
        if norms == "rule" and isinstance(rule, str):
            expected = attribution(model, x, lambda y: y[:, 1].sum(), rule)
            torch.testing.assert_close(alone.values, expected, rtol=0, atol=1e-12)
    maps = [together[name].values for name in together]
    assert not any(torch.allclose(one, other) for i, one in enumerate(maps) for other in maps[:i])
