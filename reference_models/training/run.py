"""The folder of a training run: what is being trained, how far it is, and the weights in the end.

run.json             recipe, seed, data, versions, commit: all that is needed to make it again
checkpoint.pt        network, optimiser and metrics after the last whole epoch
metrics.jsonl        one line per epoch
epoch-NNN.safetensors    the epochs that were to be kept
NAME.safetensors     the trained network
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from attribkit.errors import BadValue
from attribkit.files import write_whole
from attribkit.reference_models.provenance import commit, versions

# What makes two runs different ones; the rest of run.json is kept, not compared.
_IDENTITY = ("model", "recipe", "seed", "data")


class RunError(BadValue):
    """The folder cannot be trained in; the message says what to do."""


@contextlib.contextmanager
def opened(folder: Path, description: Mapping[str, Any], owner: bool = True) -> Iterator[Path]:
    """The run's folder, made or gone on with, and nobody else's until the end.

    Of several processes that train together only the first is its `owner`; the others only read it.
    """
    if not owner:
        yield folder
        return
    _check_ours(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is being trained by another process") from None
        _check_same(folder, description)
        for part in folder.glob(".*.part"):  # what a killed process was writing
            part.unlink()
        yield folder


def _check_ours(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: --out takes a folder")
    strange = folder.is_dir() and any(folder.iterdir()) and not (folder / "run.json").is_file()
    if strange and {entry.name for entry in folder.iterdir()} != {"lock"}:
        raise RunError(f"{folder} holds something other than a run: give --out another folder")


def _check_same(folder: Path, description: Mapping[str, Any]) -> None:
    path = folder / "run.json"
    if not path.is_file():
        write_whole(path, f"{json.dumps(description, indent=2, ensure_ascii=False)}\n".encode())
        return
    before = described(folder)
    for key in _IDENTITY:
        old, new = before.get(key), description[key]
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, Mapping):
            key, old, new = next((k, old.get(k), new.get(k)) for k in (*new, *old) if old.get(k) != new.get(k))
        raise RunError(f"{folder} holds a run with {key} {old}, not {new}: give --out another folder")


def described(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "run.json").read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(f"{folder} is not the folder of a run: it has no run.json") from None
    except ValueError as error:
        raise RunError(f"{folder / 'run.json'} is damaged: {error}") from error


def surroundings() -> dict[str, Any]:
    """What else a run may depend on."""
    return {"versions": versions(), "commit": commit(), "threads": torch.get_num_threads()}


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    file = io.BytesIO()
    torch.save(dict(state), file)
    write_whole(folder / "checkpoint.pt", file.getvalue())
    lines = "".join(f"{json.dumps(line)}\n" for line in state["metrics"])
    write_whole(folder / "metrics.jsonl", lines.encode())


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    path = folder / "checkpoint.pt"
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise RunError(f"{path} is damaged ({str(error).splitlines()[0]}): delete it to start again") from error


def metrics(folder: Path) -> list[dict[str, Any]]:
    """One dict per epoch, including those of abandoned attempts."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise RunError(f"{folder} has no metrics.jsonl: no epoch has been trained yet")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
