"""How alike the channels of a layer are at two moments of training: by their scores, and by their winners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.studies.survey import Found
from attribkit.studies.winners import Winners

Array = npt.NDArray[Any]

TOP = 9
"""How many of a channel's strongest images are compared."""


@dataclass(frozen=True, eq=False)
class Settling:
    """All channels of a layer at neighbouring checkpoints: channels x (checkpoints - 1); NaN: nothing to compare.

    Attributes:
        cosine: Of a channel's scores over the same images at a checkpoint and the one before, each mean taken away.
        last: The same of the one before and the last checkpoint: how near it was to what it became.
        kept: The share of a channel's nine strongest images that were among its nine strongest before.
    """

    cosine: Array
    last: Array
    kept: Array

    @classmethod
    def of(cls, found: Sequence[Found]) -> Settling:
        """Compare the passes over the data at all checkpoints.

        Args:
            found: What each kept, in order, of the same images.

        Returns:
            The three measures.
        """
        scores = [each.counts.sample.value for each in found]
        return cls(
            cosine=np.stack([cosines(old, new) for old, new in pairwise(scores)], 1),
            last=np.stack([cosines(old, scores[-1]) for old in scores[:-1]], 1),
            kept=np.stack([shares_kept(old.winners, new.winners) for old, new in pairwise(found)], 1),
        )

    def medians(self) -> dict[str, list[float | None]]:
        """Each measure for the layer as a whole.

        Returns:
            The median of its channels at each step; None where none of them can be compared.
        """
        return {name: [_median(step) for step in values.T] for name, values in vars(self).items()}


def cosines(old: Array, new: Array) -> Array:
    """For each channel, of its scores over the same images; NaN where they are all equal, as a dead channel's are."""
    a, b = (values.astype(np.float64) - values.mean(1, keepdims=True, dtype=np.float64) for values in (old, new))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    differ = (np.ptp(old, axis=1) > 0) & (np.ptp(new, axis=1) > 0)
    return np.where(differ, (a * b).sum(1) / np.where(differ, lengths, 1), np.nan)


def shares_kept(old: Winners, new: Winners) -> Array:
    """For each channel, of its strongest images that were so before; 1 where all are, NaN where it fires on none."""
    shares = []
    for before, after in zip(_strongest(old), _strongest(new), strict=True):
        most = max(len(before), len(after))
        shares.append(len(before & after) / most if most else np.nan)
    return np.array(shares)


def _strongest(winners: Winners) -> list[set[int]]:
    """Of each channel, those on which it fires."""
    pairs = zip(winners.image[:, :TOP], winners.value[:, :TOP] > 0, strict=True)
    return [set(images[fires].tolist()) for images, fires in pairs]


def _median(values: Array) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else None
