"""Max-pool sites, and how a signal goes back through them.

A *route* says where each output of a pool sends its signal: to the cells that indices name ("own": this image's;
or those of a recording), or over its window by a fixed scheme ("uniform", "center", "corner"). Indices are flat
positions in the unpadded input plane, as torch's `return_indices` gives them.

Windows are products of one window a dimension, so a fixed scheme is one small matrix a dimension, and a signal goes
down by multiplying with each in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribkit.engine.autograd import Quick

aten = torch.ops.aten

SCHEMES = ("uniform", "center", "corner")


@dataclass(frozen=True)
class Pool:
    """One use of a max-pool, with its settings. `reduces` are the dimensions of an `amax` or `max(dim)`."""

    op: str
    rank: int
    settings: tuple[Any, ...] = ()
    reduces: tuple[int, ...] = ()
    keepdim: bool = True
    returns_indices: bool = False
    samples: Tensor | None = None

    kind = "pool"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and flat indices, with every spatial dimension kept."""
        if self.op == "amax":
            kernel = [size if d in self.reduces else 1 for d, size in enumerate(self.plane(x))]
            return _max_pool(self.rank)(x, kernel)
        if self.op.startswith("fractional"):
            assert self.samples is not None
            kernel, out = self.settings
            return getattr(aten, f"fractional_max_pool{self.rank}d").default(x, kernel, out, self.samples)
        if self.op.startswith("adaptive"):
            return getattr(aten, f"adaptive_max_pool{self.rank}d").default(x, *self.settings)
        return _max_pool(self.rank)(x, *self.settings)

    def plane(self, x: Tensor) -> tuple[int, ...]:
        """The spatial sizes of an input."""
        return tuple(x.shape[-self.rank :])

    def result(self, x: Tensor, values: Tensor, indices: Tensor) -> Any:
        """What the caller of the pool expects."""
        if self.op == "amax" and not self.keepdim:
            values = values.squeeze(tuple(d - self.rank for d in self.reduces))
        if self.op == "amax" and self.returns_indices:
            along = aten.max.dim(x.detach(), self.reduces[0] - self.rank, self.keepdim)[1]
            return torch.return_types.max((values, along))
        return (values, indices) if self.returns_indices else values

    def apply(self, x: Tensor, how: str, indices: Tensor | None, overlap: str, conditions_forward: bool) -> Any:
        """The pool of x; `how` is "own", "switches" (then with `indices`) or a scheme."""
        values, own = _Pooled.run(x, self, how, indices, overlap, conditions_forward)
        return self.result(x, values, own)


def _max_pool(rank: int) -> Callable[..., tuple[Tensor, Tensor]]:
    return getattr(aten, f"max_pool{rank}d_with_indices").default


class _Pooled(Quick):
    @staticmethod
    def forward(
        x: Tensor, pool: Pool, how: str, indices: Tensor | None, overlap: str, conditions_forward: bool
    ) -> tuple[Tensor, Tensor]:
        values, own = pool.forward(x)
        if conditions_forward and how == "switches":
            assert indices is not None
            flat = x.flatten(-pool.rank).expand(*values.shape[: -pool.rank], -1)
            values = flat.gather(-1, indices.expand_as(own).flatten(-pool.rank)).view(values.shape)
        elif conditions_forward and how in SCHEMES:
            values = _along_each(x, [m.mT for m in routes(pool, pool.plane(x), values, how)])
        return values, own

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.pool, ctx.how, indices, ctx.overlap, _ = inputs
        ctx.plane = ctx.pool.plane(x)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        if ctx.how in SCHEMES:
            ctx.save_for_backward()
        else:
            ctx.save_for_backward(output[1] if ctx.how == "own" else indices)

    @staticmethod
    def backward(ctx: Any, signal: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        below = None
        if signal is not None and ctx.how in SCHEMES:
            below = _along_each(signal, routes(ctx.pool, ctx.plane, signal, ctx.how))
        elif signal is not None:
            below = unpool(signal, ctx.saved_tensors[0], ctx.plane, ctx.overlap)
        return below, None, None, None, None, None


# -------------------------------------------------------------------------------------- down by indices, by schemes


def unpool(signal: Tensor, indices: Tensor, plane: Sequence[int], overlap: str = "add") -> Tensor:
    """The signal put where the indices say; cells named twice add up, or keep what the last window put there."""
    rank = len(plane)
    # Not flatten and unflatten, which torch cannot batch for `is_grads_batched`.
    leading = signal.shape[:-rank]
    flat = signal.reshape(*leading, -1)
    indices = indices.expand_as(signal).reshape(*leading, -1)
    empty = flat.new_zeros(*flat.shape[:-1], math.prod(plane))
    if overlap == "add":
        return empty.scatter_add(-1, indices, flat).reshape(*leading, *plane)
    order = torch.arange(flat.shape[-1], device=flat.device).expand_as(flat)
    last = torch.full_like(empty, -1, dtype=torch.long).scatter_reduce(-1, indices, order, "amax")
    return torch.where(last >= 0, flat.gather(-1, last.clamp(min=0)), empty).reshape(*leading, *plane)


def routes(pool: Pool, plane: Sequence[int], like: Tensor, scheme: str) -> list[Tensor]:
    """One matrix a dimension, outputs by inputs: the share of its signal that an output sends to each cell."""
    matrices = []
    for d, (size, outputs) in enumerate(zip(plane, like.shape[-pool.rank :], strict=True)):
        cells = _window_cells(pool, d, size, outputs, like.device)
        inside = (cells >= 0) & (cells < size)
        count, position = inside.sum(-1, keepdim=True), inside.cumsum(-1) - 1
        if scheme == "uniform":
            share = inside.to(like.dtype) / count.clamp(min=1)  # a dilated window may lie in the padding alone
        else:
            chosen = (count - 1) // 2 if scheme == "center" else 0
            share = inside & (position == chosen)
        empty = torch.zeros(*cells.shape[:-1], size, dtype=like.dtype, device=like.device)
        matrix = empty.scatter_add(-1, cells.clamp(0, size - 1), share.to(like.dtype))
        matrices.append(matrix.unflatten(-2, (*[1] * (pool.rank - 2), -1)) if matrix.dim() > 2 else matrix)
    return matrices


def _along_each(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    rank = len(matrices)
    for d, matrix in enumerate(matrices):
        x = (x.transpose(d - rank, -1) @ matrix).transpose(d - rank, -1)
    return x


def _window_cells(pool: Pool, d: int, size: int, outputs: int, device: torch.device) -> Tensor:
    """For each output along dimension d the cells of its window; those outside the input are padding."""
    output = torch.arange(outputs, device=device)[:, None]
    if pool.op == "amax":
        return torch.arange(size, device=device).expand(1, -1) if d in pool.reduces else output
    if pool.op.startswith("adaptive"):
        start, stop = output * size // outputs, -(-(output + 1) * size // outputs)
        cells = start + torch.arange(-(-size // outputs) + 1, device=device)
        return torch.where(cells < stop, cells, -1)
    if pool.op.startswith("fractional"):
        kernel = pool.settings[0][d]
        return _fractional_starts(pool, d, size, outputs) + torch.arange(kernel, device=device)
    kernel, stride, padding, dilation, _ = (s[d] if isinstance(s, tuple) else s for s in pool.settings)
    return output * stride - padding + torch.arange(kernel, device=device) * dilation


def _fractional_starts(pool: Pool, d: int, size: int, outputs: int) -> Tensor:
    """Where torch's fractional windows begin, for each image and channel: ... x outputs x 1."""
    assert pool.samples is not None
    # The samples of 2-D pools come width first.
    sample = pool.samples[..., pool.rank - 1 - d if pool.rank == 2 else d][..., None]
    last = size - pool.settings[0][d]
    alpha = last / max(outputs - 1, 1)
    step = torch.arange(outputs, device=sample.device)
    starts = ((step + sample) * alpha).long() - (sample * alpha).long()
    return torch.where(step == outputs - 1, last, starts)[..., None]


# -------------------------------------------------------------------------------- how a call or module is recognised


def _each(value: Any, rank: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) and len(value) > 1 else (_first(value),) * rank


def _first(value: Any) -> int:
    return int(value[0]) if isinstance(value, (tuple, list)) else int(value)


def _max(rank: int, indices: bool = False) -> Callable[..., tuple[Tensor, Pool]]:
    def recognise(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> tuple[Tensor, Pool]:
        # torch takes an empty stride, too, for "the kernel's size"
        stride = kernel_size if stride is None or stride == [] or stride == () else stride
        settings = *(_each(s, rank) for s in (kernel_size, stride, padding, dilation)), bool(ceil_mode)
        return input, Pool(f"max_pool{rank}d", rank, settings, returns_indices=indices or return_indices)

    return recognise


def _adaptive(rank: int, indices: bool = False) -> Callable[..., tuple[Tensor, Pool]]:
    def recognise(input: Tensor, output_size: Any, return_indices: bool = False) -> tuple[Tensor, Pool]:
        sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * rank
        plane = input.shape[-rank:]
        size = tuple(int(p if s is None else s) for s, p in zip(sizes, plane, strict=True))
        return input, Pool(f"adaptive_max_pool{rank}d", rank, (size,), returns_indices=indices or return_indices)

    return recognise


def _fractional(rank: int, indices: bool = False) -> Callable[..., tuple[Tensor, Pool]]:
    def recognise(
        input: Tensor,
        kernel_size: Any,
        output_size: Any = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
    ) -> tuple[Tensor, Pool]:
        plane = input.shape[-rank:]
        if output_size is None:
            ratios = output_ratio if isinstance(output_ratio, (tuple, list)) else (output_ratio,) * rank
            output_size = tuple(int(p * r) for p, r in zip(plane, ratios, strict=True))
        if _random_samples is None:
            # Drawn as torch draws them, so that the same seed gives the same windows.
            batch = 1 if input.dim() == rank + 1 else input.size(0)
            channels = input.size(-rank - 1)
            _random_samples = torch.rand(batch, channels, rank, dtype=input.dtype, device=input.device)
        settings = (_each(kernel_size, rank), _each(output_size, rank))
        name = f"fractional_max_pool{rank}d"
        return input, Pool(name, rank, settings, returns_indices=indices or return_indices, samples=_random_samples)

    return recognise


def _amax(input: Tensor, dim: Any = (), keepdim: bool = False, *, out: Any = None) -> tuple[Tensor, Pool] | None:
    """A maximum over spatial dimensions, those after the first two; over channels it is no pool."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    if out is not None or not 3 <= input.dim() <= 5 or not all(isinstance(d, int) for d in dims):
        return None
    spatial = sorted(d % input.dim() - 2 for d in dims)
    if not spatial or spatial[0] < 0:
        return None
    return input, Pool("amax", input.dim() - 2, reduces=tuple(spatial), keepdim=keepdim)


def _max_over(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Pool] | None:
    """`x.max(dim)`, which gives positions too; the other uses of `max` are no pools."""
    dim = args[0] if args else kwargs.get("dim")
    keepdim = args[1] if len(args) > 1 else kwargs.get("keepdim", False)
    found = _amax(input, dim, keepdim) if type(dim) is int and len(args) < 3 else None
    return found and (input, replace(found[1], returns_indices=True))


RANKS = (1, 2, 3)
FUNCTIONS: dict[Any, Callable[..., tuple[Tensor, Pool] | None]] = {
    **{getattr(F, f"max_pool{r}d"): _max(r) for r in RANKS},
    **{getattr(torch, f"max_pool{r}d"): _max(r) for r in RANKS},
    **{getattr(F, f"max_pool{r}d_with_indices"): _max(r, indices=True) for r in RANKS},
    **{getattr(F, f"adaptive_max_pool{r}d"): _adaptive(r) for r in RANKS},
    **{getattr(F, f"adaptive_max_pool{r}d_with_indices"): _adaptive(r, indices=True) for r in RANKS},
    torch.adaptive_max_pool1d: _adaptive(1, indices=True),
    **{getattr(F, f"fractional_max_pool{r}d"): _fractional(r) for r in (2, 3)},
    **{getattr(F, f"fractional_max_pool{r}d_with_indices"): _fractional(r, indices=True) for r in (2, 3)},
    torch.amax: _amax,
    Tensor.amax: _amax,
    torch.max: _max_over,
    Tensor.max: _max_over,
}

_FRACTIONAL = ("kernel_size", "output_size", "output_ratio", "return_indices", "_random_samples")
MODULES: dict[type[nn.Module], tuple[Callable[..., tuple[Tensor, Pool]], tuple[str, ...]]] = {
    **{
        getattr(nn, f"MaxPool{r}d"): (
            _max(r),
            ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
        )
        for r in RANKS
    },
    **{getattr(nn, f"AdaptiveMaxPool{r}d"): (_adaptive(r), ("output_size", "return_indices")) for r in RANKS},
    **{getattr(nn, f"FractionalMaxPool{r}d"): (_fractional(r), _FRACTIONAL) for r in (2, 3)},
}


def from_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Pool] | None:
    """The tensor and the pool of a function call; None where the call is no spatial max-pool."""
    recognise = FUNCTIONS.get(function)
    recognised = recognise(*args, **kwargs) if recognise is not None else None
    return recognised if recognised is not None and recognised[0].is_floating_point() else None


def module_type(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The max-pool of torch's that a class is, also when it is a subclass that keeps its `forward`."""
    known = next((k for k in kind.__mro__ if k in MODULES), None)
    return known if known is not None and kind.forward is known.forward else None


def from_module(module: nn.Module, kind: type[nn.Module], x: Tensor) -> Pool:
    """The pool that a module of this kind makes of x."""
    known = module_type(kind)
    assert known is not None
    recognise, names = MODULES[known]
    return recognise(x, *(getattr(module, name) for name in names))[1]
