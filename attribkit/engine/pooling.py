"""Max-pool sites: what each kind computes and where its windows lie, and which calls and modules are pools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribkit.engine.autograd import Quick, eager
from attribkit.engine.classes import nearest
from attribkit.engine.switches import Switches
from attribkit.engine.unpooling import SCHEMES, along_each, routes, unpool
from attribkit.errors import NotSupported

if TYPE_CHECKING:
    from attribkit.engine.plan import Passage

aten = torch.ops.aten


@dataclass(frozen=True)
class Pool:
    """One use of a max-pool over `rank` dimensions. Each kind of pool says what it computes and where it looks."""

    rank: int
    returns_indices: bool = False

    kind = "pool"
    stem: ClassVar[str]

    @property
    def op(self) -> str:
        """What it is called in reports."""
        return f"{self.stem}{self.rank}d"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and flat indices, with every spatial dimension kept."""
        raise NotImplementedError

    def cells(self, d: int, size: int, outputs: int, device: torch.device) -> Tensor:
        """For each output along dimension d the cells of its window; those outside the input are padding."""
        raise NotImplementedError

    def plane(self, x: Tensor) -> tuple[int, ...]:
        """The spatial sizes of an input."""
        return tuple(x.shape[-self.rank :])

    def result(self, x: Tensor, values: Tensor, indices: Tensor) -> Any:
        """What the caller of the pool expects."""
        return (values, indices) if self.returns_indices else values

    def splits_ties(self) -> bool:
        """Whether torch shares a gradient among equal maxima, so that indices cannot stand for it."""
        return False

    def apply(self, x: Tensor, original: Callable[[], Any], here: Passage) -> Any:
        """The pool of x; a signal goes back by the plan's switches."""
        plan = here.plan
        if plan.switches == "own" and self.splits_ties():
            return original()
        how, indices = str(plan.switches), None
        if isinstance(plan.switches, Switches):
            if here.pool is None:
                raise NotSupported("switches are replayed in the order of calls: call the net without torch.compile")
            with torch.no_grad():
                like = self.forward(x.detach())[0]
            how, indices = "switches", plan.switches.at(here.pool, self, x, like)
        values, own = _Pooled.run(x, self, how, indices, here)
        return self.result(x, values, own)


@dataclass(frozen=True)
class MaxPool(Pool):
    """Windows of one size, `kernel`, at equal steps; a setting is one number per dimension."""

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    ceil_mode: bool = False

    stem = "max_pool"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _max_pool(x, self.rank, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)

    def cells(self, d: int, size: int, outputs: int, device: torch.device) -> Tensor:
        starts = _steps(outputs, device) * self.stride[d] - self.padding[d]
        return starts + torch.arange(self.kernel[d], device=device) * self.dilation[d]


@dataclass(frozen=True)
class AdaptiveMaxPool(Pool):
    """As many windows as there are to be outputs, `size`, which share the input evenly."""

    size: tuple[int, ...] = ()

    stem = "adaptive_max_pool"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return getattr(aten, f"adaptive_max_pool{self.rank}d").default(x, self.size)

    def cells(self, d: int, size: int, outputs: int, device: torch.device) -> Tensor:
        output = _steps(outputs, device)
        start, stop = output * size // outputs, -(-(output + 1) * size // outputs)
        cells = start + torch.arange(-(-size // outputs) + 1, device=device)
        return torch.where(cells < stop, cells, -1)


@dataclass(frozen=True)
class FractionalMaxPool(Pool):
    """Windows at random steps, which `samples` (images x channels x rank) decide."""

    kernel: tuple[int, ...] = ()
    size: tuple[int, ...] = ()
    samples: Tensor | None = None

    stem = "fractional_max_pool"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        function = getattr(aten, f"fractional_max_pool{self.rank}d").default
        return function(x, self.kernel, self.size, self.samples)

    def cells(self, d: int, size: int, outputs: int, device: torch.device) -> Tensor:
        return self._starts(d, size, outputs) + torch.arange(self.kernel[d], device=device)

    def _starts(self, d: int, size: int, outputs: int) -> Tensor:
        """Where torch's fractional windows begin, for each image and channel: ... x outputs x 1."""
        assert self.samples is not None
        # The samples of 2-D pools come width first.
        sample = self.samples[..., self.rank - 1 - d if self.rank == 2 else d][..., None]
        last = size - self.kernel[d]
        alpha = last / max(outputs - 1, 1)
        step = torch.arange(outputs, device=sample.device)
        starts = ((step + sample) * alpha).long() - (sample * alpha).long()
        return torch.where(step == outputs - 1, last, starts)[..., None]


@dataclass(frozen=True)
class Maximum(Pool):
    """An `amax` or `max(dim)` over the spatial dimensions `reduces`: windows as large as the plane."""

    reduces: tuple[int, ...] = ()
    keepdim: bool = True

    op = "amax"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kernel = [size if d in self.reduces else 1 for d, size in enumerate(self.plane(x))]
        return _max_pool(x, self.rank, kernel)

    def cells(self, d: int, size: int, outputs: int, device: torch.device) -> Tensor:
        return torch.arange(size, device=device).expand(1, -1) if d in self.reduces else _steps(outputs, device)

    def result(self, x: Tensor, values: Tensor, indices: Tensor) -> Any:
        if not self.keepdim:
            values = values.squeeze(tuple(d - self.rank for d in self.reduces))
        if self.returns_indices:
            along = aten.max.dim(x.detach(), self.reduces[0] - self.rank, self.keepdim)[1]
            return torch.return_types.max((values, along))
        return values

    def splits_ties(self) -> bool:
        return True


def _max_pool(x: Tensor, rank: int, *settings: Any) -> tuple[Tensor, Tensor]:
    run = getattr(aten, f"max_pool{rank}d_with_indices").default
    if x.is_cpu and x.dim() == 4 and rank == 2 and x.is_contiguous() and eager():
        # The same bit for bit, and with both copies still several times faster than torch is where channels come first.
        values, indices = run(x.contiguous(memory_format=torch.channels_last), *settings)
        return values.contiguous(), indices.contiguous()
    return run(x, *settings)


def _steps(outputs: int, device: torch.device) -> Tensor:
    return torch.arange(outputs, device=device)[:, None]


class _Pooled(Quick):
    @staticmethod
    def forward(x: Tensor, pool: Pool, how: str, indices: Tensor | None, here: Passage) -> tuple[Tensor, Tensor]:
        values, own = pool.forward(x)
        if here.plan.conditions_forward and how == "switches":
            assert indices is not None
            flat = x.flatten(-pool.rank).expand(*values.shape[: -pool.rank], -1)
            values = flat.gather(-1, indices.expand_as(own).flatten(-pool.rank)).view(values.shape)
        elif here.plan.conditions_forward and how in SCHEMES:
            values = along_each(x, [m.mT for m in routes(pool, pool.plane(x), values, how)])
        return values, own

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.pool, ctx.how, indices, ctx.here = inputs
        ctx.plane = ctx.pool.plane(x)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        keeps_own = ctx.how == "own" or (ctx.here.run is not None and ctx.here.run.keeps_gates)
        ctx.save_for_backward(indices if ctx.how == "switches" else None, output[1] if keeps_own else None)

    @staticmethod
    def backward(ctx: Any, signal: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if signal is None:
            return None, None, None, None, None
        replayed, own = ctx.saved_tensors
        if ctx.how == "own" or ctx.here.within_forward:
            below = unpool(signal, own, ctx.plane, ctx.here.plan.overlap)
        elif ctx.how == "switches":
            below = unpool(signal, replayed, ctx.plane, ctx.here.plan.overlap)
        else:
            below = along_each(signal, routes(ctx.pool, ctx.plane, signal, ctx.how))
        return below, None, None, None, None


# -------------------------------------------------------------------------------- how a call or module is recognised

Recognised = tuple[Tensor, Pool] | None


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
        kernel, steps, margin, spread = (_each(s, rank) for s in (kernel_size, stride, padding, dilation))
        return input, MaxPool(rank, indices or return_indices, kernel, steps, margin, spread, bool(ceil_mode))

    return recognise


def _adaptive(rank: int, indices: bool = False) -> Callable[..., tuple[Tensor, Pool]]:
    def recognise(input: Tensor, output_size: Any, return_indices: bool = False) -> tuple[Tensor, Pool]:
        sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * rank
        plane = input.shape[-rank:]
        size = tuple(int(p if s is None else s) for s, p in zip(sizes, plane, strict=True))
        return input, AdaptiveMaxPool(rank, indices or return_indices, size)

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
            output_size = tuple(int(p * r) for p, r in zip(plane, output_ratio, strict=True))
        if _random_samples is None:
            # Drawn as torch draws them, so that the same seed gives the same windows.
            batch = 1 if input.dim() == rank + 1 else input.size(0)
            channels = input.size(-rank - 1)
            _random_samples = torch.rand(batch, channels, rank, dtype=input.dtype, device=input.device)
        kernel, size = _each(kernel_size, rank), _each(output_size, rank)
        return input, FractionalMaxPool(rank, indices or return_indices, kernel, size, _random_samples)

    return recognise


def _amax(input: Tensor, dim: Any = (), keepdim: bool = False, *, out: Any = None) -> Recognised:
    """A maximum over spatial dimensions, those after the first two; over channels it is no pool."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    if out is not None or not 3 <= input.dim() <= 5 or not all(isinstance(d, int) for d in dims):
        return None
    spatial = sorted(d % input.dim() - 2 for d in dims)
    if not spatial or spatial[0] < 0:
        return None
    return input, Maximum(input.dim() - 2, reduces=tuple(spatial), keepdim=keepdim)


def _max_over(input: Tensor, *args: Any, **kwargs: Any) -> Recognised:
    """`x.max(dim)`, which gives positions too; the other uses of `max` are no pools."""
    dim = args[0] if args else kwargs.get("dim")
    keepdim = args[1] if len(args) > 1 else kwargs.get("keepdim", False)
    recognised = _amax(input, dim, keepdim) if type(dim) is int and len(args) < 3 else None
    return recognised and (input, replace(recognised[1], returns_indices=True))


RANKS = (1, 2, 3)
FUNCTIONS: dict[Any, Callable[..., Recognised]] = {
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

_SETTINGS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_FRACTIONAL = ("kernel_size", "output_size", "output_ratio", "return_indices", "_random_samples")
MODULES: dict[type[nn.Module], tuple[str, Callable[..., tuple[Tensor, Pool]], tuple[str, ...]]] = {
    **{getattr(nn, f"MaxPool{r}d"): (f"max_pool{r}d", _max(r), _SETTINGS) for r in RANKS},
    **{
        getattr(nn, f"AdaptiveMaxPool{r}d"): (
            f"adaptive_max_pool{r}d",
            _adaptive(r),
            ("output_size", "return_indices"),
        )
        for r in RANKS
    },
    **{
        getattr(nn, f"FractionalMaxPool{r}d"): (f"fractional_max_pool{r}d", _fractional(r), _FRACTIONAL) for r in (2, 3)
    },
}


def from_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recognised:
    """The tensor and the pool of a function call; None where the call is no spatial max-pool."""
    recognise = FUNCTIONS.get(function)
    recognised = recognise(*args, **kwargs) if recognise is not None else None
    return recognised if recognised is not None and recognised[0].is_floating_point() else None


def from_module(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recognised:
    """The tensor and the pool of a call of a module; None for other modules."""
    known = nearest(type(module), MODULES)
    if known is None:
        return None
    _, recognise, names = MODULES[known]
    return recognise(args[0] if args else kwargs["input"], *(getattr(module, name) for name in names))


def describe(module: nn.Module) -> tuple[str, str] | None:
    """Op and kind of a module that is a max-pool; None for others."""
    known = nearest(type(module), MODULES)
    return None if known is None else (MODULES[known][0], Pool.kind)
