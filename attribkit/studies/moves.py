"""Moves of a picture: shifted, scaled, turned, flipped; what comes in from beyond its border is grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.errors import BadValue

Array = npt.NDArray[Any]

LARGEST = 32_766
"""The longest side that OpenCV moves."""

USUAL: Mapping[str, tuple[float, ...]] = {
    "down": tuple(step / 32 for step in range(-8, 9)),
    "right": tuple(step / 32 for step in range(-8, 9)),
    "scale": tuple(round(2 ** (step / 4), 4) for step in range(-4, 5)),
    "rotation": tuple(float(step) for step in range(0, 360, 15)),
    "flip": (0.0, 1.0),
}
"""Amounts by kind."""

WORDS = {
    "down": "shift down, in % of the shorter side",
    "right": "shift to the right, in % of the shorter side",
    "scale": "scale (1: as it is)",
    "rotation": "rotation, in degrees",
    "flip": "flip",
}
FLIPS = ("left to right", "top to bottom")


@dataclass(frozen=True)
class Move:
    """A change of a picture.

    Attributes:
        kind: "down", "right", "scale", "rotation" or "flip".
        amount: A share of the shorter side; a factor; degrees against the clock; 0 for a flip from left to right and 1
            for one from top to bottom.
    """

    kind: str
    amount: float

    @property
    def name(self) -> str:
        """As it stands in a table."""
        return FLIPS[int(self.amount)] if self.kind == "flip" else f"{self.amount:g}"


def moves_of(amounts: Mapping[str, Sequence[float]]) -> tuple[Move, ...]:
    """Every move, kind by kind; an error where one makes no sense."""
    moves = tuple(Move(kind, float(amount)) for kind, given in amounts.items() for amount in given)
    for move in moves:
        if move.kind not in USUAL:
            raise BadValue(f"a picture is moved by {', '.join(USUAL)}, not by {move.kind!r}")
        if not np.isfinite(move.amount) or (move.kind == "scale" and move.amount <= 0):
            raise BadValue(f"{move.kind} by {move.amount} makes no sense")
        if move.kind == "flip" and move.amount not in (0, 1):
            raise BadValue(f"a flip is 0, from left to right, or 1, from top to bottom, not {move.amount:g}")
    if not moves:
        raise BadValue("no move was named: give amounts for one kind at least")
    return moves


def moved(picture: Array, move: Move, fill: Sequence[float]) -> Array:
    """A picture after a move about its middle, of the same size, bilinearly.

    Args:
        picture: Height x width x colours, bytes or floats of 32 bits.
        move: What is done to it.
        fill: For each colour, what comes in from beyond the border.
    """
    import cv2

    if move.kind == "flip":
        return np.ascontiguousarray(picture[:, ::-1] if move.amount == 0 else picture[::-1])
    height, width = picture.shape[:2]
    if max(height, width) > LARGEST:
        raise BadValue(f"a picture of {width} x {height} cannot be moved: make it smaller than {LARGEST}")
    planes = [
        cv2.warpAffine(
            np.ascontiguousarray(picture[..., colour]), _matrix(move, height, width), (width, height),
            flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=float(value),
        )
        for colour, value in enumerate(fill)
    ]  # fmt: skip
    return np.stack(planes, -1)


def _matrix(move: Move, height: int, width: int) -> Array:
    import cv2

    if move.kind in ("down", "right"):
        along = move.amount * min(height, width)
        return np.array([[1, 0, along if move.kind == "right" else 0], [0, 1, along if move.kind == "down" else 0]])
    angle, factor = (move.amount, 1.0) if move.kind == "rotation" else (0.0, move.amount)
    return cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, factor)
