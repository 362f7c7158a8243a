"""The folder of a study: what it was made from, one file per shard, and nobody else in it meanwhile.

run.json            what the files follow from
shards/00000.npz    the first pass over a shard
rescored/00000.npz  of a gallery: winners of a shard, looked at again one by one
fits/00000.npz      of probes: a layer's classifier
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from attribkit.errors import BadValue, FileError
from attribkit.files import write_whole

_KINDS = ("shards", "rescored", "fits")
_OURS = ("run.json", "lock", *_KINDS)


class RunFolder:
    """Files of a study by their names.

    Args:
        path: Where it is, or will be.
        what: What such a study is called.
    """

    def __init__(self, path: Path, what: str = "gallery") -> None:
        self.path = path
        self.what = what

    @contextlib.contextmanager
    def held(self, facts: Mapping[str, Any], force: bool) -> Iterator[None]:
        """The folder, made or gone on with, while nobody else is in it; `force` throws away what is there.

        Raises:
            BadValue: It holds something else, or somebody works in it.
        """
        with self._lock() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadValue(f"another process works in {self.path}: wait for it, or give another folder") from None
            if force:
                self._empty()
            for part in self.path.rglob(".*.part"):  # what a killed process was writing
                part.unlink()
            self._check(facts)
            yield

    def _lock(self) -> TextIO:
        if self.path.exists() and not self.path.is_dir():
            raise BadValue(f"{self.path} is a file: a {self.what} is a folder")
        if self.path.is_dir() and any(self.path.iterdir()) and not any((self.path / name).exists() for name in _OURS):
            raise BadValue(f"{self.path} holds something else than a {self.what}: give another folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return open(self.path / "lock", "w")
        except OSError as error:
            raise FileError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def file(self, kind: str, number: int) -> Path:
        return self.path / kind / f"{number:05d}.npz"

    def read(self, kind: str, number: int) -> bytes | None:
        """A file, where it is there."""
        try:
            return self.file(kind, number).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FileError(f"{self.file(kind, number)} cannot be read: {error.strerror or error}") from error

    def write(self, kind: str, number: int, data: bytes) -> None:
        write_whole(self.file(kind, number), data)

    def _empty(self) -> None:
        (self.path / "run.json").unlink(missing_ok=True)
        for kind in _KINDS:
            for file in (self.path / kind).glob("*.npz"):
                file.unlink()

    def facts(self) -> dict[str, Any]:
        """What the files follow from; nothing where there are none yet."""
        path = self.path / "run.json"
        try:
            return json.loads(path.read_text("utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise BadValue(f"{path} is damaged ({error}): delete the folder to start again") from error

    def _check(self, facts: Mapping[str, Any]) -> None:
        before = self.facts()
        if not before:
            write_whole(self.path / "run.json", f"{json.dumps(facts, indent=2, ensure_ascii=False)}\n".encode())
        for key, new in facts.items() if before else ():
            if before.get(key) != new:
                raise BadValue(
                    f"{self.path} holds a {self.what} of {key} {before.get(key)}, not {new}: "
                    "give another folder, or start it again with force"
                )
