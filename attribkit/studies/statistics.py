"""What is counted of every channel in the same pass: how often it fires, how strongly, and on what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.studies.winners import Winners

Array = npt.NDArray[Any]

SAMPLE = 1024
"""How many images, spread evenly over all, histograms and quantiles are made from. Up to so many: all."""

QUANTILES = (0.99, 0.9, 0.5)
EXAMPLES = 3
"""How many images stand for a quantile."""

BINS = 24


def sampled(images: Array, count: int) -> Array:
    """Which of these images, by number of `count` in all, are in the sample."""
    wanted = min(SAMPLE, count)
    return (images + 1) * wanted // count > images * wanted // count


@dataclass(frozen=True, eq=False)
class Counts:
    """Of some images and all channels.

    Attributes:
        images: How many were looked at.
        fires: For each channel, how many have a unit above zero.
        total: For each channel, the sum of the scores.
        sample: The scores of the images in the sample, as winners without order: channels x images.
    """

    images: int
    fires: Array
    total: Array
    sample: Winners

    @classmethod
    def none(cls, channels: int) -> Counts:
        return cls(0, np.zeros(channels, np.int64), np.zeros(channels), Winners.none(channels))

    @classmethod
    def of(cls, images: Array, values: Array, strongest: Array, positions: Array, count: int) -> Counts:
        """Of a batch: scores, strongest units and their positions, images x channels, out of `count` images."""
        chosen = sampled(images, count)
        sample = Winners.of(images[chosen], values[chosen], positions[chosen])
        return cls(len(images), (strongest > 0).sum(0), values.sum(0, dtype=np.float64), sample)

    def merged(self, other: Counts) -> Counts:
        """Both together; the order of merging is that of the images."""
        sample = Winners(
            np.concatenate([self.sample.image, other.sample.image], 1),
            np.concatenate([self.sample.value, other.sample.value], 1),
            np.concatenate([self.sample.position, other.sample.position], 1),
        )
        return Counts(self.images + other.images, self.fires + other.fires, self.total + other.total, sample)

    def arrays(self) -> dict[str, Array]:
        """To be stored."""
        sample = {f"sample_{name}": array for name, array in self.sample.arrays().items()}
        sample["sample_image"] = self.sample.image[:1]  # the same for all channels
        return {"images": np.array(self.images), "fires": self.fires, "total": self.total, **sample}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Counts:
        held = {name: arrays[f"sample_{name}"] for name in ("image", "value", "position")}
        held["image"] = np.broadcast_to(held["image"], held["value"].shape)
        return cls(int(arrays["images"]), arrays["fires"], arrays["total"], Winners.from_arrays(held))


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of each channel asked for.

    Attributes:
        fires: The share of images with a unit above zero.
        mean: The mean score.
        quantiles: Channels x 3: the scores at the 99th, 90th and 50th percentile of the sample.
        histogram: Channels x 24: how many of the sample have a score in each bin, from `edges[:, 0]` to `edges[:, 1]`.
        edges: The smallest and the largest score in the sample.
        classes: For each channel how many of its winners are of each class; empty without labels.
        entropy: Of that, in bits: 0 where all winners are of one class; NaN without labels.
    """

    fires: Array
    mean: Array
    quantiles: Array
    histogram: Array
    edges: Array
    classes: tuple[dict[str, int], ...]
    entropy: Array

    @property
    def dead(self) -> Array:
        """Which channels fire on no image."""
        return self.fires == 0


def statistics(counts: Counts, winners: Winners, labels: Array | None, names: tuple[str, ...]) -> Statistics:
    """What the counts of some channels, and their winners, come to."""
    values = counts.sample.value.astype(np.float64)
    edges = np.stack([values.min(1), values.max(1)], 1)
    return Statistics(
        fires=counts.fires / max(1, counts.images),
        mean=counts.total / max(1, counts.images),
        quantiles=np.quantile(values, QUANTILES, axis=1).T,
        histogram=np.stack(
            [np.histogram(row, BINS, range=tuple(ends))[0] for row, ends in zip(values, edges, strict=True)]
        ),
        edges=edges,
        classes=tuple(_classes(row, labels, names) for row in winners.image),
        entropy=np.array([_entropy(_classes(row, labels, names)) for row in winners.image]),
    )


def bands(counts: Counts) -> Winners:
    """For each channel the images of the sample that are nearest to each quantile, side by side."""
    values = counts.sample.value.astype(np.float64)
    places = []
    for quantile in np.quantile(values, QUANTILES, axis=1):
        away = np.abs(values - quantile[:, None])
        places.append(np.argsort(away, axis=1, kind="stable")[:, :EXAMPLES])
    return counts.sample.taken(np.concatenate(places, 1))


def _classes(images: Array, labels: Array | None, names: tuple[str, ...]) -> dict[str, int]:
    """How many of these images are of each class, the most frequent first."""
    if labels is None:
        return {}
    found, counts = np.unique(labels[images[images >= 0]], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {names[found[i]]: int(counts[i]) for i in order}


def _entropy(classes: Mapping[str, int]) -> float:
    if not classes:
        return float("nan")
    shares = np.array(list(classes.values())) / sum(classes.values())
    return float(abs(-(shares * np.log2(shares)).sum()))
