"""Images to train on, whole sets in memory: CIFAR from its archives, a packed file of JPEGs, a folder.

data = read("cifar-10-python.tar.gz's folder")
data.train.images       # N x H x W x 3 bytes
data.train.labels       # N
"""

from __future__ import annotations

import hashlib
import itertools
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribkit.adapters.images import ENDINGS, ImageError, decode_image, read_image
from attribkit.errors import BadValue
from attribkit.studies.packed import JPEG, decoded


class DataError(BadValue):
    """What lies at the path is not a set of labelled images; the message says what is."""


@dataclass(frozen=True)
class Split:
    """Labelled images.

    Attributes:
        images: N x H x W x 3 bytes.
        labels: Their classes, N.
    """

    images: Tensor  # N x H x W x 3, bytes
    labels: Tensor  # N

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """A set of labelled images.

    Attributes:
        train: Images to train with.
        test: Images to test with.
        classes: The names of the classes.
        source: Where the images are from, in words.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    source: str

    @cached_property
    def digest(self) -> str:
        """The same for the same images and labels in the same order."""
        hashed = hashlib.sha256()
        for split in (self.train, self.test):
            hashed.update(split.images.numpy().data)
            hashed.update(split.labels.numpy().data)
        return hashed.hexdigest()


def read(path: str | Path, *, download: bool = False) -> Data:
    """Read a set of labelled images, whole.

    Args:
        path: A packed `.npz`, a folder with the CIFAR-10 or CIFAR-100 archive, or an image folder: one with `train` and
            `test`, each with a folder for every class, in which all images have one size.
        download: Fetch the official CIFAR-10 archive into the folder when it is not there.

    Returns:
        The images and labels to train and to test with.

    Raises:
        DataError: There is no such set at the path; the message says what is there.
    """
    path = Path(path)
    if path.suffix == ".npz":
        data = _packed(path)
    elif download or _has_archive(path):
        data = _cifar(path, download)
    elif is_labelled_set(path):
        data = _folder(path)
    else:
        what = "does not exist" if not path.exists() else "holds neither"
        raise DataError(
            f"{path} {what}: --data takes the folder of the CIFAR-10 or CIFAR-100 archive (--download fetches it), "
            "a folder with train/CLASS/ and test/CLASS/, or a packed .npz"
        )
    for name, split in (("train", data.train), ("test", data.test)):
        if not len(split):
            raise DataError(f"{path} has no images to {name}")
    return data


def is_labelled_set(folder: Path) -> bool:
    """Whether `read` would find images to train and to test with.

    Args:
        folder: Where to look.

    Returns:
        True where a folder holds such a set.
    """
    return _has_archive(folder) or ((folder / "train").is_dir() and (folder / "test").is_dir())


# The packed file


def _packed(path: Path) -> Data:
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            held = {name: archive[name] for name in ("jpeg", "offsets", "labels", "is_train", "classes")}
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a packed file of images, or is cut short: {error}") from error
    images = _decoded(held["jpeg"], held["offsets"], path)
    labels = torch.from_numpy(held["labels"].astype(np.int64))
    train = torch.from_numpy(held["is_train"].astype(bool))
    classes = tuple(map(str, held["classes"]))
    if not len(images) == len(labels) == len(train):
        raise DataError(f"{path} holds {len(images)} images for {len(labels)} labels")
    _check_labels(labels, classes, path)
    return Data(Split(images[train], labels[train]), Split(images[~train], labels[~train]), classes, "CIFAR-10 (JPEG)")


def _picture(data: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """One picture of a packed file: a JPEG the quick way, of which there are many; any other as images are read."""
    if data[:3].tobytes() != JPEG:
        return decode_image(data.tobytes(), name)
    try:
        return decoded(data, name)
    except BadValue as error:
        raise ImageError(str(error)) from None


def _decoded(jpeg: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any], path: Path) -> Tensor:
    pictures: np.ndarray[Any, Any] | None = None
    for index, (start, end) in enumerate(itertools.pairwise(offsets)):
        picture = _picture(jpeg[start:end], f"{path}: image {index}")
        if pictures is None:
            pictures = np.empty((len(offsets) - 1, *picture.shape), np.uint8)
        if picture.shape != pictures.shape[1:]:
            raise DataError(f"{path}: image {index} has another size than the first")
        pictures[index] = picture
    if pictures is None:
        raise DataError(f"{path} holds no images")
    return torch.from_numpy(pictures)


# The official archives

_CIFAR = {
    "CIFAR10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "CIFAR100": ("cifar-100-python", "cifar-100-python.tar.gz"),
}


def _holds_cifar(path: Path, kind: str) -> bool:
    return any((path / name).exists() for name in _CIFAR[kind])


def _has_archive(path: Path) -> bool:
    return any(_holds_cifar(path, kind) for kind in _CIFAR)


def _cifar(path: Path, download: bool) -> Data:
    from torchvision import datasets

    kind = next((kind for kind in _CIFAR if _holds_cifar(path, kind)), "CIFAR10")
    # The archive may still be packed; torchvision unpacks it, after its checksum, when asked to download.
    packed = (path / _CIFAR[kind][1]).is_file()
    try:
        sets = [getattr(datasets, kind)(path, train=train, download=download or packed) for train in (True, False)]
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} does not hold a whole {kind} archive: {str(error).splitlines()[0]}") from error
    train, test = (Split(torch.from_numpy(each.data), torch.tensor(each.targets)) for each in sets)
    return Data(train, test, tuple(sets[0].classes), kind.replace("R1", "R-1"))


# An image folder


def _folder(path: Path) -> Data:
    classes = tuple(sorted(entry.name for entry in (path / "train").iterdir() if entry.is_dir()))
    if unknown := {entry.name for entry in (path / "test").iterdir() if entry.is_dir()} - set(classes):
        raise DataError(f"{path}/test has classes that train lacks: {', '.join(sorted(unknown))}")
    train, test = (_pictures(path / name, classes) for name in ("train", "test"))
    return Data(train, test, classes, path.name)


def _pictures(path: Path, classes: tuple[str, ...]) -> Split:
    images: list[Tensor] = []
    labels: list[int] = []
    for file, label in _files(path, classes):
        image = torch.from_numpy(read_image(file))
        if images and image.shape != images[0].shape:
            raise DataError(
                f"{file} is {_size(image)}, the images before it {_size(images[0])}: make them one size first"
            )
        images.append(image)
        labels.append(label)
    if not images:
        raise DataError(f"{path} holds no images ({', '.join(ENDINGS)})")
    return Split(torch.stack(images), torch.tensor(labels))


def _files(path: Path, classes: tuple[str, ...]) -> Iterator[tuple[Path, int]]:
    for label, name in enumerate(classes):
        for file in sorted((path / name).glob("*")):
            if file.suffix.lower() in ENDINGS:
                yield file, label


def _size(image: Tensor) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _check_labels(labels: Tensor, classes: tuple[str, ...], path: Path) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        raise DataError(f"{path} has labels outside its {len(classes)} classes")
