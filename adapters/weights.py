"""Weight files of every common shape, read without running anything in them, and filled in whole or not at all."""

from __future__ import annotations

import argparse
import os
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attribkit.errors import BadValue

Weights = str | os.PathLike[str]
"""`"default"` (the library's own), `"none"` (random) or a file."""

StateDict = dict[str, Tensor]

# Where checkpoints keep their tensors. Averaged ones come first: they are what was evaluated and published.
NESTED = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model")

# A counter of training steps, which no forward pass in eval mode reads, and which files lack or have to spare.
COUNTER = "num_batches_tracked"

SHOWN = 3


class WeightsError(BadValue):
    """Weights that cannot be had, or do not fit."""


def is_file(weights: Weights) -> bool:
    """Whether weights come from a file.

    Args:
        weights: What a user asked for.

    Returns:
        False for "default" and "none", else True.
    """
    return weights not in ("default", "none")


def load_weights(model: nn.Module, path: Weights, state: StateDict | None = None) -> None:
    """Fill a model from a file, whole or not at all.

    Args:
        model: The network.
        path: The file: safetensors or a checkpoint of tensors.
        state: What `read_weights` gave for it, where it was read already.

    Raises:
        WeightsError: The file cannot be read, or its tensors do not fit; the message lists which.
    """
    expected = model.state_dict()
    given = unprefixed(read_weights(path) if state is None else state, expected)
    misfit = _misfit(given, expected)
    if misfit:
        raise WeightsError(f"{path} does not fit {type(model).__name__}: {misfit}")
    model.load_state_dict({key: given.get(key, tensor) for key, tensor in expected.items()})


def read_weights(path: Weights) -> StateDict:
    """Read the tensors of a weight file, without running anything in it.

    Args:
        path: The file: safetensors or a checkpoint of tensors.

    Returns:
        Tensors by name; averaged ones (EMA) where the file has both.

    Raises:
        WeightsError: The file cannot be read as weights.
    """
    if not Path(path).is_file():
        raise WeightsError(f"there is no weight file {path}; weights are 'default', 'none' or a file")
    content = _safetensors(path) if _is_safetensors(path) else _checkpoint(path)
    state = _tensors_in(content)
    if not state:
        raise WeightsError(f"{path} holds no state dict; save one with torch.save(model.state_dict(), path)")
    return state


def unprefixed(state: StateDict, expected: Mapping[str, Any]) -> StateDict:
    """The state without the marks of DataParallel, of torch.compile and of averaging."""
    state = {key.replace("_orig_mod.", ""): tensor for key, tensor in state.items() if key != "n_averaged"}
    while all(key.startswith("module.") for key in state) and not all(key.startswith("module.") for key in expected):
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return state


def _is_safetensors(path: Weights) -> bool:
    with open(path, "rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and not start.startswith(b"PK")


def _safetensors(path: Weights) -> StateDict:
    import safetensors
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is a damaged safetensors file: {error}") from error


# What torch's reader raises, found by spoiling checkpoints.
_DAMAGED = (
    *(RuntimeError, EOFError, OSError, ValueError, TypeError, AttributeError),
    *(LookupError, ArithmeticError, AssertionError, struct.error),
)


def _checkpoint(path: Weights) -> Any:
    try:
        # Training scripts save their command line beside the weights; a Namespace only holds values.
        # By its content: of a path, newer versions of torch go by the name. What they warn of, our errors say.
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            open(path, "rb") as file,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is not a weight file, or holds more than tensors, so it was not opened: "
            "run torch.save(model.state_dict(), path) where it was made"
        ) from error
    except _DAMAGED as error:
        why = next(iter(str(error).splitlines()), "it is cut off")
        raise WeightsError(f"{path} cannot be read as weights: {why}") from error


def _tensors_in(content: Any) -> StateDict:
    """The tensors of a checkpoint, wherever it keeps them; nothing where it has none."""
    if not isinstance(content, Mapping):
        return {}
    for key in NESTED:
        if isinstance(content.get(key), Mapping) and (state := _tensors_in(content[key])):
            return state
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _misfit(given: StateDict, expected: Mapping[str, Any]) -> str:
    """What does not fit, in one line; nothing where all does."""
    missing = [key for key in expected if key not in given and not key.endswith(COUNTER)]
    extra = [key for key in given if key not in expected and not key.endswith(COUNTER)]
    shapes = [
        f"{key} is {_by(given[key])} and should be {_by(tensor)}"
        for key, tensor in expected.items()
        if key in given and isinstance(tensor, Tensor) and given[key].shape != tensor.shape
    ]
    parts = [_some(missing, "missing"), _some(extra, "unknown to the model"), _some(shapes, "of another shape")]
    advice = "; for another number of classes pass classes=N" if shapes and not missing and not extra else ""
    return ", ".join(filter(None, parts)) + advice


def _some(keys: list[str], what: str) -> str:
    more = ", ..." if len(keys) > SHOWN else ""
    return f"{len(keys)} {what} ({', '.join(keys[:SHOWN])}{more})" if keys else ""


def _by(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
