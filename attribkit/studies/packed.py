"""A packed file: many JPEGs in one `.npz`, with labels, decoded one by one and quickly."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.errors import BadValue

JPEG, _END = b"\xff\xd8\xff", b"\xff\xd9"


@dataclass(frozen=True, eq=False)
class Packed:
    """What a packed file holds.

    Attributes:
        path: The file, for messages.
        jpeg: All files one after the other.
        offsets: Where each begins, and where the last one ends.
        labels: Numbers of classes.
        classes: Their names.
    """

    path: Path
    jpeg: npt.NDArray[np.uint8]
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
                held = {name: archive[name] for name in ("jpeg", "offsets", "labels", "classes") if name in archive}
            jpeg, offsets = held["jpeg"], held["offsets"].astype(np.int64)
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
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
        return decoded(self.jpeg[start:end], f"{self.path}: image {number}")

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
