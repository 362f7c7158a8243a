"""`check` says "right" only where the graph shows no rectifier out of reach, and nothing that hides what it does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attribkit.verify.checking import check


class Ours(nn.Module):
    """A ReLU on the way, and then whatever `step` is."""

    def __init__(self, step: Any) -> None:
        super().__init__()
        self.conv, self.relu, self.last, self.step = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.last(self.relu(self.conv(x)))).mean((2, 3))


class Doubled(torch.autograd.Function):
    """Somebody's own operation, which might be anything."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        return 2 * signal


def made(step: Any) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Ours(step).double(), torch.randn(1, 3, 8, 8).double()


def test_a_rectifier_by_arithmetic_is_wrong() -> None:
    """(x + |x|) / 2 is a ReLU that no rule reaches."""
    checked = check(*made(lambda x: (x + x.abs()) / 2))
    assert checked.outcome == "wrong"
    (finding,) = (f for f in checked.findings if "every rectifier of the graph" in f.promise)
    assert finding.holds is False
    assert "arithmetic" in finding.seen


def test_a_function_of_somebody_cannot_be_told() -> None:
    """It may rectify inside; so neither right nor wrong."""
    checked = check(*made(Doubled.apply))
    assert checked.outcome == "cannot be judged"
    assert not checked.right
    assert any(site.op == "Doubled" and not site.swapped for site in checked.sites)


def test_a_net_that_hides_nothing_is_right() -> None:
    """The same net without such a step."""
    assert check(*made(lambda x: x)).outcome == "right"
