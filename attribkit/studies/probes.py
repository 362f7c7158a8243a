"""Probes: how well a linear classifier does on the features of each layer."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attribkit.errors import BadValue
from attribkit.explaining.given import Loaded
from attribkit.files import npz
from attribkit.identity import digest_of_network
from attribkit.studies.altered import altered
from attribkit.studies.data import PictureSet, opened
from attribkit.studies.featured import Featuring, features_of, grid_of, numbers_of
from attribkit.studies.folder import RunFolder
from attribkit.studies.gallery import unwatched
from attribkit.studies.linear import FOLDS, PENALTIES, fitted, wilson
from attribkit.studies.reading import read
from attribkit.studies.rescoring import Watch
from attribkit.studies.spread import chosen, network_of
from attribkit.studies.stored import Stored
from attribkit.studies.survey import device_of, shards
from attribkit.studies.truncated import Truncated

Array = npt.NDArray[Any]

LAYERS = 12
"""How many layers are looked at where none is named."""
TEST = 0.3
"""The share of each class that the classifiers are tested on."""


@dataclass(frozen=True, eq=False)
class Probes(Stored):
    """How well a linear classifier does on each layer of a network.

    Attributes:
        layers: In the order in which they were given, or are called.
        features: How many numbers of each layer the classifier gets.
        accuracy: The share of test images that it classifies rightly.
        low, high: Between which that lies with 95% confidence, by Wilson's interval over the test images.
        penalties: Of the squared weights, tried for every layer.
        losses: The mean loss of left-out training images, layers x penalties; NaN for those smaller than one that had
            done clearly worse already.
        penalty: For each layer the one with the smallest.
        ended: Whether the layer's fit came to its end; where not, its accuracy may still rise.
        right: Which test images are classified rightly, layers x images.
        test, train: Numbers of the images that were tested on and fitted to; the same for all layers.
        classes: Names of those that occur.
        chance: The share of the most frequent class in the test images: what needs no features.
        changed: What was changed in the network, in words; empty where nothing was.
        unreadable: Numbers of images that could not be read, and why.
    """

    _kind: ClassVar = "set of probes"
    _facts: ClassVar = ("layers", "classes", "chance", "changed", "unreadable")

    layers: tuple[str, ...]
    features: Array
    accuracy: Array
    low: Array
    high: Array
    penalties: Array
    losses: Array
    penalty: Array
    ended: Array
    right: Array
    test: Array
    train: Array
    classes: tuple[str, ...]
    chance: float
    changed: str
    unreadable: tuple[tuple[int, str], ...]

    @property
    def at_edge(self) -> list[str]:
        """Layers whose best penalty is the first or the last one tried, so that a better one may lie beyond."""
        ends = (self.penalties.max(), self.penalties.min())
        return [layer for layer, penalty in zip(self.layers, self.penalty, strict=True) if penalty in ends]

    @classmethod
    def _made(cls, arrays: dict[str, Any], facts: dict[str, Any]) -> Probes:
        facts["layers"], facts["classes"] = tuple(facts["layers"]), tuple(facts["classes"])
        facts["unreadable"] = tuple((number, why) for number, why in facts["unreadable"])
        return cls(**arrays, **facts)


def probe(
    loaded: Loaded | nn.Module,
    data: object,
    layers: Sequence[str] | None = None,
    *,
    remove: Sequence[str] = (),
    keep: Mapping[str, int] | None = None,
    features: int = 1024,
    size: int | None = None,
    out: str | Path | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> Probes:
    """Fit a linear classifier to the features of each layer, and see how well each does on images that it never saw.

    All layers share one pass over the data, one split into training and test images, and one choice of penalties, of
    which cross-validation on the training images takes one for each layer.

        probes = attribkit.probe(attribkit.load("all_cnn_c"), "photos/", ["conv1", "conv6", "conv9"])
        dict(zip(probes.layers, probes.accuracy))

    Args:
        loaded: What `attribkit.load` gives; or a network, for a `Dataset` of inputs. It stays as it is.
        data: Pictures with labels: a folder whose folders are the classes, a pattern, a packed `.npz`, or a map-style
            `Dataset` with `targets`.
        layers: Paths; without it up to twelve that have weights, spread over the depth.
        remove: Layers that pass on what they get, which leaves those after them as they were trained.
        keep: For each layer named, how many channels stay: those whose weights have the largest norm.
        features: How many numbers of a layer the classifier gets at the most: maps are averaged over a grid of as many
            cells as fit, tokens in as many groups, but each channel keeps one number at least.
        size: The side of the square that the network sees, where it takes any.
        out: A folder in which features and classifiers are kept; a run that was stopped goes on from there.
        force: Start again where `out` holds another study.
        watch: Goes through work and shows how far it is.

    Returns:
        Accuracies with their intervals.

    Raises:
        BadValue: There are no labels, too few images, or an argument makes no sense.
        CannotAlter: A layer cannot be left out or cut.
        FileError: A file cannot be read or written.
    """
    if features < 1:
        raise BadValue(f"features={features}: a classifier gets at least one number")
    model = network_of(loaded)
    preprocess = None if isinstance(loaded, nn.Module) else getattr(loaded, "preprocess", None)
    pictures = opened(data, partial(preprocess, size=size) if preprocess else None)
    if pictures.labels is None:
        raise BadValue(
            "there are no labels: give a folder of folders (the classes), a packed .npz or a labelled Dataset"
        )
    x = _first(pictures)[None].to(device_of(model))
    paths = _without_inner(chosen(model, layers, x, LAYERS), remove, layers is not None)
    held = model if not (remove or keep) else altered(model, x, remove, keep or {})
    featuring = Featuring(held, pictures, paths, _grids(held, paths, x, features))
    changed = _in_words(remove, keep or {})
    watch = watch or unwatched
    with _folder(out) as place:
        folder = RunFolder(Path(place), "set of probes")
        name = getattr(loaded, "name", type(model).__name__)
        facts = {"model": f"{name} {digest_of_network(model)}", "changes": changed}
        facts |= {"layers": ", ".join(paths), "data": f"{len(pictures)} images {pictures.digest} {_labels(pictures)}"}
        with folder.held(facts | {"size": size, "features": features}, force):
            done = iter(featuring.done(missing := featuring.missing(folder)))
            for _ in watch(missing, "shards"):
                folder.write("shards", *next(done))
            return _probes(folder, featuring, changed, watch)


def _probes(folder: RunFolder, featuring: Featuring, changed: str, watch: Watch) -> Probes:
    pictures, count = featuring.pictures, len(shards(len(featuring.pictures)))
    numbers, unreadable = numbers_of(folder, count)
    labels, classes = _compact(pictures, numbers)
    train, test = split(labels, classes)
    fits, sizes = [], []
    for layer in watch(range(len(featuring.layers)), "classifiers"):
        fit = folder.read("fits", layer)
        if fit is None:
            fit = _fit(features_of(folder, count, layer), labels, train, test, len(classes), device_of(featuring.model))
            folder.write("fits", layer, fit)
        with np.load(io.BytesIO(fit), allow_pickle=False) as archive:
            fits.append(dict(archive))
    right = np.stack([fit["right"] for fit in fits])
    sizes = [int(fit["features"]) for fit in fits]
    bounds = np.array([wilson(int(row.sum()), len(test)) for row in right])
    return Probes(
        layers=featuring.layers,
        features=np.array(sizes),
        accuracy=right.mean(1),
        low=bounds[:, 0],
        high=bounds[:, 1],
        penalties=np.array(PENALTIES),
        losses=np.stack([fit["losses"] for fit in fits]),
        penalty=np.array([float(fit["penalty"]) for fit in fits]),
        ended=np.array([bool(fit["ended"]) for fit in fits]),
        right=right,
        test=numbers[test],
        train=numbers[train],
        classes=classes,
        chance=float(np.bincount(labels[test]).max() / len(test)),
        changed=changed,
        unreadable=unreadable,
    )


def _fit(features: Array, labels: Array, train: Array, test: Array, classes: int, device: torch.device) -> bytes:
    held, truth = torch.from_numpy(features).to(device), torch.from_numpy(labels).to(device)
    fit = fitted(held[train], truth[train], held[test], truth[test], classes)
    return npz(
        right=fit.right,
        losses=fit.losses,
        penalty=np.array(fit.penalty),
        ended=np.array(fit.ended),
        features=np.array(features.shape[1]),
    )


def split(labels: Array, classes: Sequence[str]) -> tuple[Array, Array]:
    """Which images are fitted to and which are tested on: of each class the same share, drawn alike every time."""
    random = np.random.default_rng(0)
    train, test = [], []
    for label, name in enumerate(classes):
        mine = random.permutation(np.flatnonzero(labels == label))
        if len(mine) < FOLDS + 1:
            raise BadValue(f"the class {name!r} has {len(mine)} images that can be read: it needs {FOLDS + 1} or more")
        tested = max(1, round(TEST * len(mine)))
        test.append(mine[:tested])
        train.append(mine[tested:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def _compact(pictures: PictureSet, numbers: Array) -> tuple[Array, tuple[str, ...]]:
    """Labels of the images that could be read, from 0 without gaps, and the names of the classes."""
    assert pictures.labels is not None
    present, labels = np.unique(pictures.labels[numbers], return_inverse=True)
    if len(present) < 2:
        raise BadValue(f"the images that can be read are of {len(present)} class: a classifier needs two or more")
    return labels.astype(np.int64), tuple(pictures.classes[number] for number in present)


def _labels(pictures: PictureSet) -> str:
    """The same for the same labels."""
    import hashlib

    return hashlib.sha256(np.asarray(pictures.labels).tobytes()).hexdigest()[:8]


def _first(pictures: PictureSet) -> Tensor:
    """The first input that can be read."""
    why = ""
    for number in range(len(pictures)):
        x = read(pictures, number)
        if isinstance(x, Tensor):
            return x
        why = why or x
    raise BadValue(f"none of the {len(pictures)} images can be read: {why}")


def _without_inner(layers: tuple[str, ...], removed: Sequence[str], named: bool) -> tuple[str, ...]:
    """Without those inside of what is removed, which are not called any more."""
    inside = [layer for layer in layers if any(layer.startswith(f"{path}.") for path in removed)]
    if inside and named:
        raise BadValue(f"{inside[0]!r} is a part of what is removed: it has no features any more")
    return tuple(layer for layer in layers if layer not in inside)


def _grids(model: nn.Module, layers: tuple[str, ...], x: Tensor, most: int) -> tuple[tuple[int, ...], ...]:
    with torch.inference_mode():
        units = Truncated(model, layers)(x)
    return tuple(grid_of(each.shape[1], tuple(each.shape[2:]), most) for each in units)


def _in_words(remove: Sequence[str], keep: Mapping[str, int]) -> str:
    words = [f"without {', '.join(remove)}"] if remove else []
    return "; ".join([*words, *(f"{layer} cut to {count} channels" for layer, count in keep.items())])


def _folder(out: str | Path | None) -> AbstractContextManager[str | Path]:
    """The folder that was named, or one that is gone afterwards."""
    return TemporaryDirectory(prefix="attribkit-probes-") if out is None else nullcontext(out)
