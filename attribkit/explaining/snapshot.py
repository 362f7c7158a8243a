"""Whether a model is still what it was: what a rewritten copy of it, and its receptive fields, depend on.

A copy shares every tensor with its model, so numbers that change in place need no notice. What does: a module, a
setting, a hook or a tensor in another's place. A receptive field hangs on the contents of buffers as well (a mask of
pruned weights), but not on weights, which the probe replaces, nor on a norm's statistics.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

from torch import Tensor, nn

_STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
_ATOMS = {bool, int, float, complex, str, bytes, type(None)}
_WITHOUT_CONTENTS = (type, FunctionType, MethodType, BuiltinFunctionType, ModuleType)

_OBJECTS = 2
"""How many objects inside each other are looked into; what lies deeper is looked at from outside."""

_ITEMS = 1000
"""How long a container may be to be looked into."""

Thing = TypeVar("Thing")
Seen = dict[int, int]  # what was met before, by its id: the number of its turn


def snapshot(model: Any) -> list[Any]:
    """A list that equals a later one for as long as nothing of the model is replaced, set or hooked.

    It takes some microseconds per module: no tensor is read. So it does not see what is written into a buffer past
    torch's own count of changes, by way of `tensor.data` or a numpy view.
    """
    parts: list[Any] = []
    _add(parts, model, {}, _OBJECTS)
    return parts


def kept(model: nn.Module, now: list[Any], key: tuple[Any, ...], find_out: Callable[[], Thing]) -> Thing:
    """What was found out about a model under this key, for as long as its snapshot is `now`."""
    known = _known.setdefault(model, {})
    if key not in known or known[key][0] != now:
        known[key] = now, find_out()
    found: Thing = known[key][1]
    return found


_known: weakref.WeakKeyDictionary[nn.Module, dict[Any, tuple[list[Any], Any]]] = weakref.WeakKeyDictionary()


class _Same:
    """Stands for an object without keeping it alive; equal to what stands for the very same one."""

    __slots__ = ("number", "ref")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, thing: object) -> None:
        self.number = id(thing)
        try:
            self.ref: weakref.ref[object] | None = weakref.ref(thing)
        except TypeError:  # such as a dtype, which lives as long as torch does
            self.ref = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same) or self.number != other.number:
            return False
        return self.ref is None or self.ref() is not None  # the number of what is gone may be given to another


def _add(parts: list[Any], value: Any, seen: Seen, depth: int) -> None:
    kind = type(value)
    if kind in _ATOMS:
        parts.append(value)
    elif kind is tuple:
        parts.append(len(value))
        for item in value:
            _add(parts, item, seen, depth)
    elif isinstance(value, Tensor):
        parts += _tensor(value)
    elif isinstance(value, _WITHOUT_CONTENTS):
        parts.append(_Same(value))
    elif id(value) in seen:
        parts.append(("again", seen[id(value)]))
    else:
        seen[id(value)] = len(seen)
        if isinstance(value, nn.Module):
            _add_module(parts, value, seen)
        else:
            _add_object(parts, value, seen, depth)


def _add_module(parts: list[Any], module: nn.Module, seen: Seen) -> None:
    parts += (weakref.ref(module), type(module))
    for key, value in vars(module).items():
        kind = type(value)
        if kind in _ATOMS:
            if key != "training":  # the copy is in eval mode, whatever the model is in
                parts += (key, value)
        elif key == "_parameters":
            for name, weight in value.items():
                parts += (name, *_place(weight))
        elif key == "_buffers":
            for name, buffer in value.items():
                parts += (name, *_buffer(name, buffer))
        elif not isinstance(value, (dict, set)) or value:  # no hooks: so it is with most
            parts.append(key)
            _add(parts, value, seen, _OBJECTS)


def _add_object(parts: list[Any], value: Any, seen: Seen, depth: int) -> None:
    """A container, or an object of any kind: settings may be anywhere in it."""
    if isinstance(value, (dict, list, set, frozenset, tuple)):
        parts.append(len(value))
        for item in value if len(value) <= _ITEMS else ():
            _add(parts, item, seen, depth)
            if isinstance(value, dict):
                _add(parts, value[item], seen, depth)
        return
    parts.append(_Same(value))
    for name, item in list(vars(value).items()) if depth and hasattr(value, "__dict__") else ():
        parts.append(name)
        _add(parts, item, seen, depth - 1)


def _place(weight: Tensor | None) -> tuple[Any, ...]:
    """Where a weight's numbers are, and how they lie there."""
    if weight is None or nn.parameter.is_lazy(weight):
        return (weight if weight is None else _Same(weight),)
    return weight.data_ptr(), hash((weight.shape, weight.stride()))


def _buffer(name: str, buffer: Tensor | None) -> tuple[Any, ...]:
    if buffer is None or name in _STATISTICS:
        return (id(buffer),)  # whose number no other gets while a copy holds it, and only copies care
    return (_Same(buffer),) if nn.parameter.is_lazy(buffer) else _tensor(buffer)


def _tensor(tensor: Tensor) -> tuple[Any, ...]:
    written = None if tensor.is_inference() else tensor._version
    return _Same(tensor), *_place(tensor), written
