"""How strongly a channel fires on an image: its score there, and the position that is shown for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attribkit.errors import BadValue

Score = Literal["max", "mean", "sum"] | Callable[[Tensor], Tensor]
"""Of a channel on an image: a name, or a function from images x channels x height x width to images x channels."""

Array = npt.NDArray[Any]

_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda units: units.amax((2, 3)),
    "mean": lambda units: units.mean((2, 3)),
    "sum": lambda units: units.sum((2, 3)),
}


def function_of(score: Score) -> Callable[[Tensor], Tensor]:
    """The function that a score is."""
    if callable(score):
        return score
    if score not in _SCORES:
        raise BadValue(f"score is one of {', '.join(_SCORES)}, or a function; not {score!r}")
    return _SCORES[score]


def name_of(score: Score) -> str:
    """What a score is called."""
    return score if isinstance(score, str) else f"{score.__module__}.{score.__qualname__}"


@dataclass(frozen=True, eq=False)
class Scored:
    """Some images, scored.

    Attributes:
        values: Images x channels.
        strongest: Images x channels: the strongest unit of each channel.
        position: Images x channels x 2: its row and column, of several the first; -1 in a layer without positions.
    """

    values: Array
    strongest: Array
    position: Array


def scored(units: Tensor, score: Score) -> Scored:
    """The scores of images by what a layer gives for them."""
    planes = units if units.dim() == 4 else units[..., None, None]
    values = function_of(score)(planes)
    if values.shape != planes.shape[:2]:
        raise BadValue(f"the score gives {tuple(values.shape)}, not one number per image and channel")
    if not bool(torch.isfinite(values).all()):
        raise BadValue("the layer gives NaN or infinite values, which have no order: look for the cause in the model")
    flat = planes.flatten(2).argmax(2)
    strongest = planes.flatten(2).gather(2, flat[..., None])[..., 0]
    position = np.stack(np.divmod(flat.cpu().numpy(), planes.shape[3]), -1).astype(np.int32)
    if units.dim() == 2:
        position = np.full_like(position, -1)
    return Scored(values.float().cpu().numpy(), strongest.cpu().numpy(), position)
