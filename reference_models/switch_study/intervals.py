"""Means over images, or over pairs of images, and where they lie in resamples of the images.

Scores are one number per image, or a square matrix with one per pair. NaN is an undefined score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from attribkit.errors import BadValue

Scores = npt.NDArray[np.float64]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over images, and where it lies in 95% of resamples of them; `undefined` images were left out."""

    mean: float
    low: float
    high: float
    images: int
    undefined: int = 0


@dataclass(frozen=True)
class Resampling:
    """How often images are drawn again, and from which seed. As many images are always drawn alike."""

    resamples: int = 2000
    seed: int = 0

    def counts(self, images: int) -> Scores:
        """How often each resample holds each image."""
        return _counts(images, self.resamples, self.seed)


@lru_cache(maxsize=4)  # drawing takes far longer than the means of what is drawn
def _counts(images: int, resamples: int, seed: int) -> Scores:
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples).astype(np.float64)
    drawn.flags.writeable = False
    return drawn


def interval(scores: Scores, resampling: Resampling) -> Interval:
    """Find the mean of scores and its interval; images that are undefined are left out and counted.

    Args:
        scores: One per image, or a square matrix of one per pair, whose diagonal does not count.
        resampling: How images are drawn again. Of pairs, images are drawn in rows and columns.

    Returns:
        The mean with its interval.
    """
    scores = np.asarray(scores, dtype=np.float64)
    known = _restricted(scores, defined(scores))
    images, undefined = len(known), len(scores) - len(known)
    if images < scores.ndim:  # no image; of pairs, no pair
        return Interval(float("nan"), float("-inf"), float("inf"), 0, len(scores))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(_means(known, resampling.counts(images)), [tail, 1 - tail])
    return Interval(float(_means(known, np.ones((1, images)))[0]), float(low), float(high), images, undefined)


def _means(scores: Scores, counts: Scores) -> Scores:
    """One per resample."""
    if scores.ndim == 1:
        return np.asarray(counts @ scores / counts.sum(1))
    between = scores.copy()
    np.fill_diagonal(between, 0.0)  # an image that is drawn twice makes no pair with itself
    pairs = counts.sum(1) ** 2 - (counts**2).sum(1)
    pairs[pairs == 0] = np.nan  # one and the same image, again and again
    return np.asarray(((counts @ between) * counts).sum(1) / pairs)


def defined(scores: Scores) -> npt.NDArray[np.bool_]:
    """Say for each image whether it has a score; of pairs, whether it has one with any other image."""
    if scores.ndim == 1:
        return ~np.isnan(scores)
    between = scores.copy()
    np.fill_diagonal(between, np.nan)
    return np.asarray(~np.isnan(between).all(1))


def on_the_same_images(scores: Sequence[Scores]) -> list[Scores]:
    """Leave out, of all of them, the images that are undefined in any of them: undefined there, undefined here.

    Args:
        scores: Of the same images, all of one kind.

    Returns:
        The same with NaN where any has one.
    """
    if len({np.shape(each) for each in scores}) > 1:
        raise BadValue(f"scores of different images do not pair: {', '.join(str(np.shape(each)) for each in scores)}")
    shared = np.all([defined(each) for each in scores], axis=0)
    return [np.where(shared if each.ndim == 1 else np.outer(shared, shared), each, np.nan) for each in scores]


def _restricted(scores: Scores, images: npt.NDArray[np.bool_]) -> Scores:
    return np.asarray(scores[images] if scores.ndim == 1 else scores[np.ix_(images, images)])
