"""Invariance (Zeiler & Fergus 2013, figure 5): how features and answers move when the picture does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attribkit.errors import BadValue
from attribkit.explaining.given import Loaded
from attribkit.explaining.labels import numbered
from attribkit.identity import LIBRARY, digest_of_code, digest_of_network
from attribkit.studies import stored
from attribkit.studies.moves import USUAL, Move, moves_of
from attribkit.studies.seen import Seen, Views
from attribkit.studies.spread import chosen, network_of
from attribkit.studies.stored import Stored

Array = npt.NDArray[Any]
Target = int | str | Sequence[int | str] | None

LAYERS = 4
"""How many layers are looked at where none is named."""


@dataclass(frozen=True, eq=False)
class Invariance(Stored):
    """How far features and answers go when pictures are moved.

    Attributes:
        layers: Whose features.
        kinds, amounts: Of each move, in order: "down" and "right" by shares of the shorter side, "scale" by factors,
            "rotation" in degrees against the clock, "flip" 0 from left to right and 1 from top to bottom.
        distance: Between the feature vectors of the original and the moved picture: the Euclidean distance over the
            length of the original's vector, images x layers x moves. 0 is no change. NaN where that length is 0.
        other: The same distance to another picture, the next one: images x layers. NaN for a single picture.
        probability: Of the target class, images x moves; NaN where the model's answer is not images x classes.
        best: The most probable class, images x moves; -1 where there is none.
        border: The share of what the network sees that lies beyond the picture's border, images x moves.
        clean: Of the pictures as they are: probability and most probable class, images x 2.
        target: For each image the class whose probability it is.
        names: Of the images.
    """

    _kind: ClassVar = "invariance"
    _facts: ClassVar = ("layers", "kinds", "target", "names")

    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    amounts: Array
    distance: Array
    other: Array
    probability: Array
    best: Array
    border: Array
    clean: Array
    target: tuple[int, ...]
    names: tuple[str, ...]

    def moves(self, kind: str) -> Array:
        """The numbers of the moves of one kind.

        Args:
            kind: "down", "right", "scale", "rotation" or "flip".

        Returns:
            Indices into what has one entry per move.
        """
        return np.flatnonzero(np.array(self.kinds) == kind)


def invariance(
    loaded: Loaded | nn.Module,
    images: Iterable[Any] | Tensor,
    layers: Sequence[str] | None = None,
    target: Target = None,
    moves: Mapping[str, Sequence[float]] = USUAL,
    *,
    size: int | None = None,
    out: str | Path | None = None,
) -> Invariance:
    """Shift, scale, turn and flip pictures, and see how far features and the answer go.

    Pictures are moved before the model's preprocessing, so that what it would have cropped away comes in, and beyond
    the picture's own border grey; `border` of the result says how much of that the network sees. Inputs of a model,
    N x C x H x W, are moved themselves.

        found = attribkit.invariance(attribkit.load("all_cnn_c"), ["cat.jpg", "dog.jpg"], ["conv1", "conv9"])
        found.distance[:, 1, found.moves("rotation")]

    Args:
        loaded: What `attribkit.load` gives, or a network, for inputs. It stays as it is.
        images: Pictures one after the other (paths, PIL images, arrays of height x width x 3 bytes), or a tensor.
        layers: Paths of layers whose features are compared; without it four that have weights, spread over the depth.
        target: The class whose probability is looked at, or one per image; without it the one predicted for the
            picture as it is.
        moves: Amounts by kind, as in `Invariance.amounts`.
        size: The side of the square that the network sees, where it takes any.
        out: A folder in which what was found of each image is kept; a run that was stopped goes on from there.

    Returns:
        Distances and probabilities for each image, layer and move.

    Raises:
        BadValue: There are no images, or a layer, a class or a move makes no sense.
        BadType: A layer gives neither maps, tokens nor vectors.
        FileError: A file cannot be read or written.
    """
    views = Views(loaded, size)
    asked = moves_of(moves)
    parts: list[_Part] = []
    study: _Study | None = None
    for number, (picture, following) in enumerate(_pairs(views.each(images))):
        x = views.input(picture)
        study = study or _Study(loaded, views, chosen(network_of(loaded), layers, x[None], LAYERS), asked, out)
        wanted = numbered(_of_image(target, number), getattr(loaded, "labels", None))
        parts.append(study.part(picture, x, None if following is None else views.input(following), wanted))
    if study is None:
        raise BadValue("there are no images")
    return _together(study.layers, asked, parts)


def _together(layers: tuple[str, ...], moves: tuple[Move, ...], parts: Sequence[_Part]) -> Invariance:
    names = ("distance", "other", "probability", "best", "border", "clean")
    return Invariance(
        layers=layers,
        kinds=tuple(move.kind for move in moves),
        amounts=np.array([move.amount for move in moves]),
        target=tuple(part.target for part in parts),
        names=tuple(f"image {number}" for number in range(len(parts))),
        **{name: np.stack([getattr(part, name) for part in parts]) for name in names},
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """What was found of one image."""

    distance: Array
    other: Array
    probability: Array
    best: Array
    border: Array
    clean: Array
    target: int

    @classmethod
    def made(cls, arrays: dict[str, Any], facts: dict[str, Any]) -> _Part:
        return cls(**arrays, **facts)


class _Study:
    """The question, and how one image answers it."""

    def __init__(
        self, loaded: Loaded | nn.Module, views: Views, layers: tuple[str, ...], moves: tuple[Move, ...], out: Any
    ) -> None:
        self.views, self.layers, self.moves = views, layers, moves
        self.seen = Seen(loaded, layers)
        self.out = None if out is None else Path(out)
        amounts = [[move.kind, move.amount] for move in moves]
        code = [digest_of_code(LIBRARY), str(torch.__version__)]
        network = digest_of_network(self.seen.net.net)
        self.key = json.dumps([network, layers, amounts, str(self.seen.device), code])

    def part(self, picture: Any, x: Tensor, following: Tensor | None, target: Any) -> _Part:
        """What was kept of an image, or is found now."""
        if self.out is None:
            return self.found(picture, x, following, target)
        held = hashlib.sha256(f"{self.key} {target}".encode())
        for array in (np.asarray(picture), x.numpy(), None if following is None else following.numpy()):
            held.update(b"none" if array is None else str(array.shape).encode() + array.tobytes())
        path = self.out / "parts" / f"invariance.{held.hexdigest()[:16]}.npz"
        if not path.is_file():
            stored.save(path, self.found(picture, x, following, target), ("target",))
        return stored.restored(path, "part of an invariance", _Part.made)

    def found(self, picture: Any, x: Tensor, following: Tensor | None, target: int | None) -> _Part:
        """Move the picture, and compare; the next picture stands last among the moved ones."""
        comparable = following is not None and following.shape == x.shape
        inputs = (self.views.moved(picture, move) for move in self.moves)
        distance, logits = self.seen.compared(x, _followed(inputs, following if comparable else None))
        count = len(self.moves)
        other = distance[:, count] if comparable else np.full(len(self.layers), np.nan)
        clean, chances, best, wanted = answers(logits, target, count)
        border = np.array([self.views.border(picture, move) for move in self.moves])
        return _Part(distance[:, :count], other, chances, best, border, clean, wanted)


def answers(logits: Tensor | None, target: int | None, count: int) -> tuple[Array, Array, Array, int]:
    """Of logits, the original's first: its probability and class, those of so many others, and the target."""
    if logits is None:
        if target is not None:
            raise BadValue(f"a class {target} was asked for, and the model's answer is not images x classes")
        nothing = np.full(count, np.nan)
        return np.array([np.nan, -1.0]), nothing, np.full(count, -1), -1
    classes = logits.shape[1]
    if target is not None and not 0 <= target < classes:
        raise BadValue(f"the model has {classes} outputs, 0 to {classes - 1}; there is no {target}")
    wanted = int(logits[0].argmax()) if target is None else target
    chances, best = logits.double().softmax(1)[:, wanted].numpy(), logits.argmax(1).numpy()
    return np.array([chances[0], best[0]]), chances[1 : count + 1], best[1 : count + 1], wanted


def _followed(inputs: Iterator[Tensor], last: Tensor | None) -> Iterator[Tensor]:
    yield from inputs
    if last is not None:
        yield last


def _pairs(pictures: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Each with the next one; the last with the one before it."""
    before = held = None
    for picture in pictures:
        if held is not None:
            yield held, picture
        before, held = held, picture
    if held is not None:
        yield held, before


def _of_image(target: Target, number: int) -> Any:
    if target is None or isinstance(target, int | str):
        return target
    if number >= len(target):
        raise BadValue(f"target names {len(target)} classes, and there are more images: give one per image")
    return target[number]
