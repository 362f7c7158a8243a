"""A packed file: many JPEGs in one `.npz`, with labels, read from the disk and decoded one by one, quickly."""

from __future__ import annotations

import os
import struct
import tempfile
import weakref
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from attribkit.errors import BadValue

JPEG, _END = b"\xff\xd8\xff", b"\xff\xd9"


class Jpegs:
    """The bytes of all pictures of a packed file, one after the other. They stay on the disk.

    Where they are compressed, they lie in a temporary file; a copy in another process makes its own.

    Args:
        path: The file; it is read once from end to end, which checks its sums.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo("jpeg.npy")
            lies_open = member.compress_type == zipfile.ZIP_STORED
            # Open for as long as somebody reads pictures.
            self._file: IO[bytes] = open(path, "rb") if lies_open else tempfile.TemporaryFile()  # noqa: SIM115
            weakref.finalize(self, self._file.close)
            with archive.open(member) as stream:
                self.size = _length(stream)
                self._begin = _first_byte(self._file, member) + stream.tell() if lies_open else 0
                while piece := stream.read(1 << 20):
                    if not lies_open:
                        self._file.write(piece)
        self._file.flush()

    def between(self, start: int, end: int) -> npt.NDArray[np.uint8]:
        """Some of them."""
        # From a place of its own: threads, and processes that were forked, share the file's.
        return np.frombuffer(os.pread(self._file.fileno(), end - start, self._begin + start), np.uint8)

    def every(self, step: int) -> npt.NDArray[np.uint8]:
        """The first byte, and each so many bytes on."""
        mapped = np.memmap(self._file, np.uint8, "r", self._begin, (self.size,))
        return np.array(mapped[::step])

    def __reduce__(self) -> tuple[type[Jpegs], tuple[Path]]:
        return Jpegs, (self.path,)


def _length(stream: IO[bytes]) -> int:
    """How many bytes an array of bytes has, of which the header is read."""
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(stream)
    if dtype != np.uint8 or len(shape) != 1:
        raise ValueError(f"its jpeg is an array of {dtype} of {shape}, not a row of bytes")
    return int(shape[0])


def _first_byte(file: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Where the contents of a member begin: its header in the file has a name and more, of lengths that stand in it."""
    file.seek(member.header_offset + 26)
    name, more = struct.unpack("<HH", file.read(4))
    return int(member.header_offset) + 30 + int(name) + int(more)


@dataclass(frozen=True, eq=False)
class Packed:
    """What a packed file holds.

    Attributes:
        path: The file, for messages.
        jpeg: All files one after the other, on the disk.
        offsets: Where each begins, and where the last one ends.
        labels: Numbers of classes.
        classes: Their names.
    """

    path: Path
    jpeg: Jpegs
    offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64] | None
    classes: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Packed:
        """The file at `path`, not decoded yet."""
        if not path.is_file():
            raise BadValue(f"{path} does not exist")
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                held = {name: archive[name] for name in ("offsets", "labels", "classes") if name in archive}
            jpeg, offsets = Jpegs(path), held["offsets"].astype(np.int64)
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BadValue(f"{path} is not a packed file of images, or is cut short: {error}") from error
        labels = held["labels"].astype(np.int64) if {"labels", "classes"} <= held.keys() else None
        packed = cls(path, jpeg, offsets, labels, tuple(map(str, held.get("classes", ()))))
        packed._check()
        return packed

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def picture(self, number: int) -> npt.NDArray[np.uint8]:
        """One picture: height x width x 3 bytes, red first."""
        start, end = self.offsets[number : number + 2]
        return decoded(self.jpeg.between(int(start), int(end)), f"{self.path}: image {number}")

    def _check(self) -> None:
        rising = bool((np.diff(self.offsets) >= 0).all()) and len(self.offsets) > 1
        if not (rising and self.offsets[0] >= 0 and self.offsets[-1] <= self.jpeg.size):
            raise BadValue(f"{self.path} has offsets that do not lie in its {self.jpeg.size} bytes of pictures")
        if self.labels is None:
            return
        if len(self.labels) != len(self):
            raise BadValue(
                f"{self.path} holds {len(self)} images and {len(self.labels)} labels: it needs one per image"
            )
        if not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise BadValue(f"{self.path} has labels outside its {len(self.classes)} classes")


def decoded(jpeg: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    """The picture in the bytes of a JPEG, upright; `name` is what errors call it.

    The same pixels as `adapters.images` reads, without a second library's look at the header.
    """
    import cv2

    data = jpeg.tobytes()
    if not data.startswith(JPEG):
        raise BadValue(f"{name} is not an image: a packed file holds JPEGs")
    if data.rfind(_END) < 0:
        raise BadValue(f"{name} is cut off: the end of the JPEG is missing")
    pixels: Any = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    if pixels is None:
        raise BadValue(f"{name} is a damaged JPEG")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
