"""`load`: from a name to a model that is ready to be explained.

A source of models is a module with two functions, `names()` and `build(name, weights, classes)`. Those of torchvision
and timm are files beside this one; others, our reference models among them, are found by the entry point group
`attribkit.adapters`. A `build` that takes `channels` makes models for inputs of other than three colours.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from typing import Any, cast

from attribkit.adapters.source import ORDER, LoadedModel, Source, UnknownModel
from attribkit.adapters.weights import Weights
from attribkit.errors import BadType, BadValue

GROUP = "attribkit.adapters"


def load(
    name: str, weights: Weights | None = "default", *, classes: int | None = None, channels: int | None = None
) -> LoadedModel:
    """Load a model by its name, ready to be explained.

        attribkit.load("all_cnn_c")                     # reference models, then torchvision, then timm
        attribkit.load("torchvision:resnet50")          # or one source
        attribkit.load("timm:resnet50.a1_in1k")
        attribkit.load("mypackage.nets:build")          # a function of yours, also as "./net.py:build"
        attribkit.load("resnet18", weights="mine.safetensors", classes=10)

    Args:
        name: One of those that `list_models` lists, or a function of yours.
        weights: "default" (the library's own), "none" or None (random), or a file: safetensors or a checkpoint.
        classes: The number of classes, where it is not the architecture's usual one.
        channels: The number of the input's colours, for reference models without weights.

    Returns:
        The model with its preprocessing, labels and layers.

    Raises:
        UnknownModel: There is no model of this name; the message lists the nearest.
        WeightsError: The weights cannot be had, or do not fit.
    """
    if not isinstance(name, str):
        raise BadType(f"load takes a model's name, not {type(name).__name__}; explain takes a network as it is")
    weights = "none" if weights is None else weights
    return replace(_built(name, weights, classes, channels), weights=os.fspath(weights))


def _built(name: str, weights: Weights, classes: int | None, channels: int | None) -> LoadedModel:
    prefix, colon, rest = name.rpartition(":")
    if colon and prefix not in sources():
        from attribkit.adapters import importable

        _refuse(channels, name)
        return importable.build(name, weights, classes)
    prefix, bare = (prefix, rest) if colon else (_source_of(name), name)
    source = sources()[prefix]()
    if bare not in source.names():
        raise UnknownModel(f"no model {bare!r} in {prefix}; {_near(bare, [prefix])}")
    if channels is None:
        return source.build(bare, weights, classes)
    if "channels" not in signature(source.build).parameters:
        _refuse(channels, name)
    return cast(Any, source.build)(bare, weights, classes, channels=channels)


def _refuse(channels: int | None, name: str) -> None:
    if channels is not None:
        raise BadValue(f"{name} keeps the channels of its library: channels= is for the reference models")


def list_models(pattern: str = "*", *, here: bool = False) -> list[str]:
    """List the names that `load` takes.

    Args:
        pattern: Only names like this one: `resnet*`, `timm:resnet*`.
        here: Only models whose own weights are on this machine, so that nothing has to be fetched.

    Returns:
        Full names, source:name.
    """
    names = [name for name in _all_names(sources()) if fnmatchcase(name, pattern) or fnmatchcase(_bare(name), pattern)]
    return [name for name in names if _is_here(name)] if here else names


def _is_here(name: str) -> bool:
    """Whether its own weights are on this machine; a source that cannot say so has none."""
    source: Any = sources()[name.partition(":")[0]]()
    return bool(getattr(source, "is_here", lambda name: False)(_bare(name)))


def sources() -> dict[str, Callable[[], Source]]:
    """Every source by its prefix, as a function that imports it: ours in their order, then those of other packages."""
    entries = sorted(entry_points(group=GROUP), key=lambda entry: entry.value.startswith("attribkit."))  # ours win
    loaders = {entry.name: _loader(entry) for entry in entries}
    return {prefix: loaders.pop(prefix) for prefix in ORDER if prefix in loaders} | loaders


def _loader(entry: EntryPoint) -> Callable[[], Source]:
    return lambda: cast(Source, entry.load())


def _source_of(name: str) -> str:
    """The first source that has a bare name."""
    for prefix, source in sources().items():
        if name in source().names():
            return prefix
    raise UnknownModel(f"no model {name!r}; {_near(name, sources())}")


def _all_names(prefixes: Iterable[str]) -> list[str]:
    return [f"{prefix}:{name}" for prefix in prefixes for name in sources()[prefix]().names()]


def _bare(name: str) -> str:
    return name.partition(":")[2]


def _near(name: str, prefixes: Iterable[str]) -> str:
    """The names of these sources that are most like one that does not exist."""
    names: dict[str, str] = {}
    for full in _all_names(prefixes):
        names.setdefault(_bare(full), full)
    begun = sorted((known for known in names if name and known.startswith(name)), key=len)
    near = list(dict.fromkeys([*begun, *difflib.get_close_matches(name, names, n=4, cutoff=0.5)]))[:4]
    return f"the nearest: {', '.join(names[n] for n in near)}" if near else "attribkit.list_models() lists them all"
