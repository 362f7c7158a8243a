"""The same for smooth activations, under `activations="all"`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from ways_harness import HONEST, RIGHT, LeftAlone, Net, Plain, Refused, Ways

import attribkit

ways = Ways("smooth")
aten = torch.ops.aten


class Swish(Function):
    """As the ones that save memory are written."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return signal * (gate * (1 + x * (1 - gate)))


@torch.jit.script
def scripted_swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def gelu_by_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


KNOWN: dict[str, tuple[Any, Any]] = {
    "F.silu(input=x)": (lambda x: F.silu(input=x), F.silu),
    "F.gelu by keyword": (lambda x: F.gelu(input=x, approximate="tanh"), gelu_by_tanh),
    "nn.SiLU made in forward": (lambda x: nn.SiLU()(x), F.silu),
    "nn.GELU('tanh') called by keyword": (lambda x: nn.GELU("tanh")(input=x), gelu_by_tanh),
    "nn.SiLU(inplace=True)": (lambda x: nn.SiLU(inplace=True)(x.clone()), F.silu),
    "torch.selu": (lambda x: torch.selu(x), F.selu),
    "F.elu by keyword": (lambda x: F.elu(input=x, alpha=0.5), lambda x: F.elu(x, 0.5)),
    "F.softplus by keyword": (lambda x: F.softplus(input=x, beta=2), lambda x: F.softplus(x, 2)),
    "nn.Softplus(beta=2)": (nn.Softplus(beta=2), lambda x: F.softplus(x, 2)),
    "F.hardswish": (lambda x: F.hardswish(x), F.hardswish),
    "x * relu6(x + 3) / 6": (lambda x: x * F.relu6(x + 3) / 6, lambda x: x * F.relu6(x + 3) / 6),
}
OTHERWISE: dict[str, tuple[Any, Any]] = {
    "aten.silu": (lambda x: aten.silu(x), F.silu),
    "aten.silu.default": (lambda x: aten.silu.default(x), F.silu),
    "aten.gelu": (lambda x: aten.gelu(x), F.gelu),
    "aten.elu": (lambda x: aten.elu(x), F.elu),
    "aten.mish": (lambda x: aten.mish(x), F.mish),
    "aten.hardswish": (lambda x: aten.hardswish(x), F.hardswish),
    "aten.softplus": (lambda x: aten.softplus(x), F.softplus),
    "torch._C._nn.silu": (lambda x: torch._C._nn.silu(x), F.silu),
    "torch._C._nn.mish": (lambda x: torch._C._nn.mish(x), F.mish),
    "x * sigmoid(x)": (lambda x: x * torch.sigmoid(x), F.silu),
    "sigmoid(x) * x": (lambda x: torch.sigmoid(x) * x, F.silu),
    "x.mul(x.sigmoid())": (lambda x: x.mul(x.sigmoid()), F.silu),
    "x.mul_(x.sigmoid())": (lambda x: (lambda y: y.mul_(y.sigmoid()))(x.clone()), F.silu),
    "a scripted x * sigmoid(x)": (lambda x: scripted_swish(x), F.silu),
    "x * nn.Sigmoid()(x)": (lambda x: x * nn.Sigmoid()(x), F.silu),
    "x * special.expit(x)": (lambda x: x * torch.special.expit(x), F.silu),
    "x * sigmoid(1.702 * x)": (lambda x: x * torch.sigmoid(1.702 * x), lambda x: F.silu(1.702 * x) / 1.702),
    "x * tanh(softplus(x))": (lambda x: x * torch.tanh(F.softplus(x)), F.mish),
    "x * hardsigmoid(x)": (lambda x: x * F.hardsigmoid(x), F.hardswish),
    "0.5 * x * (1 + erf(x / sqrt(2)))": (lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), F.gelu),
    "gelu by tanh, written out": (
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        gelu_by_tanh,
    ),
    "where(x > 0, x, expm1(x))": (lambda x: torch.where(x > 0, x, torch.expm1(x)), F.elu),
    "-logsigmoid(-x)": (lambda x: -F.logsigmoid(-x), F.softplus),
}
for _name, (_function, _twin) in KNOWN.items():
    ways.function(_name, _function, twin=_twin, activations="all")
for _name, (_function, _twin) in OTHERWISE.items():
    ways.function(_name, _function, HONEST, twin=_twin, activations="all")
ways.function("a Function of one's own", Swish.apply, LeftAlone(("Swish",)), twin=F.silu, activations="all")
ways.function("one that no rule is defined for", torch.tanh, LeftAlone(("tanh",)), torch.tanh, activations="all")
ways.function("F.logsigmoid", F.logsigmoid, LeftAlone(("logsigmoid",)), F.logsigmoid, activations="all")
ways.function("no activation at all", lambda x: x, Refused(attribkit.NothingToRewrite), lambda x: x, activations="all")


class Gated(Net):
    """A ReLU, and a gate: what weighs channels is no activation, and `strict` leaves it in peace."""

    def __init__(self, gate: Any) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.silu(self.gate(self.conv1(x))))


GATES: dict[str, Any] = {
    "squeeze and excite": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "squeeze and excite by hardsigmoid": lambda x: x * F.hardsigmoid(x.mean((2, 3), keepdim=True)),
    "attention by sigmoid": lambda x: x * x.mean(1, keepdim=True).sigmoid(),
    "a GLU by hand": lambda x: torch.cat([x[:, :2] * torch.sigmoid(x[:, 2:])] * 2, 1),
    "a softmax": lambda x: x * x.softmax(1),
    "a normalisation": lambda x: x / (1 + x.square().mean()),
}
for _name, _gate in GATES.items():
    ways.module(f"a gate: {_name}", RIGHT, lambda g=_gate: Gated(g), activations="all")(lambda g=_gate: Gated(g))


class Subclassed(nn.SiLU):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


class WithSwish(Plain):
    act: Any

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.act(self.conv2(self.act(self.conv1(x)))))


for _name, _make in {
    "a SiLU subclass": Subclassed,
    "a SiLU in a list": lambda: [nn.SiLU()][0],
    "a GELU beside": nn.SiLU,
}.items():

    def build(make: Any = _make) -> nn.Module:
        net = WithSwish()
        net.act = make()
        return net

    ways.module(_name, RIGHT, lambda: build(lambda: F.silu), activations="all")(build)
