"""Pictures to put networks to the test on: the test images of a labelled set, or photographs in a folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from attribkit.adapters.images import ENDINGS, RGB
from attribkit.errors import BadValue
from attribkit.reference_models import data


@dataclass(frozen=True)
class TestSet:
    """Pictures, or the files that they are in, and what is on them where the set says so.

    `rivals` are further ones among which the source of a map is looked for, too; `names` say which picture is which.
    `train` are images to learn from, where the set has some.
    """

    __test__ = False  # pytest takes every class whose name begins so for tests

    pictures: tuple[RGB | Path, ...]
    source: str
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    rivals: tuple[RGB | Path, ...] = ()
    names: tuple[str, ...] = ()
    train: data.Split | None = None

    def drawn(self, count: int, seed: int, candidates: int = 0) -> TestSet:
        """Equally many of each class, classes in turn, so that the first have all; without labels any, or all.

        Of the others the first ones are rivals, until there are so many candidates.
        """
        generator = torch.Generator().manual_seed(seed)
        if self.labels is None:
            chosen = torch.randperm(len(self.pictures), generator=generator)[:count]
        else:
            chosen = _of_each_class(self.labels, count // len(self.labels.unique()), generator)
        labels = None if self.labels is None else self.labels[chosen]
        taken = chosen.tolist()
        held = set(taken)
        others = [index for index in range(len(self.pictures)) if index not in held]
        rivals = tuple(self.pictures[index] for index in others[: max(0, candidates - len(taken))])
        pictures = tuple(self.pictures[index] for index in taken)
        names = tuple(self.names[index] for index in taken) if self.names else ()
        return TestSet(pictures, self.source, labels, self.classes, rivals, names)

    @property
    def digest(self) -> str:
        """The same for the same pictures in the same order."""
        hashed = hashlib.sha256(str(None if self.labels is None else self.labels.tolist()).encode())
        for picture in (*self.pictures, *self.rivals):
            hashed.update(picture.read_bytes() if isinstance(picture, Path) else picture.tobytes())
        return hashed.hexdigest()[:16]


def _of_each_class(labels: Tensor, each: int, generator: torch.Generator) -> Tensor:
    chosen = []
    for index in labels.unique():
        members = (labels == index).nonzero()[:, 0]
        if len(members) < each:
            raise BadValue(f"there are {len(members)} test images of a class, and {each} of each are asked for")
        chosen.append(members[torch.randperm(len(members), generator=generator)[:each]])
    return torch.stack(chosen, 1).flatten()


def read(path: Path) -> TestSet:
    """The test images of what `data.read` takes, or all pictures in a folder, however they are sorted there."""
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS) if path.is_dir() else []
    if files and not data.is_labelled_set(path):
        names = tuple(file.relative_to(path).as_posix() for file in files)
        return TestSet(tuple(files), path.resolve().name, names=names)
    labelled = data.read(path)
    return TestSet(
        tuple(labelled.test.images.numpy()),
        labelled.source,
        labelled.test.labels,
        labelled.classes,
        names=tuple(f"test image {index}" for index in range(len(labelled.test))),
        train=labelled.train,
    )
