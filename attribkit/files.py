"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import secrets
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from attribkit.errors import FileError

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
"""Of files in a folder these are taken for images; a file that is named is read whatever its ending."""


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Put `data` into the file at `path`, making its folder where there is none.

    Whoever looks at `path` finds what was there before or all of `data`, never a part of it; when anything
    goes wrong (a full disk, an interrupt) the old file stays and nothing else is left in the folder. A link
    is followed: the file that it points to is the one that changes.
    """
    with written_whole(path) as file:
        file.write(data)


def beside(path: Path, data: bytes, taken: Container[Path] = (), *, force: bool = False) -> Path:
    """Where a file may go so that no other content is lost: the first of a.png, a-2.png... that is free or holds it.

    With `force` only those in `taken` are not free.
    """
    free, number = path, 2
    while free in taken or (not force and free.is_file() and free.read_bytes() != data):
        free, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return free


def placed(path: Path, make: Callable[[Path], object]) -> Path:
    """Write what `make` writes into the file that it is given, beside what is there.

    Args:
        path: The file.
        make: Writes one.

    Returns:
        The file, or one whose name has a number where that holds something else.
    """
    with tempfile.TemporaryDirectory(prefix="attribkit-") as folder:
        made = Path(folder) / path.name
        make(made)
        data = made.read_bytes()
    path = beside(path, data)
    if not path.is_file():
        write_whole(path, data)
    return path


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write what `path` is to hold into, bit by bit: `write_whole` for what is large."""
    try:
        with _written_whole(Path(os.path.realpath(path))) as file:
            yield file
    except OSError as error:
        if isinstance(error, FileError):  # of what was to be written, not of writing
            raise
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _written_whole(target: Path) -> Iterator[BinaryIO]:
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since a rename is atomic only within one file system. Opened by hand and not with
    # `tempfile`, whose files nobody but the owner may read.
    part = target.parent / f".{_here()}-{os.getpid()}-{secrets.token_hex(8)}.part"
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.is_file():
            shutil.copymode(target, part)
        os.replace(part, target)
    except BaseException:  # nothing is swallowed: a part must not stay behind, whatever stopped the writing
        part.unlink(missing_ok=True)
        raise


def swept(folder: Path) -> None:
    """Remove from a folder, and those in it, what processes of this machine were writing when they were killed."""
    for part in folder.rglob(f".{_here()}-*-*.part"):
        if not _is_alive(int(part.name.split("-")[1])):
            part.unlink(missing_ok=True)


def _here() -> str:
    """The machine, in a few letters: a number of a process means nothing on another."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    if os.name != "posix":
        return True  # there is no asking without a signal
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def table(rows: Iterable[Iterable[object]]) -> bytes:
    """Rows as the bytes of a .csv file, whatever is in their names."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def npz(**arrays: npt.NDArray[Any]) -> bytes:
    """What `np.savez` would write, but for the time of day that it puts into the file."""
    file = io.BytesIO()
    pack(file, arrays.items())
    return file.getvalue()


def compressed_npz(**arrays: npt.NDArray[Any]) -> bytes:
    """`npz`, smaller and slower."""
    file = io.BytesIO()
    pack(file, arrays.items(), compressed=True)
    return file.getvalue()


def pack(file: BinaryIO, arrays: Iterable[tuple[str, npt.NDArray[Any]]], compressed: bool = False) -> None:
    """`npz`, into a file and one array after the other."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays:
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
