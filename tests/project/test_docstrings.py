"""`help()` and the site describe every argument of what is public: the names of the package and of docs/reference."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import attribkit

PAGES = sorted((Path(__file__).parents[2] / "docs" / "reference").glob("*.md"))
LISTED = [name for page in PAGES for name in re.findall(r"^::: (attribkit\S+)$", page.read_text(), re.MULTILINE)]


def named(path: str) -> Any:
    """A module, or what stands in one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        home, _, name = path.rpartition(".")
        return getattr(importlib.import_module(home), name)


def functions(name: str, value: Any) -> Iterator[tuple[str, FunctionType]]:
    """The functions that make up a public name: a module's own, a class's methods, or it alone."""
    if isinstance(value, FunctionType):
        yield name, value
    elif isinstance(value, ModuleType):
        for inner, each in vars(value).items():
            if not inner.startswith("_") and getattr(each, "__module__", None) == value.__name__ and each.__doc__:
                yield from functions(f"{name}.{inner}", each)


def public() -> dict[str, FunctionType]:
    everything = [(name, named(name)) for name in LISTED] + [
        (name, getattr(attribkit, name)) for name in attribkit.__all__
    ]
    return {
        f"{each.__module__}.{each.__qualname__}": each
        for name, value in everything
        for _, each in functions(name, value)
    }


PUBLIC = public()
INTERNAL = {"attribkit.metrics.similarity.mean_cosine_with_others", "attribkit.metrics.similarity.spearman"}


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - INTERNAL))
def test_every_argument_and_the_result_are_described(name: str) -> None:
    """In Google's style, as mkdocstrings reads it."""
    function = PUBLIC[name]
    text = inspect.getdoc(function) or ""
    undescribed = [
        each
        for each in inspect.signature(function).parameters
        if not re.search(rf"^ +\*?{each}: \S", text, re.MULTILINE)
    ]
    assert undescribed == []
    returns = inspect.signature(function).return_annotation not in (None, "None", inspect.Signature.empty)
    assert not returns or re.search(r"^(Returns|Yields):$", text, re.MULTILINE)
