"""Every activation, pool and norm of a shadow under the plan: modules by their `forward`, functions by a torch mode.

*Swap*: a module keeps its object and its class; its `forward` becomes an attribute of the instance, which wins over
the method of the class wherever it is looked up. *Lift*: activations and pools that are called as functions are
caught while the shadow runs, and named after the module that called them.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import FrameType, ModuleType
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attribkit.engine import activations, linear, lookback, masks, norms, pooling
from attribkit.engine.autograd import eager
from attribkit.engine.plan import Call, CannotRewrite, Passage, Plan, Refused, Run, Site
from attribkit.engine.pooling import Pool
from attribkit.engine.shadow import NAME
from attribkit.engine.torch_private import disable_torch_function, function_mode_stack, storage_of
from attribkit.errors import AttribkitError

PLAN = "_attribkit_plan"
FAMILIES: tuple[ModuleType, ...] = (activations, pooling, norms)
Original = Callable[[], Any]
Recorder = Callable[[str, Pool, Tensor], None]


# Arguments' other names: those of NumPy's, which torch's functions take, and that of its operators.
_NAMES = {
    **dict.fromkeys(("x", "x1", "a", "self"), "input"),
    "x2": "other",
    "axis": "dim",
    "keepdims": "keepdim",
}


def recognised_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Call] | None:
    """The tensor and the activation, pool or norm of a function call; None where it is something else."""
    kwargs = {_NAMES.get(name, name): value for name, value in kwargs.items()}
    for family in (*FAMILIES, masks):
        if (recognised := family.from_function(function, args, kwargs)) is not None:
            return recognised
    return None


def recognised_module(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Call]:
    """The tensor and the activation, pool or norm of a call of a swapped module."""
    for family in FAMILIES:
        if (recognised := family.from_module(module, args, kwargs)) is not None:
            return recognised
    raise AssertionError("only a module that is recognised is swapped")


def described(module: nn.Module) -> tuple[str, str] | None:
    """Op and kind of a module that is an activation, a pool or a norm; None for others."""
    if "forward" in vars(module) and not is_swapped(module):
        return None  # somebody has given it another forward, whose functions the lift will see
    return next(filter(None, (family.describe(module) for family in FAMILIES)), None)


# ------------------------------------------------------------------------------------------------------------ swap


def swap(modules: Iterable[nn.Module], plan: Plan) -> None:
    """Give the activations, pools and norms of a shadow a `forward` by the plan, and linear modules a lean one."""
    for module in modules:
        linear.make_lean(module)
        if described(module) is not None:
            module.__dict__["forward"] = _Forward(_forward, module)
            module.__dict__[PLAN] = plan


def is_swapped(module: nn.Module) -> bool:
    """Whether a module's `forward` is ours."""
    return isinstance(vars(module).get("forward"), _Forward)


class _Forward(partial[Any]):
    """Stands in the place of a module's `forward`, and to `inspect` looks like it."""

    @property
    def __signature__(self) -> inspect.Signature:
        (module,) = self.args
        return inspect.signature(types.MethodType(type(module).forward, module))


def _forward(module: Any, *args: Any, **kwargs: Any) -> Any:
    """The `forward` of a swapped module."""
    lift = None if torch.compiler.is_compiling() else Lift.watching()
    plan, name = module.__dict__[PLAN], module.__dict__[NAME]

    def original() -> Any:
        return type(module).forward(module, *args, **kwargs)

    x, call = recognised_module(module, args, kwargs)
    if lift is None:
        return call.apply(x, original, Passage(plan, name)) if plan.swaps(call.kind) else original()
    with lift.paused():  # what the module does within is no site of its own
        return lift.at(name, "module", call, x, original, module)


# ------------------------------------------------------------------------------------------------------------ lift


class Lift(TorchFunctionMode):
    """Catches activations and pools while a shadow runs, and writes down the sites that it meets.

    `follow` says that autograd follows the image, so that what needs no gradient is not on its way, and that the
    finished graph may be looked at, for which comparisons are remembered. `record` is called at each pool.
    """

    def __init__(self, plan: Plan, record: Recorder | None = None, *, follow: bool = False) -> None:
        super().__init__()
        self.plan = plan
        self.record = record
        self.follow = follow
        self.shared: Mapping[int, str] = {}  # parameters of the model, by where they lie
        self.detaches = False  # whether parameters that a function closes over are constants
        self.begin()

    def begin(self, keeps_gates: bool = False) -> None:
        """Make ready for a forward pass: nothing is met yet."""
        self.run = Run(keeps_gates)
        self.sites: dict[str, Site] = {}
        self.pools: set[str] = set()
        self.failed: AttribkitError | None = None
        self.comparisons: list[Tensor] = []
        self.changed = False  # whether a function follows the rule, as far as torch.compile wants to know
        self._counts: dict[str, int] = {}
        self._owners: dict[str, nn.Module | None] = {}
        self._paused = False
        self._compiled = torch.compiler.is_compiling()

    @staticmethod
    def watching() -> Lift | None:
        """The lift under which this thread runs a net; the innermost one of several."""
        return next((mode for mode in reversed(function_mode_stack()) if isinstance(mode, Lift)), None)

    def __exit__(self, *error: Any) -> None:
        self.run.under_way = False
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def paused(self) -> AbstractContextManager[None]:
        """While a swapped module is at work, the functions that it calls are no sites."""
        return nullcontext() if self._paused else _Pause(self)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.detaches:
            args, kwargs = _constant(args), _constant(kwargs)
        if func in WRITES or "out" in kwargs:
            self._refuse_to_write(kwargs.get("out", args[0] if args else None))
        if self._paused or func not in (FUNCTIONS if self._compiled else WATCHED):
            return self._passed(func, args, kwargs)
        if func in linear.FUNCTIONS:
            lean = None if torch.compiler.is_compiling() else linear.without_input(func, args, kwargs)
            return func(*args, **kwargs) if lean is None else lean
        if func in COMPARISONS:
            return self._compared(func(*args, **kwargs))
        recognised = recognised_function(func, args, kwargs)
        if recognised is None:
            # While probing, what wins must not hide what loses.
            if self.plan.probes and func in activations.EXTREMES and _are_tensors(both := (*args, *kwargs.values())):
                return both[0] + both[1]
            result = self._passed(func, args, kwargs)
            return self._compared(result) if func is torch.where and len(args) + len(kwargs) == 1 else result
        x, call = recognised

        def original() -> Any:
            return func(*args, **kwargs)

        if torch.compiler.is_compiling():
            if not self.plan.swaps(call.kind):
                return original()
            self.changed = self.changed or call.kind in self.plan.kinds
            return call.apply(x, original, Passage(self.plan, None))
        try:
            name = f"{_caller()}#{call.op}"
        except CannotRewrite as error:
            self._fail(error)
        return self.at(name, "function", call, x, original)

    def at(
        self,
        name: str,
        how: Literal["module", "function"],
        call: Call,
        x: Tensor,
        original: Original,
        owner: nn.Module | None = None,
    ) -> Any:
        """Run one site under the plan, and write it down."""
        if not _has_strides(x):  # the look at the graph will say so
            return original()
        while self._owners.setdefault(name, owner) is not owner:
            name += "'"  # another module's, or a function's, that is called the same
        count = self._counts[name] = self._counts.get(name, 0) + 1
        indexed = name if count == 1 else f"{name}:{count - 1}"
        site, calls = (name, count) if how == "module" else (indexed, 1)
        aside = self.follow and not _needs_gradient(x) and eager()
        before = calls > 1 and self.sites[site].swapped
        swaps = self.plan.swaps(call.kind)
        self.sites[site] = Site(site, call.op, call.kind, how, calls, before or (swaps and not aside))
        if isinstance(call, Pool):
            self.pools.add(indexed)
            if self.record is not None:
                self.record(indexed, call, x)
        if not swaps:
            return original()
        try:
            return _applied(call, x, original, Passage(self.plan, site, indexed, self.run))
        except AttribkitError as error:
            return self._fail(error)

    def _passed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run what is no site of its own. What a mask writes into a part of a tensor is one: graphs do not show it."""
        if self.comparisons and func in WRITES and args and _is_part(args[0]):
            written = [*args[1:], *kwargs.values()]
            if any(lookback.is_mask(tensor, self.comparisons) for tensor in lookback.tensors_in(written)):
                op = f"{func.__name__.strip('_')} by a comparison"
                self.sites[f"graph#{op}"] = Site(f"graph#{op}", op, "rectifier", "graph", 1, False)
        return func(*args, **kwargs)

    def _fail(self, error: AttribkitError) -> NoReturn:
        """Leave the forward pass with an error of ours, which the model may neither catch nor take for torch's."""
        self.failed = self.failed or error
        raise Refused from error

    def _refuse_to_write(self, written: Any) -> None:
        """Raise before a forward pass writes into a parameter, which is the model's own."""
        for tensor in written if isinstance(written, (list, tuple)) else (written,):
            if isinstance(tensor, Tensor) and self.shared and eager():
                path = self.shared.get(storage_of(tensor))
                if path is not None:
                    self._fail(CannotRewrite(f"forward writes into the parameter {path}, which would change the model"))

    def _compared(self, masks: Any) -> Any:
        """The outcome of a comparison, which may be a rectifier's mask: remembered for the look at the graph."""
        if self.follow:
            self.comparisons += masks if isinstance(masks, tuple) else (masks,)
        return masks


def _constant(value: Any) -> Any:
    """What a function is called with, without a gradient of parameters."""
    if isinstance(value, nn.Parameter):
        return value.detach()
    if type(value) in (list, tuple):
        return type(value)([_constant(inner) for inner in value])
    return {key: _constant(inner) for key, inner in value.items()} if type(value) is dict else value


class _Pause:
    def __init__(self, lift: Lift) -> None:
        self.lift = lift

    def __enter__(self) -> None:
        self.lift._paused = True

    def __exit__(self, *error: object) -> None:
        self.lift._paused = False


def _applied(call: Call, x: Tensor, original: Original, here: Passage) -> Any:
    """The call under the plan; a tensor of a class of somebody's comes out as that class wants it."""
    if type(x) in (Tensor, nn.Parameter):
        with disable_torch_function():
            return call.apply(x, original, here)

    def apply(x: Tensor) -> Any:
        return call.apply(x, original, here)

    return type(x).__torch_function__(apply, (type(x),), (x,), {})


def _needs_gradient(x: Tensor) -> bool:
    with disable_torch_function():  # or the mode would see the question
        return x.requires_grad and torch.is_grad_enabled()


def _has_strides(x: Tensor) -> bool:
    """Whether x is a tensor as the rules know them, and neither sparse nor nested."""
    with disable_torch_function():
        return x.layout == torch.strided and not x.is_nested


def _is_part(x: Any) -> bool:
    """Whether x is a view of a tensor that autograd follows."""
    with disable_torch_function():
        return isinstance(x, Tensor) and x._is_view() and x.requires_grad and torch.is_grad_enabled()


def _are_tensors(args: tuple[Any, ...]) -> bool:
    return len(args) == 2 and all(isinstance(a, Tensor) and a.is_floating_point() for a in args)


# Dicts and frozen sets, which torch.compile can read in every release.
COMPARISONS: Collection[Any] = dict.fromkeys(
    (
        *(torch.gt, torch.ge, torch.lt, torch.le, Tensor.gt, Tensor.ge, Tensor.lt, Tensor.le),
        *(Tensor.__gt__, Tensor.__ge__, Tensor.__lt__, Tensor.__le__, torch.nonzero, Tensor.nonzero, torch.argwhere),
        *(torch.sign, Tensor.sign),
    )
)
WATCHED = dict.fromkeys(
    (
        *(*activations.EXTREMES, *COMPARISONS, *norms.FUNCTIONS, *masks.FUNCTIONS),
        *(*activations.FUNCTIONS, *pooling.FUNCTIONS, *linear.FUNCTIONS),
    )
)


def _writing(place: Any) -> list[Any]:
    """The functions of a place that write into their first argument; those of `_FLAGS` change no values."""
    names = [name for name in dir(place) if name.endswith("_") and not name.endswith("__") and name not in _FLAGS]
    return [getattr(place, name) for name in names if callable(getattr(place, name))]


_FLAGS = ("requires_grad_", "detach_", "share_memory_", "rename_")
_ASSIGNMENTS = [name for name in dir(Tensor) if name.startswith("__i") and name not in ("__init__", "__invert__")]
WRITES = dict.fromkeys(
    (
        *(*_writing(Tensor), *_writing(torch), *_writing(torch.nn.init), Tensor.__setitem__),
        *(getattr(Tensor, name) for name in _ASSIGNMENTS),
    )
)
OPERATORS = {
    operator
    for operator in WATCHED
    if isinstance(operator, (type(torch.ops.aten.relu), type(torch.ops.aten.relu.default)))
}
FUNCTIONS = dict.fromkeys(
    WATCHED.keys() - OPERATORS
)  # under torch.compile: what that traces has our own operators in it, and their backward

CHECKPOINT = "torch/utils/checkpoint.py"


def _caller() -> str:
    """The name of the innermost module of the shadow whose `forward` is running."""
    frame: FrameType | None = sys._getframe(2)
    name: str | None = None
    while frame is not None and frame.f_code is not _top.__code__:
        if frame.f_code.co_filename.endswith(CHECKPOINT):
            del frame  # or it would live as long as this one does, and this one as long as it
            raise CannotRewrite(
                "gradient checkpointing computes activations again where the rule cannot follow: "
                "turn it off (in timm: model.set_grad_checkpointing(False))"
            )
        if name is None and frame.f_code.co_varnames:
            owner = frame.f_locals.get(frame.f_code.co_varnames[0])
            name = owner.__dict__.get(NAME) if isinstance(owner, nn.Module) else None
        frame = frame.f_back
    return name or ""


def _top(lift: Lift, model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with lift:
        return model(*args, **kwargs)


run_under = _top
