"""Results of studies as files: arrays, and a few facts beside them; the same result gives the same bytes."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from attribkit.errors import BadValue, FileError
from attribkit.files import npz, write_whole

Result = TypeVar("Result")
Held = dict[str, Any]
Kept = TypeVar("Kept", bound="Stored")


class Stored:
    """A result that an .npz file holds; a subclass names its kind, and its fields that are facts and no arrays."""

    _kind: ClassVar[str]
    _facts: ClassVar[tuple[str, ...]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """All of it as an .npz file, written whole or not at all.

        Args:
            path: The file.

        Raises:
            BadValue: It does not end in .npz.
            FileError: It cannot be written.
        """
        check_ending(path, self._kind)
        save(path, self, self._facts)

    @classmethod
    def load(cls: type[Kept], path: str | os.PathLike[str]) -> Kept:
        """What `save` wrote.

        Args:
            path: The file.

        Raises:
            FileError: It is no such file.
        """
        return restored(path, cls._kind, cls._made)

    @classmethod
    def _made(cls: type[Kept], arrays: Held, facts: Held) -> Kept:
        """From what a file holds; JSON's lists were tuples."""
        tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
        return cls(**arrays, **tuples)


def check_ending(path: str | os.PathLike[str], kind: str) -> None:
    """Raise where a file is not to be an .npz."""
    if Path(path).suffix.lower() != ".npz":
        raise BadValue(f"{path}: this {kind} is saved as .npz")


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
