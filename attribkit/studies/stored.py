"""Results of studies as files: arrays, and a few facts beside them; the same result gives the same bytes."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import numpy as np

from attribkit.errors import FileError
from attribkit.files import npz, write_whole

Result = TypeVar("Result")
Held = dict[str, Any]


def save(path: str | os.PathLike[str], result: object, facts: Collection[str]) -> None:
    """Write the fields of a result: those named in `facts` as JSON, the others as arrays."""
    said = json.dumps({name: getattr(result, name) for name in facts})
    arrays = {name: np.asarray(value) for name, value in vars(result).items() if name not in facts}
    write_whole(path, npz(facts=np.frombuffer(said.encode(), np.uint8), **arrays))


def restored(path: str | os.PathLike[str], kind: str, made: Callable[[Held, Held], Result]) -> Result:
    """What `made` makes of the arrays and the facts in a file; an error where it is none that `save` wrote."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return made(arrays, json.loads(bytes(arrays.pop("facts"))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"{path} holds no {kind} that attribkit saved: {error}") from error
