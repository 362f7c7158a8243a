"""The checkpoints of a training run: which files of a folder they are, in which order, and how each becomes a model."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from attribkit.adapters.loading import load
from attribkit.errors import BadValue
from attribkit.studies.evolution import Checkpoint

ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")


def checkpoints(
    path: str | os.PathLike[str], model: str | None = None, *, classes: int | None = None
) -> list[Checkpoint]:
    """Find the checkpoints of a training run, in the order of their numbers.

        attribkit.checkpoints("runs/all_cnn_c-quick-0")           # what `attribkit train --keep-epochs` kept
        attribkit.checkpoints("mine/", "torchvision:resnet18")    # epoch-1.pth, epoch-2.pth, ...
        attribkit.checkpoints("mine/net-*.pt", "./net.py:build")

    The number of a file is the first one in which the names differ; files are read as safetensors or as a checkpoint
    of tensors, and nothing in them is run.

    Args:
        path: The folder of a run of `attribkit train`, a folder of weight files, or a pattern that names some.
        model: Of which network they are, a name that `load` takes; a run of `attribkit train` knows.
        classes: The number of classes, where it is not the architecture's usual one.

    Returns:
        One per file; its weights are read when they are asked for.

    Raises:
        BadValue: There are no checkpoints, the model is not known, or a file has no place in the order.
    """
    path = Path(path)
    described = _described(path)
    name = model or described.get("model")
    if name is None:
        raise BadValue(f"{path} does not say of which network its checkpoints are: name it with model (--model)")
    numbered = _kept(path, described) if described else ordered(_files(path))
    if len(numbered) < 2:
        how = "train with --keep-epochs 1,2,5,10" if described else "the others are to be compared with it"
        raise BadValue(f"{path} holds {len(numbered)} checkpoint{'s' * (not numbered)}, and two are needed: {how}")
    return [Checkpoint(number, file.name, partial(load, name, file, classes=classes)) for number, file in numbered]


def _described(folder: Path) -> dict[str, Any]:
    """What run.json says, where `folder` is that of a run of `attribkit train`."""
    path = folder / "run.json"
    if not path.is_file():
        return {}
    try:
        described = json.loads(path.read_text("utf-8"))
        return described if isinstance(described["model"], str) and described["recipe"]["epochs"] else {}
    except (ValueError, KeyError, TypeError) as error:
        raise BadValue(
            f"{path} is not what attribkit train writes: name the files by a pattern, and --model"
        ) from error


def _kept(folder: Path, described: dict[str, Any]) -> list[tuple[int, Path]]:
    """The epochs that were kept, and the trained network as the last one where that was not kept."""
    held = dict(ordered(folder.glob("epoch-*.safetensors")))
    last = folder / f"{described['model']}.safetensors"
    if last.is_file():
        held.setdefault(int(described["recipe"]["epochs"]), last)
    return sorted(held.items())


def _files(path: Path) -> list[Path]:
    """The weight files that a folder or a pattern names."""
    if path.is_dir():
        return [file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.is_file()]
    if not glob.has_magic(str(path)):
        what = "is a file: give its folder, or a pattern" if path.exists() else "does not exist"
        raise BadValue(f"{path} {what}; checkpoints are a folder or a pattern in quotes")
    return [Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name)]


def ordered(files: Iterable[Path]) -> list[tuple[int, Path]]:
    """Files by their numbers: in each name the first number in which the names differ."""
    numbers = {file: [int(digits) for digits in re.findall(r"\d+", file.name)] for file in sorted(files)}
    place = _differing(list(numbers.values()))
    for file, found in numbers.items():
        if len(found) <= place:
            raise BadValue(f"{file} has no number that says when it was made: name the checkpoints by a pattern")
    by_number = sorted((found[place], file) for file, found in numbers.items())
    for number, same in groupby(by_number, key=lambda pair: pair[0]):
        twice = [file.name for _, file in same]
        if len(twice) > 1:
            raise BadValue(f"{twice[0]} and {twice[1]} both have the number {number}: name one of each by a pattern")
    return by_number


def _differing(numbers: Sequence[Sequence[int]]) -> int:
    """The first place at which not all names have the same number."""
    shared = min(map(len, numbers), default=0)
    return next((place for place in range(shared) if len({each[place] for each in numbers}) > 1), max(0, shared - 1))
