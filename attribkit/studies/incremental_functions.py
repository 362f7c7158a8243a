"""Operators on tensors that differ in windows: what each does to the windows, for those where that is known.

A rule returns `None` where it does not know this call; then the operator gets plain tensors, which is always right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attribkit.studies.incremental_tensor import (
    CannotFollow,
    Shared,
    Windowed,
    made_whole,
    unwrapped,
    windowed_in,
    wrapped,
)
from attribkit.studies.incremental_windows import Kernel, Place
from attribkit.studies.nested import mapped

aten = torch.ops.aten
Rule = Callable[..., Any]


def dispatched(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operator of which one argument at least is windowed."""
    args, kwargs = unwrapped((args, kwargs))
    windowed = windowed_in((args, kwargs))
    if not windowed:
        return func(*args, **kwargs)
    if any(x.is_lost for x in windowed):
        raise CannotFollow("it looks at which cell of a max-pool won")
    rule = RULES.get(func.overloadpacket)
    if rule is None and torch.Tag.pointwise in func.tags:
        rule = _pointwise
    if rule is None:
        windowed[0].shared.left[func.overloadpacket.__name__] += 1
    result = rule(func, args, kwargs) if rule is not None else None
    return _on_plain(func, args, kwargs, windowed) if result is None else result


def _on_plain(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], windowed: list[Windowed]) -> Any:
    """An operator without a rule, on plain tensors; what it writes into or looks at stays plain."""
    if any(argument.alias_info is not None for argument in func._schema.arguments):
        for x in windowed:
            x.become_plain()
    return func(*made_whole(args), **made_whole(kwargs))


# ------------------------------------------------------------------------------------------------ element by element


def _pointwise(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Each element of the result depends on those in its place: windows join."""
    windowed = windowed_in((args, kwargs))
    first = windowed[0]
    items, plane, dim = len(first), first.shape[-2:], first.dim()
    if kwargs.get("out") is not None or any(x.shape[-2:] != plane or x.dim() != dim for x in windowed):
        return None
    if not all(_is_common(x, items, plane, dim) for x in _plain_in((args, kwargs))):
        return None
    place = reduce(Place.joined, (x.place for x in windowed))

    def in_windows(x: Any) -> Any:
        if isinstance(x, Windowed):
            return x.at(place)
        return _common_at(x, place, plane, dim) if isinstance(x, Tensor) else x

    return _done(func, args, kwargs, in_windows, place)


def _done(func: Any, args: Any, kwargs: Any, in_windows: Callable[[Any], Any], place: Place) -> Any:
    """The operator on what is shared and on the windows; into the first argument where it writes there."""
    first = windowed_in((args, kwargs))[0]
    writes = func._schema.is_mutable
    if writes and not (isinstance(args[0], Windowed) and func.overloadpacket.__name__.endswith("_")):
        return None
    given = mapped(in_windows, (args, kwargs))
    if writes and args[0].has_views:
        raise CannotFollow("it writes into a view")
    base = _on_base(first.shared, func, args, kwargs, writes)
    windows = func(*given[0], **given[1])
    if not writes:
        return wrapped(base, windows, place, first.shared)
    args[0].becomes(base, windows, place)
    return args[0]


def _on_base(shared: Shared, func: Any, args: Any, kwargs: Any, writes: bool = False) -> Any:
    args, kwargs = mapped(lambda x: x.base if isinstance(x, Windowed) else x, (args, kwargs))

    def compute() -> Any:
        return func(args[0].clone(), *args[1:], **kwargs) if writes else func(*args, **kwargs)

    return shared.computed(func, args, kwargs, compute)


def _plain_in(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(lambda x: found.append(x) if isinstance(x, Tensor) and not isinstance(x, Windowed) else None, value)
    return found


def _is_common(x: Tensor, items: int, plane: Sequence[int], dim: int) -> bool:
    """Whether a plain tensor is the same for all items, and easily cut to their windows."""
    if x.dim() > dim or (x.dim() == dim and x.shape[0] != 1) or items == 1:
        return False
    return x.dim() == 0 or x.shape[-2:].numel() == 1 or (x.dim() > 1 and x.shape[-2:] == plane)


def _common_at(x: Tensor, place: Place, plane: Sequence[int], dim: int) -> Tensor:
    if x.dim() == 0 or x.shape[-2:].numel() == 1:
        return x
    return place.cut(x.reshape((1,) * (dim - x.dim()) + x.shape))


# ---------------------------------------------------------------------------------------------- kernels that slide


def _slid(
    x: Windowed, func: Any, kernels: Sequence[Kernel], fill: float, base: Tensor, on: Callable[[Tensor], Tensor]
) -> Any:
    """What slides over the padded plane: `on` does it to parts of that without a padding of its own."""
    place = _reached(x, kernels, base)
    sides = []
    for kernel, size, outputs in zip(kernels, x.base.shape[-2:], base.shape[-2:], strict=True):
        sides.append((kernel.padding, kernel.padding + kernel.overhang(size, outputs)))
    padding = (*sides[1], *sides[0])

    def pad() -> Tensor:
        return F.pad(x.base, padding, value=fill) if any(padding) else x.base

    padded = x.shared.computed(pad.__name__, (x.base, padding, fill), {}, pad)
    seen = Place(kernels[0].seen(place.rows, padded.shape[-2]), kernels[1].seen(place.columns, padded.shape[-1]))
    inner = Place(x.place.rows.padded(*sides[0]), x.place.columns.padded(*sides[1]))
    around = seen.cut(padded)
    seen.put(around, x.windows, inner)
    return wrapped(base, on(around), place, x.shared)


def _reached(x: Windowed, kernels: Sequence[Kernel], base: Tensor) -> Place:
    """Where the result differs."""
    return Place(kernels[0].reached(x.place.rows, base.shape[-2]), kernels[1].reached(x.place.columns, base.shape[-1]))


def _convolution(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args
    if not isinstance(x, Windowed) or len(windowed_in(args)) > 1 or transposed or x.dim() != 4:
        return None
    kernels = _kernels(weight.shape[-2:], stride, padding, dilation)
    base = _on_base(x.shared, func, args, kwargs)
    place = _reached(x, kernels, base)
    sizes = zip(x.shape[2:], base.shape[2:], strict=True)
    if place.cells >= prod(kernel.multiplied(*pair) for kernel, pair in zip(kernels, sizes, strict=True)):
        return func(x.whole(), *args[1:])  # which leaves out the padding, and windows would not

    def on(around: Tensor) -> Tensor:
        return torch.conv2d(around, weight, bias, stride, 0, dilation, groups)

    return _slid(x, func, kernels, 0.0, base, on)


def _kernels(sizes: Any, strides: Any, paddings: Any, dilations: Any) -> list[Kernel]:
    two = [list(each) * 2 if len(each) == 1 else list(each) for each in (sizes, strides, paddings, dilations)]
    return [Kernel(*each) for each in zip(*two, strict=True)]


def _max_pool(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given: list[Any] = [*args, *(None,) * (6 - len(args))]
    x, size, stride, padding, dilation, _ = given
    if kwargs or x.dim() != 4:
        return None
    stride, padding, dilation = stride or size, padding or [0], dilation or [1]
    kernels = _kernels(size, stride, padding, dilation)
    base, _ = _on_base(x.shared, func, args, kwargs)

    def on(around: Tensor) -> Tensor:
        return torch.max_pool2d(around, size, stride, 0, dilation)

    values = _slid(x, func, kernels, -torch.inf, base, on)
    cells = Windowed(base, base[..., :1, :1].expand(len(x), -1, -1, -1), x.place, x.shared)
    cells.is_lost = True
    return values, cells


def _avg_pool(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given: list[Any] = [*args, *(None,) * (7 - len(args))]
    x, size, stride, padding, ceil, counts, divisor = given
    padding, counts = padding or [0], counts is None or counts
    if kwargs or x.dim() != 4 or ceil or divisor or (any(padding) and not counts):
        return None
    stride = stride or size
    base = _on_base(x.shared, func, args, kwargs)

    def on(around: Tensor) -> Tensor:
        return F.avg_pool2d(around, size, stride)

    return _slid(x, func, _kernels(size, stride, padding, [1]), 0.0, base, on)


# ------------------------------------------------------------------------------------------------ planes as they are


def _batch_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """In eval mode: the same for every place."""
    x = args[0]
    flags = [arg for arg in args if isinstance(arg, bool)]
    if not isinstance(x, Windowed) or len(windowed_in(args)) > 1 or any(flags[:1]) or x.dim() != 4:
        return None
    base = _on_base(x.shared, func, args, kwargs)
    windows = func(x.windows, *args[1:], **kwargs)
    return (wrapped(base[0], windows[0], x.place, x.shared), *windows[1:])


def _cat(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors, dim = args[0], (args[1] if len(args) > 1 else kwargs.get("dim", 0))
    if not all(isinstance(x, Windowed) for x in tensors) or not 0 < dim % tensors[0].dim() < tensors[0].dim() - 2:
        return None
    place = reduce(Place.joined, (x.place for x in tensors))
    base = _on_base(tensors[0].shared, func, args, kwargs)
    return wrapped(base, torch.cat([x.at(place) for x in tensors], dim), place, tensors[0].shared)


def _pad(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, sides = args[0], list(args[1])
    if min(sides) < 0 or len(sides) > 2 * (x.dim() - 1):
        return None
    sides += [0] * (4 - len(sides))
    base = _on_base(x.shared, func, args, kwargs)
    windows = func(x.windows, [0, 0, 0, 0, *sides[4:]], *args[2:], **kwargs) if any(sides[4:]) else x.windows.clone()
    place = Place(x.place.rows.padded(*sides[2:4]), x.place.columns.padded(*sides[:2]))
    return wrapped(base, windows, place, x.shared)


def _view(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A shape that keeps the items apart and the planes as they are."""
    x, shape = args[0], list(args[1])
    if -1 in shape:
        known = -torch.Size(shape).numel() if 0 not in shape else 0
        shape[shape.index(-1)] = x.numel() // known if known else -1
    if shape[:1] != [len(x)] or len(shape) < 3 or shape[-2:] != list(x.shape[-2:]):
        return None
    base = x.shared.computed(func, (x.base, shape), {}, lambda: x.base.reshape(1, *shape[1:]))
    windows = x.windows.reshape(*shape[:-2], *x.windows.shape[-2:])
    return _as_view(x, wrapped(base, windows, x.place, x.shared))


def _as_view(x: Windowed, view: Any) -> Any:
    x.has_views = True
    for each in windowed_in(view):
        each.has_views = True
    return view


def _along_the_middle(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What picks or splits along a dimension between the items and the planes."""
    x = args[0]
    at = 2 if func.overloadpacket in (aten.split, aten.split_with_sizes) else 1
    dim = args[at] if len(args) > at else 0
    dims = x.dim() + 1 if func.overloadpacket is aten.unsqueeze else x.dim()
    if kwargs or not 0 < dim % dims < dims - 2:
        return None
    base = _on_base(x.shared, func, args, kwargs)
    windows = func(x.windows, *args[1:])
    if isinstance(base, (list, tuple)):
        return _as_view(x, [wrapped(a, b, x.place, x.shared) for a, b in zip(base, windows, strict=True)])
    return _as_view(x, wrapped(base, windows, x.place, x.shared))


def _transposed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, dims = args[0], [dim % args[0].dim() for dim in args[1:3]]
    if not all(0 < dim < x.dim() - 2 for dim in dims):
        return None
    return _as_it_is(func, args, kwargs, is_view=True)


def _as_it_is(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], is_view: bool = False) -> Any:
    x = args[0]
    base = _on_base(x.shared, func, args, kwargs)
    result = wrapped(base, func(x.windows, *args[1:], **kwargs), x.place, x.shared)
    return _as_view(x, result) if is_view else result


def _alias(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _as_it_is(func, args, kwargs, is_view=True)


RULES: dict[Any, Rule] = {
    aten.convolution: _convolution,
    aten.max_pool2d_with_indices: _max_pool,
    aten.avg_pool2d: _avg_pool,
    aten.native_batch_norm: _batch_norm,
    aten.cudnn_batch_norm: _batch_norm,
    aten._native_batch_norm_legit_no_training: _batch_norm,
    aten.cat: _cat,
    aten.constant_pad_nd: _pad,
    aten.view: _view,
    aten._unsafe_view: _view,
    aten.select: _along_the_middle,
    aten.slice: _along_the_middle,
    aten.split: _along_the_middle,
    aten.split_with_sizes: _along_the_middle,
    aten.unsqueeze: _along_the_middle,
    aten.transpose: _transposed,
    aten.detach: _alias,
    aten.alias: _alias,
    aten.clone: _as_it_is,
    aten._to_copy: _as_it_is,
}
