"""A unit or a map that is no number is an error that says where that begins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attribkit
from attribkit.errors import BadType, BadValue


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def refused(model: nn.Module, x: Tensor, **options: Any) -> str:
    with pytest.raises(BadValue) as raised:
        attribkit.explain(model, x, **options)
    return str(raised.value)


@pytest.mark.parametrize("options", [{}, {"layer": "3"}, {"layer": "3", "channel": 1, "at": (2, 2)}])
def test_an_image_with_nan_is_named_with_the_place(options: dict[str, Any]) -> None:
    """The first of them, wherever the unit is looked for."""
    x = images()
    x[1, 2, 4, 3] = torch.nan
    model = nn.Sequential(net(), nn.AdaptiveAvgPool2d(1), nn.Flatten()) if not options else net()
    assert refused(model, x, **options) == (
        "image 1: the activation of the unit is nan; the image holds one in channel 2 at (4, 3)"
    )


def test_a_unit_that_does_not_see_the_nan_is_explained() -> None:
    """Its map is that of the image without it."""
    x = images(1)
    expected = attribkit.explain(net(), x, layer="3", channel=1, at=(0, 0))
    x[0, 2, 8, 8] = torch.inf
    assert torch.equal(attribkit.explain(net(), x, layer="3", channel=1, at=(0, 0)).values, expected.values)


def test_a_weight_with_nan_is_named() -> None:
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0, 0, 0] = torch.nan
    assert refused(model, images(), layer="3", channel=0).endswith("nan; the model's 2.weight holds one")


def test_a_module_that_gives_nan_is_named() -> None:
    """A logarithm of what may be negative."""

    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.log()

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Tanh(), Log()), nn.ReLU())
    assert refused(model, images(), layer="2", channel=0).endswith("nan; the first is in what 1.1 gives")


@pytest.mark.parametrize("wrong", [torch.inf, -torch.inf, torch.nan])
def test_a_map_that_overflows_is_no_map(wrong: float) -> None:
    """Though the activation is a number, and so is all of the map but what one number becomes."""

    def spoiled(signal: Tensor, gate: Tensor) -> Tensor:
        return (signal * gate).index_put([torch.tensor(0)] * signal.dim(), torch.tensor(wrong))

    said = refused(net(), images(), method=spoiled, layer="4", channel=0)
    assert said == "a map of the rule spoiled is not finite; it arises on the way down"


@pytest.mark.parametrize(
    ("given", "what"), [(None, "None"), (0.0, "0.0"), (torch.ones(1), r"a tensor of \(1,\)")], ids=str
)
def test_a_rule_that_gives_no_signal_is_an_error(given: Any, what: str) -> None:
    """None was a map of zeros."""

    def mine(signal: Tensor, gate: Tensor) -> Any:
        return given

    with pytest.raises(BadType, match=rf"the rule 'mine' gave {what} for a signal of \(2, 4, "):
        attribkit.explain(net(), images(), mine, layer="4", channel=0, at="all")
