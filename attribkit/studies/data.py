"""A data set as a study sees it: pictures in a fixed order, with names, and with labels where there are any."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attribkit.errors import BadType, BadValue
from attribkit.files import PICTURE_ENDINGS
from attribkit.studies.packed import Packed

Preprocess = Callable[..., Tensor]
"""From a picture (a path, a PIL image, an array) to the model's input."""


class DataChanged(BadValue):
    """The data set is not what it was when it was opened."""


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures in a fixed order.

    Attributes:
        names: One per picture.
        digest: The same for the same pictures in the same order, as far as that can be known without reading them.
        read: The model's input for the picture of a number. An `OSError` or an error of ours: it cannot be read.
        labels: Numbers of classes, or None.
        classes: Their names.
    """

    names: Sequence[str]
    digest: str
    read: Callable[[int], Tensor]
    labels: npt.NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def label(self, number: int) -> str | None:
        """The name of a picture's class."""
        return None if self.labels is None else self.classes[self.labels[number]]


def opened(data: object, preprocess: Preprocess | None) -> PictureSet:
    """The pictures of a folder, a pattern, a packed file, or a map-style `Dataset`.

    Args:
        data: A path, or an object with a length whose items are pictures or inputs, alone or before a label.
        preprocess: Makes inputs of pictures; without it, items of a `Dataset` are inputs already.

    Raises:
        BadValue: There are no pictures, or labels do not fit.
        BadType: It is nothing of the kind.
    """
    if isinstance(data, PictureSet):
        return data
    if not isinstance(data, str | os.PathLike):
        return _of_dataset(data, preprocess)
    if preprocess is None:
        raise BadType("pictures in files need a preprocessing: pass what attribkit.load gives, or a Dataset of inputs")
    path = Path(data)
    found = _of_packed(path, preprocess) if path.suffix == ".npz" else _of_files(path, preprocess)
    if not len(found):
        raise BadValue(f"{data} holds no images")
    return found


def _digest(parts: Iterable[object]) -> str:
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(f"{part}\n".encode("utf-8", "surrogatepass"))
    return hashed.hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------- files


def _of_files(path: Path, preprocess: Preprocess) -> PictureSet:
    root, files = _found(path)
    names = [file.relative_to(root).as_posix() for file in files]
    labels, classes = _by_folder(names)
    digest = _digest(f"{name} {file.stat().st_size}" for name, file in zip(names, files, strict=True))
    return PictureSet(names, digest, lambda number: preprocess(files[number]), labels, classes)


def _found(path: Path) -> tuple[Path, list[Path]]:
    """The folder that names begin in, and the files."""
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.suffix.lower() in PICTURE_ENDINGS and file.is_file())
        files = sorted(inside, key=lambda file: file.relative_to(path).as_posix())
        if not files:
            raise BadValue(f"{path} is a folder without images")
        return path, files
    if glob.has_magic(str(path)):
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(name)]
        if not files:
            raise BadValue(f"nothing matches {path}")
        return Path(os.path.commonpath([file.parent for file in files])), files
    raise BadValue(f"{path} does not exist: give a folder of images, a pattern, or a packed .npz")


def _by_folder(names: Sequence[str]) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
    """The folders that pictures are in as their classes, where every picture is in one and there are several."""
    folders = [name.rpartition("/")[0].rpartition("/")[2] for name in names]
    classes = tuple(sorted(set(folders)))
    if len(classes) < 2 or "" in classes:
        return None, ()
    number = {name: index for index, name in enumerate(classes)}
    return np.array([number[folder] for folder in folders], np.int64), classes


# --------------------------------------------------------------------------------------------------- the packed file


def _of_packed(path: Path, preprocess: Preprocess) -> PictureSet:
    packed = Packed.read(path)
    names = [f"{path.stem}-{number:0{len(str(len(packed)))}}" for number in range(len(packed))]
    digest = _digest([packed.offsets.tobytes(), packed.jpeg.size, packed.jpeg.every(max(1, packed.jpeg.size // 65536))])
    return PictureSet(names, digest, lambda n: preprocess(packed.picture(n)), packed.labels, packed.classes)


# --------------------------------------------------------------------------------------------------------- a Dataset


def _of_dataset(data: Any, preprocess: Preprocess | None) -> PictureSet:
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise BadType(f"data is a path or a map-style Dataset, with a length and numbered items: not {type(data)}")
    count = len(data)
    if not count:
        raise BadValue("the data set has no images")
    labels, classes = _targets(data, count)

    def read(number: int) -> Tensor:
        if len(data) != count:
            raise DataChanged(f"the data set had {count} images and now has {len(data)}: it may not change meanwhile")
        item = data[number]
        picture = item[0] if isinstance(item, tuple | list) else item
        if isinstance(picture, Tensor) and picture.is_floating_point():
            return picture
        if preprocess is None:
            raise BadType(f"an item is a {type(picture).__name__} where a model without preprocessing needs a tensor")
        return preprocess(picture)

    width = len(str(count))
    names = [f"{number:0{width}}" for number in range(count)]
    return PictureSet(names, _digest([type(data).__qualname__, count]), read, labels, classes)


def _targets(data: Any, count: int) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
    """What torchvision's data sets say of classes."""
    targets = getattr(data, "targets", None)
    if targets is None:
        return None, ()
    labels = torch.as_tensor(targets).numpy().astype(np.int64)
    classes = tuple(map(str, getattr(data, "classes", None) or range(int(labels.max()) + 1)))
    check_labels(labels, classes, count, type(data).__name__)
    return labels, classes


def check_labels(labels: npt.NDArray[np.int64], classes: Sequence[str], count: int, name: str) -> None:
    """Raise unless there is one label per picture, and each has its class."""
    if len(labels) != count:
        raise BadValue(f"{name} holds {count} images and {len(labels)} labels: there has to be one per image")
    if count and not 0 <= labels.min() <= labels.max() < len(classes):
        raise BadValue(f"{name} has labels from {labels.min()} to {labels.max()} for {len(classes)} classes")
