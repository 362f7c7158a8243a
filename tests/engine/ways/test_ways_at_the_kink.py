"""What is recognised as a ReLU by its values computes what the model wrote, to the sign of a zero, and has its gate.

Spellings of a ReLU differ where x is zero, infinite or no number, in their type and in their shape. The forward pass
is the model's own there, too, and the gate is the true derivative: half for a maximum, one for a clamp.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from ways_calls import KEYWORDS
from ways_harness import in_double_precision
from ways_unreached import AROUND, BOUNDS, CHOICES, PRODUCTS

import attribkit

# A PReLU made in forward is float64, sizes are fixed, and a sign bit is no comparison where x is a minus zero.
SPELLINGS = {
    name: function
    for name, function in {**BOUNDS, **CHOICES, **PRODUCTS, **KEYWORDS}.items()
    if not name.startswith(AROUND) and not re.search("4, 1, 1|PReLU|signbit", name)
}
VALUES = [-2.0, -1e-300, -0.0, 0.0, 1e-300, 0.5, 3.0]
STRANGE = [-torch.inf, torch.inf, torch.nan]


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with in_double_precision():
        yield


def values(dtype: torch.dtype = torch.float64, *more: float) -> Tensor:
    return torch.tensor([*VALUES, *more], dtype=dtype).reshape(1, 1, 1, -1)


def rewritten(function: Callable[[Tensor], Any], rule: str) -> Callable[[Tensor], Tensor]:
    """A function under a rule; beside a ReLU, so that it is no error where its own values hide that it is one."""
    net = attribkit.rewrite(lambda x: (F.relu(x), function(x)), rule)
    return lambda x: net(x)[1]


def signals() -> tuple[Tensor, Tensor]:
    """Of both signs."""
    ones = torch.ones(1, 1, 1, len(VALUES))
    return ones, -ones


def same_bits(found: Tensor, expected: Tensor) -> None:
    """Equal to the sign of a zero; what is no number is none in both."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    numbers = ~expected.isnan()
    assert torch.equal(torch.signbit(found)[numbers], torch.signbit(expected)[numbers])


def pulled(function: Callable[[Tensor], Tensor], x: Tensor, signal: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x), x, signal)[0]


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_forward_pass_is_the_models_own_at_the_kink(name: str) -> None:
    """At zeros of both signs, at infinities and at what is no number, with and without a gradient."""
    function = SPELLINGS[name]
    net, x = rewritten(function, "guided"), values(torch.float64, *STRANGE)
    same_bits(net(x), function(x))
    same_bits(net(x.clone().requires_grad_()).detach(), function(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", SPELLINGS)
def test_the_type_of_the_result_is_the_models_own(name: str, dtype: torch.dtype) -> None:
    """A mask or a bound of a wider type makes a wider result, and the map comes in the image's own."""
    function, x = SPELLINGS[name], values(dtype)
    for rule in ("backprop", "guided"):
        net = rewritten(function, rule)
        image = x.clone().requires_grad_()
        found = net(image)
        same_bits(found.detach(), function(x))
        assert torch.autograd.grad(found.sum(), image)[0].dtype == dtype


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_gate_is_the_true_derivative_at_the_kink(name: str) -> None:
    """Backprop is autograd's gradient where x is zero, and guided backprop and the deconvnet follow from its gate."""
    function, x = SPELLINGS[name], values()
    gate = pulled(function, x, torch.ones_like(x))
    for signal in signals():
        expected = {"backprop": gate * signal, "deconvnet": signal.relu(), "guided": gate * signal.relu()}
        for rule, wanted in expected.items():
            found = pulled(rewritten(function, rule), x, signal)
            torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True, msg=f"{rule}: {found}")


# Close to a ReLU, and none ----------------------------------------------------------------------------------


def stale(x: Tensor) -> Tensor:
    mask = x > 0
    return (x + 1) * mask


def stale_in_place(x: Tensor) -> Tensor:
    x = x * 1
    mask = x > 0
    x += 1
    return x * mask


def written_mask(x: Tensor) -> Tensor:
    mask = x > 0
    mask[..., 0] = True
    return x * mask


def kept_mask(x: Tensor) -> Tensor:
    mask = x > 0
    return torch.where(mask, x, 0) + torch.where(mask, 0, x)


CLOSE: dict[str, Callable[[Tensor], Tensor]] = {
    "where(x > 0, x + 1, 0)": lambda x: torch.where(x > 0, x + 1, 0),
    "where(x > 0, 2 * x, 0)": lambda x: torch.where(x > 0, 2 * x, 0),
    "where(x > 0, -x, 0)": lambda x: torch.where(x > 0, -x, 0),
    "where(x > 0, x, 1)": lambda x: torch.where(x > 0, x, 1),
    "where(x > 0, x, ones)": lambda x: torch.where(x > 0, x, torch.ones_like(x)),
    "where(x > 0, x, -x)": lambda x: torch.where(x > 0, x, -x),
    "where(x > 0, 0, x)": lambda x: torch.where(x > 0, 0, x),
    "where(x < 0, x, 0)": lambda x: torch.where(x < 0, x, 0),
    "where(x > 1, x, 0)": lambda x: torch.where(x > 1, x, 0),
    "where(x > -1, x, 0)": lambda x: torch.where(x > -1, x, 0),
    "where(x - 1 > 0, x, 0)": lambda x: torch.where(x - 1 > 0, x, 0),
    "where(x != 0, x, 0)": lambda x: torch.where(x != 0, x, 0),
    "where(x > 0, x.detach(), 0)": lambda x: torch.where(x > 0, x.detach(), 0) + 0.1 * x,
    "where of a mask that is written": lambda x: torch.where((x > 0).logical_not_(), x, 0),
    "masked_fill(x < 0, 1)": lambda x: x.masked_fill(x < 0, 1),
    "masked_fill(x > 0, 0)": lambda x: x.masked_fill(x > 0, 0),
    "masked_fill(x < 1, 0)": lambda x: x.masked_fill(x < 1, 0),
    "masked_fill(x < 0, -inf)": lambda x: x.masked_fill(x < 0, -1e9),
    "x * (x < 0)": lambda x: x * (x < 0),
    "x * (x > 1)": lambda x: x * (x > 1),
    "x * (x == x)": lambda x: x * (x == x),
    "2 * x * (x > 0)": lambda x: 2 * x * (x > 0),
    "x * (x > 0) * 2": lambda x: x * (x > 0) * 2,
    "x * 2 * (x > 0).double()": lambda x: x * (2 * (x > 0).double()),
    "x * x * (x > 0)": lambda x: x * x * (x > 0),
    "x * (x.mean() > 0)": lambda x: x * (x.mean() > 0),
    "x * (x > x.mean())": lambda x: x * (x > x.mean()),
    "x * a mask that was written": written_mask,
    "x + 1 by the mask of x": stale,
    "x by a mask of x before it was written": stale_in_place,
    "one mask for both halves": kept_mask,
    "clamp(min=ones)": lambda x: x.clamp(min=torch.ones(1)),
    "clamp(min=half zeros)": lambda x: x.clamp(min=torch.linspace(0, 1, x.shape[-1])),
    "clamp(min=None, max=tensor)": lambda x: x.clamp(max=torch.ones(1)),
    "clamp(tensor(0), tensor of x)": lambda x: x.clamp(torch.zeros(1), x.detach().abs().mean()),
    "clamp(1, 0)": lambda x: x.clamp(1, 0),
    "clamp(0, 0)": lambda x: x.clamp(0, 0) + x,
    "clamp(max=0)": lambda x: x.clamp(max=0),
    "fmax(x, ones)": lambda x: torch.fmax(x, torch.ones(1)),
    "fmin(x, 0)": lambda x: torch.fmin(x, torch.zeros(1)),
    "maximum(x, half zeros)": lambda x: torch.maximum(x, torch.linspace(0, 1, x.shape[-1])),
    "maximum(x, x)": lambda x: torch.maximum(x, x),
    "maximum(x, 0 * x)": lambda x: torch.maximum(x, 0 * x),
    "maximum that broadcasts x": lambda x: torch.maximum(x[:, :1], torch.zeros(2, 3, 1, 1)),
    "where that broadcasts x": lambda x: torch.where(x[:, :1] > 0, x[:, :1], torch.zeros(2, 3, 1, 1)),
    "fmax that broadcasts x": lambda x: torch.fmax(x[:, :1], torch.zeros(2, 3, 1, 1)),
    "clamp that broadcasts x": lambda x: x[:, :1].clamp(min=torch.zeros(2, 3, 1, 1)),
    "x * a mask that broadcasts": lambda x: x[:, :1] * (x > 0),
    "x * (x > 0) of another size": lambda x: x * (x[:, :1] > 0),
    "F.threshold(x, 0, 1)": lambda x: F.threshold(x, 0, 1),
    "F.threshold(x, 1, 0)": lambda x: F.threshold(x, 1, 0),
    "F.threshold(x, -1, 0)": lambda x: F.threshold(x, -1, 0),
    "F.hardtanh(x, -1, 0)": lambda x: F.hardtanh(x, -1, 0),
    "F.hardtanh(x, 0, 0.5)": lambda x: F.hardtanh(x, 0, 0.5),
    "F.leaky_relu(x, -1)": lambda x: F.leaky_relu(x, -1),
    "F.leaky_relu(x, 1)": lambda x: F.leaky_relu(x, 1),
    "F.leaky_relu(x, 2)": lambda x: F.leaky_relu(x, 2),
    "F.relu6(x - 3)": lambda x: F.relu6(x - 3),
}


def picture() -> Tensor:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2
    x[..., 0] = 0.0
    return x


@pytest.mark.parametrize("name", CLOSE)
def test_what_is_close_to_a_relu_computes_itself(name: str) -> None:
    """The forward pass and the chain rule's map are the model's own, whatever a comparison looks like."""
    function, x = CLOSE[name], picture()
    for rule in ("backprop", "deconvnet", "guided"):
        net = attribkit.rewrite(lambda x: F.relu(x + 5) + function(x), rule)
        same_bits(net(x), F.relu(x + 5) + function(x))
        image = x.clone().requires_grad_()
        found = net(image)
        same_bits(found.detach(), F.relu(x + 5) + function(x))
        if rule == "backprop":
            plain = x.clone().requires_grad_()
            signal = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
            (expected,) = torch.autograd.grad(F.relu(plain + 5) + function(plain), plain, signal)
            torch.testing.assert_close(torch.autograd.grad(found, image, signal)[0], expected, rtol=0, atol=1e-12)


NEGATIVE = (
    "where(x > 0, 0, x)",
    "where(x < 0, x, 0)",
    "masked_fill(x > 0, 0)",
    "x * (x < 0)",
    "clamp(max=0)",
    "fmin(x, 0)",
)


@pytest.mark.parametrize("name", NEGATIVE)
def test_the_negative_part_is_no_relu(name: str) -> None:
    """What lets the negative side pass is not called one that lets the positive side pass: it is left alone."""
    function, x = CLOSE[name], picture()
    net = attribkit.rewrite(lambda x: F.relu(function(x)) + F.relu(x), "deconvnet")
    net(x.requires_grad_())
    swapped: list[Any] = [site.op for site in net.sites if site.swapped]
    assert swapped == ["relu", "relu"], net.sites
