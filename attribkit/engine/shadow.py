"""A copy of a model's structure that computes from the model's own tensors, and leaves no trace in the model.

Parameters of the copy are the model's, seen without a gradient. Buffers, and tensors that a model holds in any other
way, are copies which each forward pass takes from the model anew: what `forward` writes into them stays in the shadow.
"""

from __future__ import annotations

import copy
import pickle
import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attribkit.engine.autograd import eager
from attribkit.engine.plan import CannotRewrite
from attribkit.engine.torch_private import outside_transforms, storage_of, uncompiled

NAME = "_attribkit_name"
TAKEN = "_attribkit_taken"


def shadow(model: nn.Module) -> nn.Module:
    """A copy of a model's structure, in eval mode, whose parameters are the model's own."""
    model = unwrapped(model)
    held = dict(_held(model))
    _refuse_what_cannot_be_copied(held)
    memo, taken = _memo(held, getattr(model, TAKEN, Taken()))
    copied = _copied(model, held, memo)
    for module in [value for _, value in _held(copied, functions=False) if isinstance(value, nn.Module)]:
        _rebind_functions(module, memo)
    originals = {id(value) for value in held.values() if isinstance(value, nn.Module)}
    copied.__dict__[TAKEN] = taken
    for path, value in _held(copied):
        if isinstance(value, nn.Module):
            if id(value) in originals:
                raise CannotRewrite(f"{path or 'the model'} is reached in a way that a copy of the model cannot follow")
            value.__dict__[NAME] = path
    return _in_eval_mode(copied)


def _copied(model: nn.Module, held: Mapping[str, Any], memo: dict[int, Any]) -> nn.Module:
    """A deep copy; what will not be copied is shared."""
    try:
        with _CopyingAnyTensor():
            return copy.deepcopy(model, dict(memo))
    except _COPY_ERRORS:
        for value in held.values():
            if not isinstance(value, (nn.Module, Tensor, *_CONTAINERS)) and not _copies(value):
                memo[id(value)] = value
    try:
        with _CopyingAnyTensor():
            return copy.deepcopy(model, memo)
    except _COPY_ERRORS as error:
        deep = max(held, key=len)
        what = f"{deep[:60]}..., nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CannotRewrite(f"{type(model).__name__} holds something that cannot be copied: {what}") from error


def _copies(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except _COPY_ERRORS:
        return False
    return True


def _in_eval_mode(model: nn.Module) -> nn.Module:
    try:
        return model.eval()
    except NotImplementedError:  # exported parts have one mode only, and say so
        for module in model.modules():
            module.training = False
        return model


def held_modules(model: nn.Module) -> list[nn.Module]:
    """Every module that a model holds: its own, and those in lists, closures and other places that torch overlooks."""
    return [value for _, value in _held(model) if isinstance(value, nn.Module)]


class Taken:
    """The tensors that a shadow takes from its model before each forward pass. A copy of it takes nothing.

    `pairs` are the shadow's own and the model's; `parameters`, which are shared, has their paths by where they lie.
    """

    def __init__(
        self, pairs: Sequence[tuple[Tensor, Tensor]] = (), parameters: Mapping[int, str] | None = None
    ) -> None:
        self.pairs = pairs
        self.parameters = parameters or {}

    def again(self) -> None:
        """Take what the model has now; `data`, so that graphs of earlier passes stay usable."""
        with nullcontext() if eager() or torch.compiler.is_compiling() else outside_transforms():
            for own, source in self.pairs:
                own.data.copy_(source.data)

    def source(self, tensor: Tensor) -> Tensor:
        """Where a tensor of the shadow comes from in the end: itself, if from nowhere."""
        return next((source for own, source in self.pairs if own is tensor), tensor)

    def __reduce__(self) -> tuple[type[Taken], tuple[()]]:
        return Taken, ()


class _CopyingAnyTensor(TorchFunctionMode):
    """A tensor that was computed, in a place that is not looked into, is copied without its graph."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))


def _memo(held: Mapping[str, Any], before: Taken) -> tuple[dict[int, Any], Taken]:
    """What stands for what in the copy, as `copy.deepcopy` takes it; and the tensors to be taken anew."""
    memo: dict[int, Any] = {}
    pairs: list[tuple[Tensor, Tensor]] = []
    for value in held.values():
        if isinstance(value, nn.Parameter):
            memo[id(value)] = _alias(value)
        elif isinstance(value, Tensor):
            own = value.detach().clone()
            own.__dict__.update(value.__dict__)
            memo[id(value)] = own
            if not value.is_inference():
                pairs.append((own, before.source(value)))
        elif not isinstance(value, nn.Module) and not _can_be_copied(value):
            memo[id(value)] = value
    modules = [value for value in held.values() if isinstance(value, nn.Module)]
    twins = [(module, _twin(module, memo)) for module in modules if hasattr(type(module), "__deepcopy__")]
    for module, twin in twins:
        twin.__dict__.update(copy.deepcopy(vars(module), memo))
    for wrapper in modules:
        if (inner := unwrapped(wrapper)) is not wrapper:
            memo[id(wrapper)] = copy.deepcopy(inner, memo)
    parameters = {storage_of(value): path for path, value in held.items() if isinstance(value, nn.Parameter)}
    return memo, Taken(pairs, parameters)


def _twin(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """An empty module of the same class, for one whose own way of copying might give anything, itself even."""
    twin: nn.Module = object.__new__(type(module))
    memo[id(module)] = twin
    return twin


def _alias(parameter: nn.Parameter) -> nn.Parameter:
    """The same storage without a gradient; a copy of what was made in inference mode, which no graph may hold."""
    tensor = parameter.detach()
    alias = nn.Parameter(tensor.clone() if parameter.is_inference() else tensor, requires_grad=False)
    alias.__dict__.update(parameter.__dict__)
    if type(parameter) is not type(alias) and not isinstance(alias, type(parameter)):
        alias.__class__ = type(parameter)
    return alias


def _can_be_copied(value: Any) -> bool:
    """Whether `copy.deepcopy` takes it: not locks, generators, open files, scripted functions, pointers..."""
    if isinstance(value, types.ModuleType):
        return False
    if isinstance(value, (type, *_ATOMS, *_CONTAINERS)) or hasattr(type(value), "__deepcopy__"):
        return True
    try:
        value.__reduce_ex__(4)
    except _COPY_ERRORS:
        return False
    return True


# What objects raise that will not be copied or pickled; some say it with whatever their `__getattr__` raises.
_COPY_ERRORS = (AttributeError, LookupError, RuntimeError, TypeError, ValueError, copy.Error, pickle.PickleError)


# -------------------------------------------------------------------------------------------- what a model holds

_ATOMS = (type(None), bool, int, float, complex, str, bytes, types.FunctionType, types.BuiltinFunctionType)
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_FUNCTIONS = (types.FunctionType, types.MethodType, partial)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def _held(model: nn.Module, functions: bool = True) -> Iterator[tuple[str, Any]]:
    """Everything that a model holds, each once, by its path; modules first, by their own names.

    Without `functions`, what only functions hold, in closures and defaults, is left out.
    """
    seen: set[int] = set()
    waiting: deque[tuple[str, Any]] = deque(model.named_modules())
    while waiting:
        path, value = waiting.popleft()
        if id(value) in seen or isinstance(value, type):
            continue
        seen.add(id(value))
        yield path, value
        if isinstance(value, types.ModuleType) or (not functions and isinstance(value, _FUNCTIONS)):
            continue
        inside = ((step, inner) for step, inner in _inside(value) if not _is_plain(inner))
        waiting.extend(((path + step).lstrip("."), inner) for step, inner in inside)


def _is_plain(value: Any) -> bool:
    """Whether a value holds nothing, as most that hang on modules: numbers, names, empty dicts of hooks."""
    kind = type(value)
    return kind in _PLAIN or (kind is dict and not value)


_PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes))


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value holds, with the step that leads there."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", inner) for key, inner in value.items())
    elif isinstance(value, _CONTAINERS):
        yield from ((f"[{index}]", inner) for index, inner in enumerate(value))
    elif isinstance(value, partial):
        yield from ((f"({index})", inner) for index, inner in enumerate((value.func, value.args, value.keywords)))
    elif isinstance(value, types.FunctionType):
        yield from (("()", cell.cell_contents) for cell in value.__closure__ or () if _is_filled(cell))
        yield from (("()", default) for default in value.__defaults__ or ())
        yield from (("()", default) for default in (value.__kwdefaults__ or {}).values())
    elif isinstance(value, types.MethodType):
        yield "()", value.__self__
    elif not isinstance(value, (*_ATOMS, Tensor)):
        for name, inner in getattr(value, "__dict__", {}).items():
            if name != TAKEN:
                yield f".{name}", inner


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 (an empty one raises)
    except ValueError:
        return False
    return True


# -------------------------------------------------------------------------- functions that close over the original


def _rebind_functions(module: nn.Module, memo: dict[int, Any]) -> None:
    """Have functions that a module of the copy holds work on the copy, where they closed over the original."""
    for name, value in list(vars(module).items()):
        module.__dict__[name] = _rebound(value, memo)
    for name in _HOOKS:
        hooks = module.__dict__[name]
        for key, hook in hooks.items():
            hooks[key] = _rebound(hook, memo)


def _rebound(value: Any, memo: dict[int, Any]) -> Any:
    """A function that works on the copy; the same one, where it has nothing of the original."""
    value = uncompiled(value)
    if isinstance(value, partial):
        function = _rebound(value.func, memo)
        return value if function is value.func else partial(function, *value.args, **value.keywords)
    if isinstance(value, types.MethodType) and id(value.__self__) in memo:
        return types.MethodType(value.__func__, memo[id(value.__self__)])
    if not isinstance(value, types.FunctionType):
        return value
    cells = [_rebound_cell(cell, memo) for cell in value.__closure__ or ()]
    defaults = tuple(_of_the_copy(default, memo) for default in value.__defaults__ or ())
    named = {name: _of_the_copy(default, memo) for name, default in (value.__kwdefaults__ or {}).items()}
    old = (*(value.__closure__ or ()), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
    if all(new is before for new, before in zip((*cells, *defaults, *named.values()), old, strict=True)):
        return value
    twin = types.FunctionType(value.__code__, value.__globals__, value.__name__, defaults or None, tuple(cells) or None)
    twin.__kwdefaults__ = named or None
    twin.__dict__.update(value.__dict__)
    return twin


def _rebound_cell(cell: types.CellType, memo: dict[int, Any]) -> types.CellType:
    if not _is_filled(cell):
        return cell
    new = _of_the_copy(cell.cell_contents, memo)
    return cell if new is cell.cell_contents else types.CellType(new)


def _of_the_copy(inside: Any, memo: dict[int, Any]) -> Any:
    """What stands in the copy for something that a function holds."""
    parts = [part for _, part in _inside(inside)] if isinstance(inside, _CONTAINERS) else [inside]
    if any(isinstance(part, (nn.Module, Tensor)) for part in parts):
        return copy.deepcopy(inside, memo)
    return _rebound(inside, memo)


# ------------------------------------------------------------------------------------------ wrappers and refusals


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel, torch.compile and our own `Rewritten`."""
    while True:
        if getattr(model, "_attribkit_rewritten", False) and isinstance(model.model, nn.Module):
            model = model.model
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]  # type: ignore[assignment]
        else:
            return model


def _refuse_what_cannot_be_copied(held: Mapping[str, Any]) -> None:
    for name, module in held.items():
        if isinstance(module, nn.Module) and (why := _reason_against(module)):
            raise CannotRewrite(f"{name or 'the model'} ({type(module).__name__}) {why}")


def _reason_against(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "is TorchScript, whose activations cannot be reached: pass the eager model"
    kind = type(module)
    # Float models that are ready to be quantized hold a FloatFunctional, which computes as torch does.
    is_kind = (
        ".quantized" in kind.__module__ and kind.__module__.startswith("torch.") and kind.__name__ != "FloatFunctional"
    )
    if is_kind or any(t.is_quantized for t in module.buffers(recurse=False)):
        return "is quantized and has no gradient: pass the float model"
    if any(nn.parameter.is_lazy(t) for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
        return "is still lazy: call the model once to give its parameters shapes"
    return None
