"""From scores to a verdict: what a rule loses without switches, how sure that is, and what it says of the claim.

Nothing here knows which result is wanted: it takes numbers, one per image, and a margin.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from attribkit.errors import BadValue

Scores = npt.NDArray[np.float64]
Verdict = Literal["supported", "refuted", "undecided"]

RESAMPLES = 2000
CONFIDENCE = 0.95
FEWEST = 20  # images, below which an interval says nothing


@dataclass(frozen=True)
class Interval:
    """A mean over images, and where it lies in 95% of resamples of them; `undefined` images were left out."""

    mean: float
    low: float
    high: float
    images: int
    undefined: int = 0


def mean_interval(scores: Scores, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean of one score per image, by the bootstrap over images; NaN, an undefined score, is left out and counted.

    The same number of images and the same seed draw the same resamples: intervals of several scores are paired.
    """
    known = np.asarray(scores, dtype=np.float64)
    known = known[~np.isnan(known)]
    undefined = len(scores) - len(known)
    if len(known) == 0:
        return Interval(float("nan"), float("-inf"), float("inf"), 0, undefined)
    drawn = np.random.default_rng(seed).integers(len(known), size=(resamples, len(known)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known[drawn].mean(axis=1), [tail, 1 - tail])
    return Interval(float(known.mean()), float(low), float(high), len(known), undefined)


def loss(with_switches: Scores, without: Scores, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """What a score loses when the switches go: the difference image by image."""
    if np.shape(with_switches) != np.shape(without):
        raise BadValue(f"{np.shape(with_switches)} scores with switches do not pair with {np.shape(without)} without")
    return mean_interval(np.asarray(with_switches) - np.asarray(without), resamples, seed)


def verdict(guided: Interval, deconvnet: Interval, margin: float) -> Verdict:
    """On the claim that guided backprop loses at most `margin` without switches, and the deconvnet more than that.

    "supported" where both intervals lie wholly on the claim's side, "refuted" where one lies wholly on the other.
    """
    if min(guided.images, deconvnet.images) < FEWEST:
        return "undecided"
    if guided.high <= margin and deconvnet.low > margin:
        return "supported"
    if guided.low > margin or deconvnet.high <= margin:
        return "refuted"
    return "undecided"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Of several: refuted if any is, else undecided if any is."""
    given = set(verdicts)
    if not given:
        raise BadValue("there is no verdict to choose from")
    return next(one for one in ("refuted", "undecided", "supported") if one in given)
