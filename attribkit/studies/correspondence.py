"""Correspondence (Zeiler & Fergus 2013): is the same part of several objects one thing to a network?"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attribkit.errors import BadValue
from attribkit.explaining.given import Loaded
from attribkit.studies.rescoring import Watch
from attribkit.studies.seen import Seen, Views
from attribkit.studies.spread import chosen, network_of
from attribkit.studies.stored import Stored

Array = npt.NDArray[Any]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in the pixels of the picture; the last two are outside."""

LAYERS = 4
DRAWS = 20
"""How many random boxes stand beside each part, in each image."""
TRIES = 200
ZERO = 1e-6
"""What changes by less than this share of a layer's largest feature has not changed: it is rounding."""


@dataclass(frozen=True, eq=False)
class Correspondence(Stored):
    """How alike the changes are when the same part is covered in several images.

    Attributes:
        layers: Whose features.
        parts: Their names.
        pairs: For each part, the number of pairs of images that have it.
        distance: The mean over pairs of the Hamming distance between the signs of what covering changes, over the
            number of features that it changes in either image: parts x layers. 0: the same changes; 1: none in common.
        spread: Its standard deviation over pairs.
        control: The same mean where boxes of the same sizes lie at random places: parts x layers x draws. NaN where
            none of them changes anything.
        changed: The share of features that covering the part changes at all, the mean over images: parts x layers.
        control_changed: The same with random boxes.
    """

    _kind: ClassVar = "correspondence"
    _facts: ClassVar = ("layers", "parts")

    layers: tuple[str, ...]
    parts: tuple[str, ...]
    pairs: Array
    distance: Array
    spread: Array
    control: Array
    changed: Array
    control_changed: Array

    @property
    def below(self) -> Array:
        """The share of draws whose distance is not above the part's, parts x layers: small where parts correspond."""
        known = np.isfinite(self.control)
        return (self.control <= self.distance[..., None]).sum(2) / np.maximum(1, known.sum(2))


def correspondence(
    loaded: Loaded | nn.Module,
    images: Iterable[Any] | Tensor,
    boxes: Sequence[Mapping[str, Box]],
    layers: Sequence[str] | None = None,
    *,
    size: int | None = None,
    watch: Watch | None = None,
) -> Correspondence:
    """Cover the same part in several images, and see whether the features change alike.

    A part is covered in grey. Of what then changes in a layer only the signs are compared, between every two images:
    where a part is one thing to the network, they differ less than with boxes at random places. Features that neither
    cover changes do not count, as boxes over nothing of interest would otherwise seem alike.

    Args:
        loaded: What `attribkit.load` gives, or a network, for inputs. It stays as it is.
        images: Pictures one after the other (paths, PIL images, arrays of height x width x 3 bytes), or a tensor of
            inputs.
        boxes: For each image its parts by their names: left, top, right and bottom in the picture's own pixels.
        layers: Paths of layers; without it four that have weights, spread over the depth.
        size: The side of the square that the network sees, where it takes any.
        watch: Goes through work and shows how far it is.

    Returns:
        Distances for each part and layer, and those of random boxes.

    Raises:
        BadValue: A part is in one image only, or a box lies outside of what the network sees.
        BadType: A layer gives neither maps nor vectors.
    """
    views = Views(loaded, size)
    pictures = list(views.each(images))
    if len(pictures) != len(boxes):
        raise BadValue(f"{len(pictures)} images need as many sets of boxes, not {len(boxes)}")
    where = _where(boxes)
    paths = chosen(network_of(loaded), layers, views.input(pictures[0])[None], LAYERS)
    seen = Seen(loaded, paths)
    found = []
    for part, numbers in (watch or _unwatched)(list(where.items()), "parts"):
        signs = [_signs(seen, views, pictures[number], boxes[number][part], part, number) for number in numbers]
        found.append([_of_layer([image[layer] for image in signs], part) for layer in range(len(paths))])
    distance, spread, control, changed, by_chance = (
        np.array([[layer[what] for layer in part] for part in found]) for what in range(5)
    )
    counts = np.array([len(numbers) * (len(numbers) - 1) // 2 for numbers in where.values()])
    return Correspondence(paths, tuple(where), counts, distance, spread, control, changed, by_chance)


def _unwatched(things: Sequence[Any], name: str) -> Iterator[Any]:
    yield from things


def _where(boxes: Sequence[Mapping[str, Box]]) -> dict[str, list[int]]:
    """For each part the images that have it."""
    where: dict[str, list[int]] = {}
    for number, of_image in enumerate(boxes):
        for part in of_image:
            where.setdefault(part, []).append(number)
    lonely = [part for part, numbers in where.items() if len(numbers) < 2]
    if lonely or not where:
        what = f"{lonely[0]!r} is in one image only" if lonely else "no part has a box"
        raise BadValue(f"parts are compared between images, and {what}: give boxes in two images or more")
    return where


def _signs(seen: Seen, views: Views, picture: Any, box: Box, part: str, number: int) -> list[Array]:
    """For each layer the signs of what covering changes, (1 + draws) x features: first the part, then random boxes."""
    x, name = views.input(picture), f"{part} of image {number}"
    covered = [views.covered(picture, _checked(box, picture, name))]
    hidden = _hides(x, covered[0])
    if not hidden:
        raise BadValue(f"{name}: the network sees nothing of the box {box}, or it is grey already")
    covered += _at_random(views, picture, x, box, hidden, name, number)
    batches = [_changes(features) for features, _ in seen.batches(x, covered)]
    return [np.concatenate(layer) for layer in zip(*batches, strict=True)]


def _checked(box: Box, picture: Any, name: str) -> Box:
    left, top, right, bottom = box
    height, width = _sides(picture)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise BadValue(f"{name}: the box {box} is none in a picture of {width} x {height}: left, top, right, bottom")
    return box


def _at_random(views: Views, picture: Any, x: Tensor, box: Box, hidden: int, name: str, number: int) -> list[Tensor]:
    """The picture with boxes of the same size elsewhere, of which the network sees at least half as much."""
    (height, width), (left, top, right, bottom) = _sides(picture), box
    random = np.random.default_rng(number)  # other places in each image, the same every time
    found: list[Tensor] = []
    for _ in range(TRIES):
        y = int(random.integers(0, height - (bottom - top) + 1))
        x0 = int(random.integers(0, width - (right - left) + 1))
        covered = views.covered(picture, (x0, y, x0 + right - left, y + bottom - top))
        if 2 * _hides(x, covered) >= hidden:
            found.append(covered)
        if len(found) == DRAWS:
            return found
    raise BadValue(f"{name}: too few other places for the box {box}: it is too large, or too little is not grey")


def _sides(picture: Any) -> tuple[int, int]:
    height, width = picture.shape[1:] if isinstance(picture, Tensor) else picture.shape[:2]
    return height, width


def _hides(x: Tensor, covered: Tensor) -> int:
    """How many numbers of the input differ."""
    return int((x != covered).sum())


def _changes(features: Sequence[Tensor]) -> list[Array]:
    """For each layer the signs of the first vector less the others."""
    signs = []
    for each in features:
        change = each[:1] - each[1:]
        change[change.abs() <= ZERO * each[0].abs().max()] = 0
        signs.append(torch.sign(change).to(torch.int8).cpu().numpy())
    return signs


def _of_layer(signs: Sequence[Array], part: str) -> tuple[float, float, Array, float, float]:
    """Of one part in one layer: distance and spread over pairs, each draw's distance, and how much is changed."""
    if len({each.shape for each in signs}) > 1:
        raise BadValue(f"{part}: features of pictures of several sizes cannot be compared: give a size")
    distances = np.array([_hamming(one, other) for one, other in itertools.combinations(signs, 2)])
    changed = np.mean([(each != 0).mean(1) for each in signs], 0)
    mean, spread = _over_pairs(distances)
    return float(mean[0]), float(spread[0]), mean[1:], float(changed[0]), float(changed[1:].mean())


def _hamming(one: Array, other: Array) -> Array:
    """For each row the share of unlike signs among those of which one is not zero; NaN where both are."""
    counts = ((one != 0) | (other != 0)).sum(1)
    return np.where(counts, (one != other).sum(1), np.nan) / np.maximum(1, counts)


def _over_pairs(distances: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each column, of what is known."""
    known = np.isfinite(distances)
    counts = np.where(known.any(0), known.sum(0), np.nan)
    mean = np.where(known, distances, 0).sum(0) / counts
    return mean, np.sqrt((np.where(known, distances - mean, 0) ** 2).sum(0) / counts)
