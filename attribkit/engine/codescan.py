"""Which functions the code of a model mentions: a quick look, used only to refuse early and to say why."""

from __future__ import annotations

import dis
from collections.abc import Collection, Iterator
from functools import partial
from types import CodeType, FunctionType
from typing import Any

from torch import nn


def mentions(model: nn.Module, names: Collection[str]) -> set[str]:
    """Those of the names that appear in a module's methods, or in functions that it holds or calls.

    A mention is no call. But what is nowhere mentioned will not be called.
    """
    scan = _Scan(names)
    for kind in {type(module) for module in model.modules()}:
        if not kind.__module__.startswith("torch.nn.modules."):
            for method in _methods(kind):
                scan.function(method)
    for module in model.modules():
        for value in vars(module).values():
            scan.held(value)
    return scan.found


def _methods(kind: type) -> Iterator[FunctionType]:
    for base in kind.__mro__:
        if base is nn.Module:
            return
        yield from (value for value in vars(base).values() if isinstance(value, FunctionType))


class _Scan:
    def __init__(self, names: Collection[str]) -> None:
        self.names = names
        self.found: set[str] = set()
        self.seen: set[CodeType] = set()

    def held(self, value: Any) -> None:
        """A value that a module holds: a function, or several."""
        if isinstance(value, (list, tuple)):
            for part in value:
                self.held(part)
        elif isinstance(value, partial):
            self.held(value.func)
        elif not isinstance(value, type):
            self.name(getattr(value, "__name__", None))
            self.function(value)

    def name(self, name: Any) -> None:
        if isinstance(name, str) and name in self.names:
            self.found.add(name)

    def function(self, function: Any) -> None:
        """Everything that a Python function mentions; those of torch itself are known by their names."""
        function = getattr(function, "__func__", function)
        home = getattr(function, "__module__", None) or ""  # generated code has none
        if isinstance(function, FunctionType) and not home.startswith("torch."):
            self.code(function.__code__, function.__globals__)

    def code(self, code: CodeType, scope: dict[str, Any]) -> None:
        if code in self.seen:
            return
        self.seen.add(code)
        before: Any = None
        for step in dis.get_instructions(code):
            value = step.argval
            # `self.relu` is a module of the model, which is looked at by itself.
            if not (before == "self" or (isinstance(before, tuple) and before[-1:] == ("self",))):
                self.name(value)
            if isinstance(value, CodeType):
                self.code(value, scope)
            elif isinstance(value, str) and isinstance(scope.get(value), FunctionType):
                self.name(scope[value].__name__)
                self.function(scope[value])
            before = value
