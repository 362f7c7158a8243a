"""Rectifiers that are written as arithmetic: `x * (x > 0)`, `where(x > 0, x, 0)`, `x[x < 0] = 0`, bounds in tensors.

Whether such a call is a ReLU hangs on its values, so they are compared: the mask with `x > 0` or `x >= 0`, which also
says where the gate is open at zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import EllipsisType, NoneType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attribkit.engine.autograd import Quick, eager
from attribkit.engine.gates import rectified, through_mask
from attribkit.errors import NotSupported

if TYPE_CHECKING:
    from attribkit.engine.plan import Passage

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Masked:
    """A ReLU whose gate is a mask that the model has made, or might have made.

    Where `at_zero` is given, `mask` holds signs instead, and that is how far the gate is open at zero.
    """

    mask: Tensor
    inplace: bool = False
    at_zero: float | None = None

    op = "relu"
    kind = "rectifier"

    def apply(self, x: Tensor, original: Callable[[], Any], here: Passage) -> Any:
        """What the call gives, by the model's own arithmetic; a signal passes by the rule."""
        result = _Masked.run(x, self.mask, original, here, self.inplace, self.at_zero)
        return result if not self.inplace else x


class _Masked(Quick):
    @staticmethod
    def forward(
        x: Tensor,
        mask: Tensor,
        original: Callable[[], Any],
        here: Passage,
        inplace: bool,
        at_zero: float | None,
    ) -> Tensor:
        y = original()
        return x if inplace else y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, mask, _, ctx.here, inplace, ctx.at_zero = inputs
        if inplace:
            ctx.mark_dirty(x)
        ctx.save_for_backward(mask)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        rule = ctx.here.rule_now
        if ctx.at_zero is None:
            return through_mask(signal, mask, rule), None, None, None, None, None
        gate = (mask > 0).to(signal.dtype) + ctx.at_zero * (mask == 0).to(signal.dtype)
        return rule.down(signal, gate if rule.gate else None, rectified), None, None, None, None, None


def _gate_at_zero(function: Callable[[Tensor], Tensor]) -> float:
    """How far this torch opens the gate of a function at zero; it has changed."""
    with torch.enable_grad(), torch.inference_mode(False), torch.device("cpu"):  # also where the default is another
        x = torch.zeros(1, requires_grad=True)
        return float(torch.autograd.grad(function(x).sum(), x)[0])


_CLAMP_AT_ZERO = _gate_at_zero(lambda x: x.clamp(min=torch.zeros(())))
_FMAX_AT_ZERO = _gate_at_zero(lambda x: torch.fmax(x, torch.zeros(())))
_FMAX_OF_ZERO_AT_ZERO = _gate_at_zero(lambda x: torch.fmax(torch.zeros(()), x))  # another one in torch 2.8
_MAXIMUM_AT_ZERO = _gate_at_zero(lambda x: torch.maximum(x, torch.zeros(())))


Recognised = tuple[Tensor, Masked] | None


def _has_values(tensor: Tensor) -> bool:
    """Whether numbers can be read: not under a compiler or vmap, and not on the meta device."""
    return eager() and not tensor.is_meta


def _is_zero(value: Any) -> bool:
    """Whether a number, or a tensor that carries no signal, is zero everywhere."""
    if isinstance(value, Tensor):
        return not value.requires_grad and not value.is_complex() and not (_has_values(value) and bool(value.any()))
    return isinstance(value, (int, float)) and value == 0


def _opening(x: Any, mask: Any) -> bool:
    """Whether a mask is open where x is above zero and nowhere below."""
    if not (isinstance(x, Tensor) and isinstance(mask, Tensor)) or x.shape != mask.shape:
        return False
    if not x.is_floating_point() or mask.is_complex() or mask.requires_grad:
        return False
    if not _has_values(mask):  # what may be a rectifier is taken for one
        return mask.dtype == torch.bool
    return any(torch.equal(mask, above.to(mask.dtype)) for above in (aten.gt.Scalar(x, 0), aten.ge.Scalar(x, 0)))


def _product(input: Any, other: Any, *, out: Any = None) -> Recognised:
    for x, mask in ((input, other), (other, input)):
        if out is None and _opening(x, mask):
            return x, Masked(mask.bool())
    return None


def _product_in_place(input: Any, other: Any) -> Recognised:
    return (input, Masked(other.bool(), inplace=True)) if _opening(input, other) else None


def _where(condition: Any, input: Any = None, other: Any = None, *, out: Any = None) -> Recognised:
    if out is not None or not isinstance(condition, Tensor) or condition.dtype != torch.bool:
        return None
    if _is_zero(other) and _opening(input, condition):
        return input, Masked(condition)
    if _is_zero(input) and _opening(other, ~condition):
        return other, Masked(~condition)
    return None


def _where_of_tensor(input: Any, condition: Any = None, other: Any = None) -> Recognised:
    return _where(condition, input, other)


def _masked_fill(input: Any, mask: Any, value: Any) -> Recognised:
    return (input, Masked(~mask)) if _is_zero(value) and _opening(input, ~mask) else None


def _masked_fill_in_place(input: Any, mask: Any, value: Any) -> Recognised:
    return (input, Masked(~mask, inplace=True)) if _is_zero(value) and _opening(input, ~mask) else None


def _set_item(input: Any, index: Any, value: Any) -> Recognised:
    """x[x < 0] = 0, and whatever else says where x is below zero: positions, masks and positions from NumPy."""
    parts = index if isinstance(index, tuple) else (index,)
    if all(isinstance(part, (int, slice, EllipsisType, NoneType)) for part in parts) or not _is_zero(value):
        return None
    if isinstance(index, Tensor) and index.dtype == torch.bool:
        return _masked_fill_in_place(input, index, value)
    kept = torch.ones_like(input, dtype=torch.bool)
    kept[index] = False
    return (input, Masked(kept, inplace=True)) if _opening(input, kept) else None


def _signs(x: Tensor) -> Tensor:
    return aten.sign.default(x).to(torch.int8)


def _fits(x: Any, bound: Any) -> bool:
    """Whether a bound of zeros leaves x its shape."""
    if not (isinstance(x, Tensor) and isinstance(bound, Tensor)) or not x.is_floating_point() or not _is_zero(bound):
        return False
    return _leaves_the_shape(x, bound)


def _leaves_the_shape(x: Tensor, bound: Tensor) -> bool:
    return bound.dim() <= x.dim() and torch.broadcast_shapes(x.shape, bound.shape) == x.shape


def _between(x: Tensor, high: Tensor) -> Tensor:
    """Signs of how far x lies between zero and `high`: 1 inside, -1 outside, 0 on one of the bounds."""
    above, below = _signs(x), _signs(high - x)
    return torch.where((above == 0) & (below == 0), 1, torch.minimum(above, below))  # open, where both are equal


def _bounded(input: Tensor, min: Any = None, max: Any = None, *, out: Any = None) -> Recognised:
    """A clamp whose lower bound is a tensor of zeros."""
    if out is not None or not _fits(input, min):
        return None
    if max is None:
        return input, Masked(_signs(input), at_zero=_CLAMP_AT_ZERO)
    if max.requires_grad or not _leaves_the_shape(input, max):
        return None
    return input, Masked(_between(input, max), at_zero=_CLAMP_AT_ZERO)


def _bounded_below(input: Tensor, min: Any, *, out: Any = None) -> Recognised:
    return _bounded(input, min, out=out)


def _fmax(input: Tensor, other: Tensor, *, out: Any = None) -> Recognised:
    for x, zero, at_zero in ((input, other, _FMAX_AT_ZERO), (other, input, _FMAX_OF_ZERO_AT_ZERO)):
        if out is None and _fits(x, zero):
            return x, Masked(_signs(x), at_zero=at_zero)
    return None


def _maximum_of_zero(input: Any, other: Any = None, *args: Any, **kwargs: Any) -> Recognised:
    """A maximum in which the zero stands first, which gives zeros of another sign."""
    if args or kwargs or not _fits(other, input):
        return None
    return other, Masked(_signs(other), at_zero=_MAXIMUM_AT_ZERO)


def _in_place(recognise: Callable[..., Recognised]) -> Callable[..., Recognised]:
    def recognise_in_place(*args: Any, **kwargs: Any) -> Recognised:
        recognised = recognise(*args, **kwargs)
        return recognised and (recognised[0], replace(recognised[1], inplace=True))

    return recognise_in_place


FUNCTIONS: dict[Any, Callable[..., Recognised]] = {
    **dict.fromkeys((torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, aten.mul, aten.mul.Tensor), _product),
    **dict.fromkeys((Tensor.__mul__, Tensor.__rmul__), _product),
    **dict.fromkeys((Tensor.mul_, Tensor.multiply_, Tensor.__imul__), _product_in_place),
    torch.where: _where,
    Tensor.where: _where_of_tensor,
    **dict.fromkeys((torch.masked_fill, Tensor.masked_fill), _masked_fill),
    Tensor.masked_fill_: _masked_fill_in_place,
    Tensor.__setitem__: _set_item,
    **dict.fromkeys((torch.clamp, torch.clip, Tensor.clamp, Tensor.clip), _bounded),
    **dict.fromkeys((torch.clamp_, torch.clip_, Tensor.clamp_, Tensor.clip_), _in_place(_bounded)),
    **dict.fromkeys((torch.clamp_min, Tensor.clamp_min), _bounded_below),
    **dict.fromkeys((torch.clamp_min_, Tensor.clamp_min_), _in_place(_bounded_below)),
    **dict.fromkeys((torch.fmax, Tensor.fmax), _fmax),
    **dict.fromkeys((torch.maximum, Tensor.maximum, torch.max, Tensor.max), _maximum_of_zero),
}


def from_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recognised:
    """The tensor and the rectifier of a function call; None where the call is something else."""
    recognise = FUNCTIONS.get(function)
    recognised = recognise(*args, **kwargs) if recognise is not None else None
    if recognised is not None and not eager():
        raise NotSupported(
            f"whether {function.__name__} is a ReLU depends on its values, which torch.compile and vmap hide: "
            "call the net without them, image by image"
        )
    return recognised
