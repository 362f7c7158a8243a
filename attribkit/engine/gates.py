"""The activations that rules act on: for each its gate, its rectifier, and how it is applied.

An activation is an *op* (a row of `OPS`) with its constants; `apply` runs it forwards as torch does, and backwards by a
rule. `activations.py` says which calls and modules are activations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attribkit.engine.autograd import Quick, eager
from attribkit.engine.norms import pass_by
from attribkit.engine.rules import Rule

if TYPE_CHECKING:
    from attribkit.engine.plan import Passage

aten = torch.ops.aten


# ------------------------------------------------------------------ what the rules need to know of each function


def rectified(signal: Tensor, *constants: Any) -> Tensor:
    return aten.relu.default(signal)


@dataclass(frozen=True)
class Op:
    """One activation function.

    `keep(x, y, *constants)` is the part of the forward pass that its gate needs, one byte per element at the most; None
    keeps x itself. `derivative(kept, like, *constants)` is f'(x), in the type of `like`.
    `falls_first` marks functions that fall before they rise (GELU): to a rule that rectifies, their negative side is
    closed. `inplace` is for functions whose gate can be computed from their output.
    """

    kind: str
    forward: Callable[..., Tensor]
    derivative: Callable[..., Tensor]
    keep: Callable[..., Tensor] | None = None
    rectifier: Callable[..., Tensor] = rectified
    falls_first: bool = False
    inplace: Callable[..., Tensor] | None = None


def _mask(mask: Tensor, like: Tensor, *constants: Any) -> Tensor:
    return _bytes(mask).to(like.dtype)


def _bytes(mask: Tensor) -> Tensor:
    """The same as int8, which torch turns into floats several times faster.

    Not every vmap knows this view, and who watches what is saved may bring back another type.
    """
    return mask.view(torch.int8) if mask.dtype == torch.bool and eager() else mask.to(torch.int8)


def _is_positive(x: Tensor, y: Tensor, *constants: Any) -> Tensor:
    return x > 0


def _is_nonzero(x: Tensor, y: Tensor) -> Tensor:
    return y.bool()  # which for a ReLU says the same as x > 0, and faster


def _inside(x: Tensor, y: Tensor, zero: float, high: float) -> Tensor:
    """Where y is on neither of its bounds: as zero < x < high, and several times faster than comparisons are."""
    return y.bool() & (high - y).bool()


def _where_clamp_is_open(x: Tensor, y: Tensor, low: float, high: float | None) -> Tensor:
    """Where clamp passes a gradient: on its bounds, too, in some releases of torch."""
    if _CLAMP_IS_OPEN_ON_ITS_BOUNDS:
        return x >= low if high is None else (x >= low) & (x <= high)
    return x > low if high is None else (x > low) & (x < high)


def _is_open_at(bound: float) -> bool:
    with torch.enable_grad(), torch.inference_mode(False):
        x = torch.full((1,), bound, requires_grad=True, device="cpu")  # also where the default is another
        return bool(torch.autograd.grad(x.clamp(min=bound).sum(), x)[0])


_CLAMP_IS_OPEN_ON_ITS_BOUNDS = _is_open_at(0.0)  # asked of this torch, since it has changed


def _leaky_derivative(mask: Tensor, like: Tensor, slope: float) -> Tensor:
    return torch.where(mask, like.new_ones(()), slope)


def _prelu_derivative(mask: Tensor, like: Tensor, weight: Tensor) -> Tensor:
    return torch.where(mask, like.new_ones(()), _by_channel(weight, mask).to(like.dtype))


def _by_channel(weight: Tensor, like: Tensor) -> Tensor:
    """One slope for all channels, or one for each."""
    return weight.reshape(-1, *[1] * (like.dim() - 2)) if weight.numel() > 1 else weight


def _sign(x: Tensor, y: Tensor, zero: Tensor) -> Tensor:
    return torch.sign(x).to(torch.int8)


def _half_at_zero(sign: Tensor, like: Tensor, zero: Tensor) -> Tensor:
    """torch splits the gradient of a maximum evenly where the two are equal."""
    return (sign.to(like.dtype) + 1) / 2


def _from_backward(backward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """f'(x), out of torch's own backward kernel of f."""
    return lambda x, like, *constants: backward(torch.ones_like(x), x, *constants)


def _silu_derivative(x: Tensor, like: Tensor) -> Tensor:
    """By arithmetic, since torch's kernel cannot be differentiated again; and so for Mish."""
    gate = aten.sigmoid.default(x)
    return gate * (1 + x * (1 - gate))


def _mish_derivative(x: Tensor, like: Tensor) -> Tensor:
    inner = aten.tanh.default(aten.softplus.default(x))
    return inner + x * aten.sigmoid.default(x) * (1 - inner * inner)


def _gelu(x: Tensor, approximate: str) -> Tensor:
    return aten.gelu.default(x, approximate=approximate)


def _gelu_derivative(x: Tensor, like: Tensor, approximate: str) -> Tensor:
    return aten.gelu_backward.default(torch.ones_like(x), x, approximate=approximate)


def _elu_derivative(x: Tensor, like: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    return aten.elu_backward.default(torch.ones_like(x), alpha, scale, input_scale, False, x)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * aten.sigmoid.default(1.702 * x)


def _quick_gelu_derivative(x: Tensor, like: Tensor) -> Tensor:
    gate = aten.sigmoid.default(1.702 * x)
    return gate * (1 + 1.702 * x * (1 - gate))


def _smooth(forward: Any, derivative: Callable[..., Tensor], falls_first: bool = False) -> Op:
    return Op("smooth", forward, derivative, falls_first=falls_first)


OPS: dict[str, Op] = {
    "relu": Op("rectifier", aten.relu.default, _mask, _is_nonzero, inplace=aten.relu_.default),
    "relu6": Op("rectifier", aten.hardtanh.default, _mask, _inside, inplace=aten.hardtanh_.default),
    "hardtanh": Op("rectifier", aten.hardtanh.default, _mask, _inside, inplace=aten.hardtanh_.default),
    "clamp": Op("rectifier", aten.clamp.default, _mask, _where_clamp_is_open),
    "threshold": Op("rectifier", aten.threshold.default, _mask, lambda x, y, at, value: x > at),
    "maximum": Op("rectifier", aten.maximum.default, _half_at_zero, _sign),
    "leaky_relu": Op("rectifier", aten.leaky_relu.default, _leaky_derivative, _is_positive, aten.leaky_relu.default),
    "prelu": Op("rectifier", aten.prelu.default, _prelu_derivative, _is_positive, aten.prelu.default),
    "gelu": _smooth(_gelu, _gelu_derivative, falls_first=True),
    "silu": _smooth(aten.silu.default, _silu_derivative, falls_first=True),
    "mish": _smooth(aten.mish.default, _mish_derivative, falls_first=True),
    "hardswish": _smooth(aten.hardswish.default, _from_backward(aten.hardswish_backward.default), falls_first=True),
    "quick_gelu": _smooth(_quick_gelu, _quick_gelu_derivative, falls_first=True),
    # The same by arithmetic, as timm has them: the last bit differs from torch's own.
    "swish": _smooth(lambda x: x * aten.sigmoid.default(x), _silu_derivative, falls_first=True),
    "mish_by_parts": _smooth(
        lambda x: x * aten.tanh.default(aten.softplus.default(x)),
        _mish_derivative,
        falls_first=True,
    ),
    "hardswish_by_parts": _smooth(
        lambda x: x * (aten.hardtanh.default(x + 3.0, 0.0, 6.0) / 6.0),
        _from_backward(aten.hardswish_backward.default),
        falls_first=True,
    ),
    "elu": _smooth(aten.elu.default, _elu_derivative),
    "softplus": _smooth(aten.softplus.default, _from_backward(aten.softplus_backward.default)),
}

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


# ------------------------------------------------------------------------------- one activation, applied by a rule


@dataclass(frozen=True)
class Activation:
    """One activation with its constants. An op without a row in `OPS` is seen, named and left alone."""

    op: str
    constants: tuple[Any, ...] = ()
    inplace: bool = False

    @property
    def kind(self) -> str:
        return OPS[self.op].kind if self.op in OPS else "other"

    def apply(self, x: Tensor, original: Callable[[], Tensor], here: Passage) -> Tensor:
        """The activation of x; a gradient that comes back passes by the rule."""
        if self.op not in OPS:  # only while probing is such a one asked for: its signal goes past it
            y = original()
            return pass_by(x, y, here) if y.shape == x.shape else y
        slope = self._tensor()
        if slope is not None and slope.requires_grad:  # by a gradient of its own, since the slope hangs on the image
            below = aten.clamp_max.default(x.detach(), 0)
            return self._applied(x, here, slope.detach()) + _by_channel(slope - slope.detach(), x) * below
        return self._applied(x, here, slope)

    def _applied(self, x: Tensor, here: Passage, tensor: Tensor | None) -> Tensor:
        op = OPS[self.op]
        if not self.inplace:
            return self._run(x, here, tensor)
        if op.inplace is not None and eager():
            return self._run(x, here, tensor, inplace=True)
        # What is written in place must not be what the gate of a smooth function is computed from.
        return x.copy_(self._run(x.clone() if op.keep is None else x, here, tensor))

    def _run(self, x: Tensor, here: Passage, tensor: Tensor | None, inplace: bool = False) -> Tensor:
        return _Activate.run(x, self.op, here, inplace, tensor, () if tensor is not None else self.constants)

    def _tensor(self) -> Tensor | None:
        """The constant that is a tensor, such as the slopes of a PReLU; it is then the only one."""
        return self.constants[0] if self.constants and isinstance(self.constants[0], Tensor) else None


class _Activate(Quick):
    # No `*constants`: torch.compile takes a Function that is called with another number of arguments than `forward`
    # has parameters for one of the old kind.
    @staticmethod
    def forward(
        x: Tensor, name: str, here: Passage, inplace: bool, tensor: Tensor | None, constants: tuple[Any, ...]
    ) -> Tensor:
        constants = constants if tensor is None else (tensor,)
        if not inplace:
            return OPS[name].forward(x, *constants)
        OPS[name].inplace(x, *constants)  # type: ignore[misc]
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.op, ctx.here, inplace, tensor, ctx.constants = inputs
        op, kept = OPS[ctx.op], None
        if ctx.here.keeps_gates:
            kept = x if op.keep is None else op.keep(x, output, *(ctx.constants if tensor is None else (tensor,)))
        if inplace:
            ctx.mark_dirty(x)
        ctx.save_for_backward(kept, tensor)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, signal: Tensor | None) -> tuple[Tensor | None, ...]:
        nothing = (None,) * 5
        if signal is None:
            return None, *nothing
        kept, tensor = ctx.saved_tensors
        constants = ctx.constants if tensor is None else (tensor,)
        op, rule = OPS[ctx.op], ctx.here.rule_now
        if op.derivative is _mask:
            return through_mask(signal, kept, rule), *nothing
        gate = None
        if rule.gate:
            gate = op.derivative(kept, signal, *constants)
            if op.falls_first and not rule.is_gradient:
                gate = gate * (kept > 0).to(gate.dtype)
        return rule.down(signal, gate, lambda s: op.rectifier(s, *constants)), *nothing


def through_mask(signal: Tensor, mask: Tensor | None, rule: Rule) -> Tensor:
    """`Rule.down` for a gate of zeros and ones, writing in place where that is allowed."""
    if not rule.gate or rule.function is not None:
        return rule.down(signal, mask if rule.gate else None, rectified)
    assert mask is not None
    mask = _bytes(mask)
    if torch.is_grad_enabled() or not eager():
        below = signal * mask.to(signal.dtype)  # as floats, or a lift that is traced takes the product for a ReLU
        return rectified(below) if rule.rectify else below
    # One new tensor and not two: large ones are what a backward pass spends its time on beside convolutions.
    below = torch.empty_like(signal).copy_(mask).mul_(signal)
    return below.relu_() if rule.rectify else below
