"""A rectifier that neither a module nor a function of torch's name shows: recognised at the call, or said."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from ways_harness import HONEST, LOOSE, RIGHT, LeftAlone, Net, Refused, Ways

import attribkit

ways = Ways("unreached")
aten = torch.ops.aten


def written(x: Tensor, change: Any) -> Tensor:
    """A copy of x after `change` has written into it."""
    x = x.clone()
    change(x)
    return x


# Bounds that are tensors ------------------------------------------------------------------------------------

BOUNDS: dict[str, Any] = {
    "x.clip(0)": lambda x: x.clip(0),
    "x.clip(min=0)": lambda x: x.clip(min=0),
    "x.clip_(0)": lambda x: x.clone().clip_(0),
    "torch.clip(x, 0)": lambda x: torch.clip(x, 0),
    "torch.clamp(x, 0)": lambda x: torch.clamp(x, 0),
    "x.clamp(min=0, max=inf)": lambda x: x.clamp(0, float("inf")),
    "x.clamp(min=-0.0)": lambda x: x.clamp(min=-0.0),
    "x.clamp(min=False)": lambda x: x.clamp(min=False),
    "x.clamp(min=np.float64(0))": lambda x: x.clamp(min=np.float64(0)),
    "x.clamp(min=tensor(0.))": lambda x: x.clamp(min=torch.tensor(0.0)),
    "x.clamp(min=tensor(0))": lambda x: x.clamp(min=torch.tensor(0)),
    "torch.clamp(x, tensor(0.))": lambda x: torch.clamp(x, torch.tensor(0.0)),
    "x.clamp_(min=tensor(0.))": lambda x: x.clone().clamp_(min=torch.tensor(0.0)),
    "x.clip(min=zeros(1))": lambda x: x.clip(min=torch.zeros(1)),
    "x.clamp(min=zeros(4, 1, 1))": lambda x: x.clamp(min=torch.zeros(4, 1, 1)),
    "x.clamp(min=zeros_like(x))": lambda x: x.clamp(min=torch.zeros_like(x)),
    "torch.clamp_min(x, zeros(1))": lambda x: torch.clamp_min(x, torch.zeros(1)),
    "x.clamp_min(tensor(0.))": lambda x: x.clamp_min(torch.tensor(0.0)),
    "x.clamp_min_(tensor(0.))": lambda x: x.clone().clamp_min_(torch.tensor(0.0)),
    "torch.fmax(x, zero)": lambda x: torch.fmax(x, torch.zeros(())),
    "torch.fmax(x, zeros_like(x))": lambda x: torch.fmax(x, torch.zeros_like(x)),
    "torch.fmax(zero, x)": lambda x: torch.fmax(torch.zeros(1), x),
    "x.fmax(zero)": lambda x: x.fmax(x.new_zeros(1)),
    "torch.maximum(x, zeros(1))": lambda x: torch.maximum(x, torch.zeros(1)),
    "torch.maximum(x, zeros in float32)": lambda x: torch.maximum(x, torch.zeros(1, dtype=torch.float32)),
    "torch.maximum(x, zeros of integers)": lambda x: torch.maximum(x, torch.zeros(1, dtype=torch.int64)),
    "torch.max(x, zeros_like(x))": lambda x: torch.max(x, torch.zeros_like(x)),
    "x.max(zero)": lambda x: x.max(torch.tensor(0.0)),
    "torch.max(zero, x)": lambda x: torch.max(torch.tensor(0.0), x),
    "torch.maximum(x, 0 * x.detach())": lambda x: torch.maximum(x, 0 * x.detach()),
    "-minimum(-x, 0)": lambda x: -torch.minimum(-x, torch.zeros(())),
    "-(-x).clamp(max=0)": lambda x: -(-x).clamp(max=0),
    "-torch.fmin(-x, 0)": lambda x: -torch.fmin(-x, torch.zeros(())),
    "x - x.clamp(max=0)": lambda x: x - x.clamp(max=0),
    "x - minimum(x, 0)": lambda x: x - torch.minimum(x, torch.zeros(())),
}
# What is no ReLU by its own value but by what is done around it may be left alone, if that is said.
AROUND = ("-", "x - ")
for _name, _function in BOUNDS.items():
    ways.function(_name, _function, HONEST if _name.startswith(AROUND) else RIGHT)
ways.function(
    "x.clamp(tensor(0.), tensor(2.))",
    lambda x: x.clamp(torch.tensor(0.0), torch.tensor(2.0)),
    twin=lambda x: x.clamp(0, 2),
)
ways.function("clamp by a bound that the net learns", lambda x: x.clamp(min=nn.Parameter(torch.zeros(1))), HONEST)


# where, masked_fill, subscripts -----------------------------------------------------------------------------

CHOICES: dict[str, Any] = {
    "where(x > 0, x, 0)": lambda x: torch.where(x > 0, x, 0),
    "where(x > 0, x, 0.0)": lambda x: torch.where(x > 0, x, 0.0),
    "where(x >= 0, x, 0)": lambda x: torch.where(x >= 0, x, 0),
    "where(x > 0, x, zeros_like(x))": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "where(x > 0, x, tensor(0.))": lambda x: torch.where(x > 0, x, torch.tensor(0.0)),
    "where(x > 0, x, tensor(0))": lambda x: torch.where(x > 0, x, torch.tensor(0)),
    "where(x < 0, 0, x)": lambda x: torch.where(x < 0, 0, x),
    "where(x <= 0, zeros(1), x)": lambda x: torch.where(x <= 0, torch.zeros(1), x),
    "where(0 < x, x, 0)": lambda x: torch.where(0 < x, x, 0),  # noqa: SIM300 (as people write it)
    "where(x.gt(0), x, 0)": lambda x: torch.where(x.gt(0), x, 0),
    "where(torch.gt(x, 0), x, 0)": lambda x: torch.where(torch.gt(x, 0), x, 0),
    "where(x > zeros(1), x, 0)": lambda x: torch.where(x > torch.zeros(1), x, 0),
    "where(~(x <= 0), x, 0)": lambda x: torch.where(~(x <= 0), x, 0),
    "where(x.detach() > 0, x, 0)": lambda x: torch.where(x.detach() > 0, x, 0),
    "where(x.sign() > 0, x, 0)": lambda x: torch.where(x.sign() > 0, x, 0),
    "where(signbit(x), 0, x)": lambda x: torch.where(torch.signbit(x), 0, x),
    "where by keyword": lambda x: torch.where(condition=x > 0, input=x, other=torch.zeros(())),
    "x.where(x > 0, 0)": lambda x: x.where(x > 0, 0),
    "x.where(x > 0, tensor(0.))": lambda x: x.where(x > 0, torch.tensor(0.0)),
    "zeros.where(x <= 0, x)": lambda x: torch.zeros_like(x).where(x <= 0, x),
    "where of a mask made before": lambda x: (lambda mask: torch.where(mask, x, 0))(x > 0),
    "masked_fill(x < 0, 0)": lambda x: x.masked_fill(x < 0, 0),
    "masked_fill(x <= 0, 0.0)": lambda x: x.masked_fill(x <= 0, 0.0),
    "masked_fill(x.lt(0), tensor(0.))": lambda x: x.masked_fill(x.lt(0), torch.tensor(0.0)),
    "masked_fill(~(x > 0), 0)": lambda x: x.masked_fill(~(x > 0), 0),
    "masked_fill(mask=, value=)": lambda x: x.masked_fill(mask=x < 0, value=0),
    "torch.masked_fill(x, x < 0, 0)": lambda x: torch.masked_fill(x, x < 0, 0),
    "masked_fill_(x < 0, 0)": lambda x: x.clone().masked_fill_(x < 0, 0),
    "x[x < 0] = 0": lambda x: written(x, lambda y: operator.setitem(y, y < 0, 0)),
    "x[x <= 0] = 0.0": lambda x: written(x, lambda y: operator.setitem(y, y <= 0, 0.0)),
    "x[x < 0] = tensor(0.)": lambda x: written(x, lambda y: operator.setitem(y, y < 0, torch.tensor(0.0))),
    "x[torch.lt(x, 0)] = 0": lambda x: written(x, lambda y: operator.setitem(y, torch.lt(y, 0), 0)),
    "x[torch.where(x < 0)] = 0": lambda x: written(x, lambda y: operator.setitem(y, torch.where(y < 0), 0)),
    "x[..., x < 0] = 0 of every row": lambda x: written(x, lambda y: operator.setitem(y, (..., y < 0), 0)),
}


def below(x: Tensor) -> Tensor:
    """Where the negative values of x stand in a row of all."""
    return (x.flatten() < 0).nonzero()[:, 0]


def above(x: Tensor) -> Tensor:
    return (x.flatten() > 0).nonzero()[:, 0]


def zeros_below(x: Tensor) -> Tensor:
    return torch.zeros(len(below(x)))


def in_numpy(x: Tensor) -> tuple[Tensor, ...]:
    """Positions of negative values, found where the library does not look."""
    return tuple(map(torch.from_numpy, np.where(x.detach().numpy() < 0)))


OTHER_CHOICES: dict[str, Any] = {
    "x[positions from numpy] = 0": lambda x: written(x, lambda y: operator.setitem(y, in_numpy(y), 0)),
    "x.flatten()[mask] = 0": lambda x: written(x, lambda y: operator.setitem(y.view(-1), y.view(-1) < 0, 0)),
    "index_fill": lambda x: x.flatten().index_fill(0, below(x), 0.0).view_as(x),
    "index_fill_ of a view": lambda x: written(x, lambda y: y.view(-1).index_fill_(0, below(y), 0.0)),
    "index_copy": lambda x: x.flatten().index_copy(0, below(x), zeros_below(x)).view_as(x),
    "index_add": lambda x: torch.zeros(x.numel()).index_add(0, above(x), x[x > 0]).view_as(x),
    "put": lambda x: x.put(below(x), zeros_below(x)),
    "scatter": lambda x: torch.zeros(x.numel()).scatter(0, above(x), x[x > 0]).view_as(x),
    "masked_scatter": lambda x: torch.zeros_like(x).masked_scatter(x > 0, x[x > 0]),
    "gather": lambda x: torch.stack([torch.zeros_like(x), x]).gather(0, (x > 0).long()[None])[0],
    "x[x < 0] *= 0": lambda x: written(x, lambda y: operator.setitem(y, y < 0, y[y < 0] * 0)),
    "index_put((x < 0,), 0)": lambda x: x.index_put((x < 0,), torch.tensor(0.0)),
    "index_put_((x < 0,), 0)": lambda x: x.clone().index_put_((x < 0,), torch.tensor(0.0)),
    "zeros[x > 0] = x[x > 0]": lambda x: written(torch.zeros_like(x), lambda y: operator.setitem(y, x > 0, x[x > 0])),
    "torch.where(x > 0, x, x * 0)": lambda x: torch.where(x > 0, x, x * 0),
    "torch.where((x > 0) & (x < 1e9), x, 0)": lambda x: torch.where((x > 0) & (x < 1e9), x, 0),
}

# Arithmetic -------------------------------------------------------------------------------------------------

PRODUCTS: dict[str, Any] = {
    "x * (x > 0)": lambda x: x * (x > 0),
    "(x > 0) * x": lambda x: (x > 0) * x,
    "x * (x >= 0)": lambda x: x * (x >= 0),
    "x * (x > 0).float()": lambda x: x * (x > 0).float(),
    "x * (x > 0).to(x.dtype)": lambda x: x * (x > 0).to(x.dtype),
    "(x > 0).double() * x": lambda x: (x > 0).double() * x,
    "x * (x > 0).type_as(x)": lambda x: x * (x > 0).type_as(x),
    "x * (x > 0).int()": lambda x: x * (x > 0).int(),
    "x.mul(x > 0)": lambda x: x.mul(x > 0),
    "torch.mul(x, x > 0)": lambda x: torch.mul(x, x > 0),
    "torch.multiply(x, x.gt(0))": lambda x: torch.multiply(x, x.gt(0)),
    "x.mul_(x > 0)": lambda x: x.clone().mul_(x > 0),
    "x *= x > 0": lambda x: operator.imul(x.clone(), x > 0),
    "x * ~(x < 0)": lambda x: x * ~(x < 0),
    "x * (x.detach() > 0)": lambda x: x * (x.detach() > 0),
}
ARITHMETIC: dict[str, Any] = {
    "x * (1 - (x < 0).double())": lambda x: x * (1 - (x < 0).double()),
    "x * heaviside(x)": lambda x: x * torch.heaviside(x.detach(), torch.zeros(())),
    "x * (sign(x) + 1) / 2": lambda x: x * (x.detach().sign() + 1) / 2,
    "x * sign(x).clamp(0)": lambda x: x * x.detach().sign().clamp(0),
    "x * where(x > 0, 1, 0)": lambda x: x * torch.where(x > 0, 1.0, 0.0),
    "x - x * (x < 0)": lambda x: x - x * (x < 0),
    "(x + x.abs()) / 2": lambda x: (x + x.abs()) / 2,
    "0.5 * (x + torch.abs(x))": lambda x: 0.5 * (x + torch.abs(x)),
    "(x.abs() + x) * 0.5": lambda x: (x.abs() + x) * 0.5,
    "(abs(x) + x) / 2": lambda x: (abs(x) + x) / 2,
    "x.add(x.abs()).div(2)": lambda x: x.add(x.abs()).div(2),
    "addcmul by a mask": lambda x: torch.addcmul(torch.zeros_like(x), x, (x > 0).double()),
    "where of a product": lambda x: torch.where(x > 0, 1.0, 0.0) * x,
    "pow of a mask": lambda x: x * (x > 0) ** 1.0,
    "lerp by a mask": lambda x: torch.lerp(torch.zeros_like(x), x, (x > 0).double()),
    "x / where(x > 0, 1, inf)": lambda x: x / torch.where(x > 0, 1.0, torch.inf),
    "x / (1 / (x > 0))": lambda x: x / (1 / (x > 0).double()),
    "bmm of a mask": lambda x: torch.bmm((x > 0).double().view(-1, 1, 1), x.view(-1, 1, 1)).view_as(x),
    "0.5 * x + 0.5 * |x|": lambda x: 0.5 * x + 0.5 * x.abs(),
    "(x + sqrt(x * x)) / 2": lambda x: (x + (x * x).sqrt()) / 2,
    "(x + hypot(x, 0)) / 2": lambda x: (x + torch.hypot(x, torch.zeros(()))) / 2,
    "(x + copysign(x, 1)) / 2": lambda x: (x + torch.copysign(x, torch.ones(()))) / 2,
    "(x + l1_loss(x, 0)) / 2": lambda x: (x + F.l1_loss(x, torch.zeros_like(x), reduction="none")) / 2,
}
ways.function(
    "fake_quantize from zero",
    lambda x: torch.fake_quantize_per_tensor_affine(x, 1e-3, 0, 0, 10**6),
    HONEST,
    lambda x: torch.fake_quantize_per_tensor_affine(F.relu(x), 1e-3, 0, -(10**6), 10**6),
)


def with_zeros(x: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(x), x])


ORDERS: dict[str, Any] = {
    "max of a stack": lambda x: with_zeros(x).max(0).values,
    "torch.max of a stack": lambda x: torch.max(torch.stack((x, x.new_zeros(x.shape)), -1), -1)[0],
    "max of a stack of x and 0 * x": lambda x: torch.stack([x, 0 * x]).max(0).values,
    "amax of a stack": lambda x: with_zeros(x).amax(0),
    "amax of a cat": lambda x: torch.cat([x[:, None], torch.zeros_like(x)[:, None]], 1).amax(1),
    "amax of a transposed stack": lambda x: with_zeros(x).movedim(0, -1).amax(-1),
    "cummax of a stack": lambda x: with_zeros(x).cummax(0).values[1],
    "sort of a stack": lambda x: with_zeros(x).sort(0).values[1],
    "topk of a stack": lambda x: with_zeros(x).topk(1, 0).values[0],
    "kthvalue of a stack": lambda x: with_zeros(x).kthvalue(2, 0).values,
    "-amin of a stack": lambda x: -torch.stack([-x, torch.zeros_like(x)]).amin(0),
    "x - min of a stack": lambda x: x - with_zeros(x).min(0).values,
}
if hasattr(torch.ones(1, requires_grad=True).aminmax().max.grad_fn, "_saved_max"):  # not in the oldest torch
    ORDERS["aminmax of a stack"] = lambda x: with_zeros(x).aminmax(dim=0).max
for _name, _function in ORDERS.items():
    ways.function(_name, _function, HONEST)
for _functions, _expected in ((CHOICES, RIGHT), (PRODUCTS, RIGHT), (OTHER_CHOICES, HONEST), (ARITHMETIC, HONEST)):
    for _name, _function in _functions.items():
        ways.function(_name, _function, _expected)  # type: ignore[arg-type]

ways.function(
    "where(x > 0, x, 0.1 * x)", lambda x: torch.where(x > 0, x, 0.1 * x), HONEST, lambda x: F.leaky_relu(x, 0.1)
)
ways.function("maximum(x, 0.1 * x)", lambda x: torch.maximum(x, 0.1 * x), HONEST, lambda x: F.leaky_relu(x, 0.1))
ways.function(
    "relu(x) - 0.1 * relu(-x)", lambda x: F.relu(x) - 0.1 * F.relu(-x), twin=lambda x: F.relu(x) - 0.1 * F.relu(-x)
)
ways.function("x * (x > 0.3)", lambda x: x * (x > 0.3), HONEST, lambda x: F.threshold(x, 0.3, 0))
ways.function("where(x > 0.3, x, 0)", lambda x: torch.where(x > 0.3, x, 0), HONEST, lambda x: F.threshold(x, 0.3, 0))
ways.function(
    "CReLU", lambda x: torch.cat([x, -x], 1).relu()[:, 2:6], twin=lambda x: torch.cat([x, -x], 1).relu()[:, 2:6]
)


# Below torch's functions ------------------------------------------------------------------------------------

BELOW: dict[str, Any] = {
    "aten.relu": lambda x: aten.relu(x),
    "aten.relu.default": lambda x: aten.relu.default(x),
    "aten.relu_": lambda x: aten.relu_(x.clone()),
    "aten.clamp": lambda x: aten.clamp(x, 0),
    "aten.clamp_min": lambda x: aten.clamp_min(x, 0),
    "aten.clamp.Tensor": lambda x: aten.clamp.Tensor(x, torch.zeros(1)),
    "aten.threshold": lambda x: aten.threshold(x, 0, 0),
    "aten.leaky_relu": lambda x: aten.leaky_relu(x, 0.0),
    "aten.maximum": lambda x: aten.maximum(x, torch.zeros_like(x)),
    "aten.where": lambda x: aten.where.self(x > 0, x, torch.zeros(())),
    "torch._C._nn.leaky_relu": lambda x: torch._C._nn.leaky_relu(x, 0.0),
    "torch._C._nn.hardtanh": lambda x: torch._C._nn.hardtanh(x, 0.0, float("inf")),
    "torch._C._VariableFunctions.relu": lambda x: torch._C._VariableFunctions.relu(x),
    "torch._VF.relu": lambda x: torch._VF.relu(x),
    "torch._VF.threshold": lambda x: torch._VF.threshold(x, 0.0, 0.0),
    "torch._refs.nn.functional.relu": lambda x: torch._refs.nn.functional.relu(x),
}
for _name, _function in BELOW.items():
    ways.function(_name, _function, HONEST)
ways.function("torch._C._nn.relu6", lambda x: torch._C._nn.relu6(x), HONEST, F.relu6)
ways.function("aten.hardtanh", lambda x: aten.hardtanh(x, 0.0, 6.0), HONEST, F.relu6)
ways.function("aten.prelu", lambda x: aten.prelu(x, torch.tensor([0.2])), HONEST, lambda x: F.leaky_relu(x, 0.2))


# What is no rectifier, and must not be taken for one --------------------------------------------------------

MASK = torch.tensor([1, 0, 1, 1], dtype=torch.bool)[:, None, None]


class Gated(Net):
    """A ReLU that the rule reaches, and around it what is none."""

    def __init__(self, around: Any) -> None:
        super().__init__()
        self.around = around

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.relu(self.around(self.conv1(x))))


NO_RECTIFIERS: dict[str, Any] = {
    "a padding mask multiplies": lambda x: x * MASK,
    "a padding mask of numbers multiplies": lambda x: x * MASK.double(),
    "a padding mask fills": lambda x: x.masked_fill(~MASK, 0),
    "a padding mask chooses": lambda x: torch.where(MASK, x, 0),
    "a maximum of two branches": lambda x: torch.maximum(x, 2 * x.flip(1)),
    "abs": lambda x: x.abs(),
    "square": lambda x: x * x,
    "a sum with a mean": lambda x: (x + x.mean()) / 2,
    "softmax attention": lambda x: x * x.flatten(2).softmax(-1).view_as(x),
    "masked attention": lambda x: x.flatten(2).masked_fill(~MASK.flatten(1), -1e9).softmax(-1).view_as(x),
    "a maximum with ones": lambda x: torch.maximum(x, torch.ones(())),
    "a clamp from above": lambda x: x.clamp(max=1),
    "a clamp of a norm from below": lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=1e-12),
    "F.normalize": lambda x: F.normalize(x),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "channels of zeros beside the image's": lambda x: torch.cat([x, torch.zeros_like(x)], 1)[:, :4],
    "a pool over added rows of zeros": lambda x: F.max_pool2d(torch.cat([x, torch.zeros_like(x)], 2), (2, 1)),
    "a maximum over branches in a stack": lambda x: torch.stack([x, x.flip(1)]).amax(0),
    "the strongest channels": lambda x: x.topk(4, 1).values,
    "a residual of a square": lambda x: x + x * x,
    "a quotient of numbers": lambda x: x / torch.full_like(x, 3.0),
    "the middle between two": lambda x: torch.lerp(x, x.flip(1), 0.5),
    "an image by its number": lambda x: written(x, lambda y: operator.setitem(y, torch.tensor([1]), 0)),
    "fake_quantize that clips nothing": lambda x: (
        x + (torch.fake_quantize_per_tensor_affine(x, 1e-3, 0, -(10**6), 10**6) - x).detach()
    ),
}
for _name, _function in NO_RECTIFIERS.items():
    ways.module(f"no rectifier: {_name}", RIGHT, lambda f=_function: Gated(f))(lambda f=_function: Gated(f))

# A choice by a comparison with another tensor is a step function of the image: no rectifier, but worth a line.
GATES = {
    "where(x > another, x, another)": lambda x: torch.where(x > x.flip(1), x, x.flip(1)),
    "where(a mean > 0, x, 0)": lambda x: torch.where(x.mean(1, keepdim=True) > 0, x, 0),
    "x * (another > 0)": lambda x: x * (x.flip(1) > 0),
}
for _name, _function in GATES.items():
    ways.module(f"no rectifier: {_name}", LOOSE, lambda f=_function: Gated(f))(lambda f=_function: Gated(f))


# A rectifier that does not carry the image ------------------------------------------------------------------

NOTHING = Refused(attribkit.NothingToRewrite)


def by_no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        mask = F.relu(x)
    return x * mask


ASIDE: dict[str, Any] = {
    "under no_grad": by_no_grad,
    "of a detached tensor": lambda x: x * F.relu(x.detach()),
    "of a constant": lambda x: x * F.relu(torch.ones(1)),
    "of a weight": lambda x: x + F.relu(torch.linspace(-1, 1, 4)[:, None, None]),
    "of a comparison": lambda x: x * F.relu((x > 0).double() - 0.5),
    "whose result is dropped": lambda x: (F.relu(x), x)[1],
}
for _name, _function in ASIDE.items():
    dropped = "dropped" in _name
    ways.function(f"the only ReLU is {_name}", _function, HONEST if dropped else NOTHING, twin=_function)
ways.function("an in-place ReLU of a copy", lambda x: (x.clone().relu_(), x)[1], HONEST, twin=lambda x: x)
ways.function("none at all, but a tanh", torch.tanh, Refused(attribkit.NothingToRewrite, "tanh"), twin=torch.tanh)
ways.function("none at all", lambda x: x, NOTHING, twin=lambda x: x)
ways.function("F.hardtanh from -1", F.hardtanh, Refused(attribkit.NothingToRewrite, "hardtanh"), twin=F.hardtanh)
ways.function("x.clamp(-1, 1)", lambda x: x.clamp(-1, 1), NOTHING, twin=lambda x: x.clamp(-1, 1))
ways.function("x.clamp(min=0.5)", lambda x: x.clamp(min=0.5), NOTHING, twin=lambda x: x.clamp(min=0.5))
ways.function("F.softshrink", F.softshrink, LeftAlone(("softshrink",)), twin=F.softshrink)
ways.function("F.gelu among rectifiers", F.gelu, LeftAlone(("gelu",)), twin=F.gelu)
