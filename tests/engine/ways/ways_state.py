"""What a model is, to the last bit: a description of all that hangs on it, so that two of them can be compared.

`oracles.state_digest` looks at what is registered. A guest may also disturb what is not: modules and parameters in a
plain list, in a closure, behind a partial or a bound method. Here everything that can be reached is looked at.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
HELD = (list, tuple, set, frozenset, dict, deque)


def description(root: Any) -> dict[str, str]:
    """From the path of every value that hangs on `root` to what can be said about it."""
    return dict(_described("", root, set()))


def parameters_of(root: Any) -> list[nn.Parameter]:
    """Every parameter that can be reached, registered or not, each once."""
    found = {id(value): value for _, value in _reached("", root, set()) if isinstance(value, nn.Parameter)}
    return list(found.values())


def _described(path: str, root: Any, seen: set[int]) -> Iterator[tuple[str, str]]:
    for where, value in _reached(path, root, seen):
        if isinstance(value, PLAIN):
            yield where, repr(value)
        elif isinstance(value, Tensor):
            yield where, _tensor(value)
        elif isinstance(value, np.ndarray):
            yield where, f"{id(value)} {value.dtype} {value.shape} {value.tobytes().hex()}"
        elif isinstance(value, torch.Generator):
            yield where, f"{id(value)} {value.get_state().numpy().tobytes().hex()}"
        elif isinstance(value, HELD):
            yield where, f"{type(value)} {id(value)} {len(value)}"
        elif isinstance(value, nn.Module):
            yield where, f"{type(value)} {id(value)} {list(vars(value))}"
        else:
            yield where, f"{type(value)} {id(value)}"


def _tensor(tensor: Tensor) -> str:
    """Place, version, values, gradient and hooks of a tensor."""
    hooks = list((tensor._backward_hooks or {}).values())
    if tensor.layout != torch.strided or tensor.is_meta:  # which have no place in memory
        return f"{id(tensor)} {tensor._version} {tensor!r}"
    identity = (id(tensor), type(tensor), tensor.data_ptr(), tensor._version, tensor.requires_grad, hooks)
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes().hex()
    gradient = _tensor(tensor.grad) if tensor.is_leaf and tensor.grad is not None else "none"
    return f"{identity} {tuple(tensor.shape)} {tensor.stride()} {values} gradient: {gradient}"


def _reached(path: str, root: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Everything from here on, each object once, with the way that leads to it; as deep as it may be nested."""
    waiting = [(path, root)]
    while waiting:
        where, value = waiting.pop()
        if not isinstance(value, PLAIN):
            if id(value) in seen:
                continue
            seen.add(id(value))
        yield where, value
        waiting += [(f"{where}{name}", part) for name, part in _parts(value)]


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What hangs on a value, but not on what is the language's or torch's own."""
    if isinstance(value, dict):
        yield from ((f"[{key!r:.40}]", part) for key, part in list(value.items()))
    elif isinstance(value, HELD):
        yield from ((f"[{i}]", part) for i, part in enumerate(list(value)))
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield from ((".__func__", value.__func__), (".__self__", value.__self__))
    elif isinstance(value, types.FunctionType):
        yield from _closure(value)
    elif isinstance(value, nn.Module) or _is_ours(value):
        yield from ((f".{key}", part) for key, part in list(getattr(value, "__dict__", {}).items()))


def _closure(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    if (function.__module__ or "").startswith("torch"):
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"<{name}>", cell.cell_contents
        except ValueError:  # a variable that has no value yet
            continue
    yield ".__defaults__", function.__defaults__
    yield ".__dict__", function.__dict__


def _is_ours(value: Any) -> bool:
    """Whether a value is of a class made for these tests, a parameter with attributes, or a mere bag of attributes."""
    if isinstance(value, (type, types.ModuleType)):
        return False
    return type(value).__module__.startswith("ways") or isinstance(value, (types.SimpleNamespace, Tensor))
