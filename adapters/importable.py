"""Models in other people's code: `package.module:factory` or `./file.py:factory`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from attribkit.adapters.preprocessing import Plain
from attribkit.adapters.source import ORDER, LoadedModel, UnknownModel
from attribkit.adapters.weights import Weights, WeightsError, is_file, load_weights
from attribkit.errors import BadType, BadValue


def build(name: str, weights: Weights, classes: int | None) -> LoadedModel:
    """Call a function of yours that builds a model.

    Args:
        name: `package.module:function` or `./file.py:function`.
        weights: Passed to the function where it has an argument of this name. Where it has none, a file is loaded into
            the model that the function returns, and "default" stands for the weights that this model has.
        classes: Passed to the function where it has an argument of this name.

    Returns:
        The model; as the function returned it where that is a `LoadedModel`.

    Raises:
        UnknownModel: There is no such module, file or function.
        WeightsError: The weights do not fit.
    """
    place, _, attribute = name.rpartition(":")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_path(place, name)
    made = _call(_attribute(module, attribute, name), name, weights, classes)
    if isinstance(made, nn.Module):
        return LoadedModel(name, made, Plain())
    if not isinstance(made, LoadedModel):
        raise BadType(f"{name} returns {type(made).__name__}, not a torch.nn.Module or an attribkit.LoadedModel")
    return made


def _call(factory: Any, name: str, weights: Weights, classes: int | None) -> Any:
    if isinstance(factory, nn.Module):
        factory = _constant(factory)
    takes = inspect.signature(factory).parameters
    if classes is not None and "classes" not in takes:
        raise BadValue(f"{name} takes no classes=: it decides by itself how many there are")
    arguments = {} if classes is None else {"classes": classes}
    if "weights" in takes:
        return factory(weights=weights, **arguments)
    if weights == "none":
        raise WeightsError(f"{name} takes no weights=, so it cannot be asked for random ones: leave weights= out")
    made = factory(**arguments)
    if is_file(weights):
        load_weights(made.model if isinstance(made, LoadedModel) else made, weights)
    return made


def _constant(model: nn.Module) -> Callable[[], nn.Module]:
    return lambda: model


def _attribute(module: ModuleType, attribute: str, name: str) -> Any:
    if not attribute or not hasattr(module, attribute):
        raise UnknownModel(f"there is no {attribute!r} in {name.rpartition(':')[0]}; write module:function")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise UnknownModel(f"{name} is a {type(factory).__name__}, not a function that builds a model")
    return factory


def _from_path(path: str, name: str) -> ModuleType:
    """A module by its dotted name, also from the current folder, as `python -m` finds it."""
    with _importing_from(Path.cwd()):
        try:
            return importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{path}.".startswith(f"{error.name}."):
                raise  # a module that was found needs one that is not installed
            raise UnknownModel(
                f"no model {name!r}: {path} is neither a module nor one of the sources {', '.join(ORDER)}"
            ) from error


def _from_file(file: Path) -> ModuleType:
    """A module by its file, which may import what lies beside it, as a script does."""
    if not file.is_file():
        raise UnknownModel(f"there is no file {file}")
    file = file.resolve()
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        with _importing_from(file.parent):
            spec.loader.exec_module(module)
    except BaseException:  # nothing is swallowed: a module that failed must not be found by the next import
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
