"""Activations of one's own follow the rules once they are registered."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import attribkit
from attribkit.engine import activations

RULES = ("backprop", "deconvnet", "guided")


class SquaredReLU(nn.Module):
    """What several vision nets use: half the square of the positive part, here by a method of its own."""

    scale = 0.5

    def positive(self, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.positive(x) ** 2


class LearntReLU(nn.ReLU):
    """A ReLU with a parameter, whose forward calls the one above it."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * super().forward(x)


class Dip(nn.Module):
    """Falls before it rises."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(4 * x)


class Overwriting(nn.Module):
    """Writes into what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(x > 0)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test registers holds for this test."""
    ops, modules = dict(activations.OPS), dict(activations.MODULES)
    yield
    for table, before in ((activations.OPS, ops), (activations.MODULES, modules)):
        table.clear()
        table.update(before)  # type: ignore[arg-type]


def net_of(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), activation, nn.Linear(8, 5), activation, nn.Linear(5, 1)).double().eval()


def maps_of(net: nn.Module) -> Tensor:
    x = torch.randn(3, 6, dtype=torch.double, generator=torch.Generator().manual_seed(1)).requires_grad_()
    return torch.autograd.grad(net(x).sum(), x)[0]


def by_hand(net: nn.Sequential, rule: str, derivative: object) -> Tensor:
    """The way down through linear, f, linear, f, linear, step by step."""
    x = torch.randn(3, 6, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    first = net[0](x)
    second = net[2](net[1](first))
    signal = torch.ones(3, 1, dtype=torch.double) @ net[4].weight
    for before, linear in ((second, net[2]), (first, net[0])):
        if rule != "backprop":
            signal = signal.clamp(min=0)
        if rule != "deconvnet":
            signal = signal * derivative(before)  # type: ignore[operator]
        signal = signal @ linear.weight  # type: ignore[operator]
    return signal.detach()


@pytest.mark.parametrize("rule", RULES)
def test_a_registered_rectifier_follows_the_rules(rule: str) -> None:
    """With the derivative that autograd finds, and with one that is given."""
    net = net_of(SquaredReLU())
    expected = by_hand(net, rule, lambda x: x.clamp(min=0))
    attribkit.register_activation(SquaredReLU, "rectifier")
    rewritten = attribkit.rewrite(net, rule)
    torch.testing.assert_close(maps_of(rewritten), expected, rtol=0, atol=1e-12)
    assert [(site.op, site.how, site.calls) for site in rewritten.sites] == [("SquaredReLU", "module", 2)]
    attribkit.register_activation(SquaredReLU, "rectifier", derivative=lambda module, x: 7 * x.clamp(min=0))
    sevenfold = {"deconvnet": 1, "guided": 49, "backprop": 49}[rule]
    torch.testing.assert_close(maps_of(attribkit.rewrite(net, rule)), sevenfold * expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("rule", RULES)
def test_parameters_and_super_are_there(rule: str) -> None:
    """The module runs as it always did, with its own methods, its parameters and its base class."""
    net = net_of(LearntReLU())
    attribkit.register_activation(LearntReLU, "rectifier")
    expected = by_hand(net, rule, lambda x: 3 * (x > 0))
    rewritten = attribkit.rewrite(net, rule)
    for made in (rewritten, copy.deepcopy(rewritten), pickle.loads(pickle.dumps(rewritten))):
        torch.testing.assert_close(maps_of(made), expected, rtol=0, atol=1e-12)


def test_a_rectifier_of_its_own() -> None:
    """What a signal is put through going down is given with it."""
    net = net_of(SquaredReLU())
    attribkit.register_activation(SquaredReLU, "rectifier", rectifier=lambda module, signal: signal.abs())
    found = maps_of(attribkit.rewrite(net, attribkit.DECONVNET))
    signal = net[4].weight.abs().expand(3, -1)  # type: ignore[union-attr, operator]
    signal = (signal @ net[2].weight).abs() @ net[0].weight  # type: ignore[operator]
    torch.testing.assert_close(found, signal.detach(), rtol=0, atol=1e-12)


def test_smooth_ones_are_swapped_when_asked_for() -> None:
    """And where they fall before they rise, their negative side counts as closed."""
    net = net_of(Dip())

    def derivative(x: Tensor) -> Tensor:
        s = torch.sigmoid(4 * x)
        return (s + 4 * x * s * (1 - s)) * (x > 0)

    attribkit.register_activation(Dip, "smooth", falls_first=True)
    with pytest.raises(attribkit.NothingToRewrite, match="Dip"):
        maps_of(attribkit.rewrite(net, "guided"))
    found = maps_of(attribkit.rewrite(net, "guided", activations="all"))
    torch.testing.assert_close(found, by_hand(net, "guided", derivative), rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", [SquaredReLU, LearntReLU, Dip])
def test_the_forward_pass_stays_the_same(activation: type[nn.Module]) -> None:
    """Bit for bit, also where a smooth one is left alone beside a ReLU."""
    net = nn.Sequential(net_of(activation()), nn.ReLU(), nn.Linear(1, 2).double()).eval()
    attribkit.register_activation(activation, "smooth")
    x = torch.randn(3, 6, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    for which in ("rectifiers", "all"):
        assert torch.equal(attribkit.rewrite(net, activations=which)(x), net(x))  # type: ignore[arg-type]


def test_what_cannot_be_registered_is_refused() -> None:
    """A function, another's name, a wrong kind, a module that overwrites its input or changes its shape."""
    with pytest.raises(TypeError, match="a class of modules"):
        attribkit.register_activation(torch.relu, "rectifier")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'rectifier' or 'smooth'"):
        attribkit.register_activation(Dip, "relu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="already called 'relu'"):
        attribkit.register_activation(type("relu", (nn.Module,), {}), "rectifier")
    attribkit.register_activation(Overwriting, "rectifier")
    with pytest.raises(ValueError, match="writes into its input"):
        maps_of(attribkit.rewrite(net_of(Overwriting()), "guided"))
    attribkit.register_activation(nn.Flatten, "rectifier")
    image = torch.ones(1, 2, 2, requires_grad=True)
    output = attribkit.rewrite(nn.Sequential(nn.Flatten()), "guided")(image)
    with pytest.raises(ValueError, match="is not an activation"):
        output.sum().backward()


def partly() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.SiLU(), nn.Conv2d(4, 2, 3), nn.Sigmoid())


class Functional(nn.Module):
    """A smooth activation that only the forward pass shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.silu(self.conv(x).relu())


def test_strict_refuses_what_is_left_alone() -> None:
    """By name, with the argument that helps; a sigmoid that gates is no reason."""
    with pytest.raises(attribkit.PartlyRewritten, match=r"leaves 1 of 2 activations alone: 3 \(silu\); activations="):
        attribkit.rewrite(partly(), "guided", strict=True)(torch.randn(1, 3, 8, 8))
    attribkit.rewrite(partly(), "guided", strict=True, activations="all")(torch.randn(1, 3, 8, 8))
    attribkit.rewrite(partly(), "backprop", strict=True)(torch.randn(1, 3, 8, 8))
    attribkit.rewrite(partly(), "guided")(torch.randn(1, 3, 8, 8))
    with pytest.raises(attribkit.PartlyRewritten, match="silu"):
        attribkit.rewrite(Functional(), "guided", strict=True)(torch.randn(1, 3, 8, 8))
