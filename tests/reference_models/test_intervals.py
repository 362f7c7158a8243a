"""Intervals are the bootstrap written out, and hold the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from attribkit.reference_models.switch_study.intervals import Resampling, Scores, interval, on_the_same_images

FEW = Resampling(400, seed=7)


def drawn(images: int) -> list[list[int]]:
    """The images of each resample, one by one."""
    return [[i for i in range(images) for _ in range(int(row[i]))] for row in FEW.counts(images)]


def test_an_interval_is_the_bootstrap_written_out() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, 40)
    means = [sum(values[index] for index in row) / 40 for row in drawn(40)]
    found = interval(values, FEW)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(np.quantile(means, 0.025))
    assert found.high == pytest.approx(np.quantile(means, 0.975))
    assert all(len(row) == 40 for row in drawn(40))


def test_of_pairs_images_are_drawn_in_rows_and_columns() -> None:
    """Pair by pair, but for those of an image with itself, whatever stands on the diagonal."""
    matrix = np.random.default_rng(1).normal(0.3, 1, (15, 15))
    matrix = matrix + matrix.T

    def mean(row: list[int]) -> float:
        pairs = [matrix[i, j] for a, i in enumerate(row) for b, j in enumerate(row) if a != b and i != j]
        return sum(pairs) / len(pairs)

    means = [mean(row) for row in drawn(15)]
    found = interval(matrix, FEW)
    assert found.mean == pytest.approx(mean(list(range(15))))
    assert found.low == pytest.approx(np.quantile(means, 0.025))
    assert found.high == pytest.approx(np.quantile(means, 0.975))
    for own in (64.0, np.nan):
        np.fill_diagonal(matrix, own)
        again = interval(matrix, FEW)
        assert (again.low, again.high, again.images) == pytest.approx((found.low, found.high, 15))


def test_one_way_for_every_pair_is_certain() -> None:
    found = interval(np.full((30, 30), 0.25), FEW)
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


IMAGES = 60


def test_means_are_covered() -> None:
    """Of a paired difference, with tails: 93 to 97% of intervals hold the truth."""
    held = 0
    for seed in range(1000):
        generator = np.random.default_rng(seed)
        with_, without = generator.normal(0.6, 0.3, IMAGES), generator.exponential(0.2, IMAGES)
        found = interval(with_ - without, Resampling(300, seed))
        held += found.low <= 0.4 <= found.high
    assert 930 <= held <= 970


def pairs(generator: np.random.Generator, images: int) -> Scores:
    """1 minus the cosine of unit vectors around a common one, as maps of one unit are."""
    rows = generator.normal(0, 1, (images, 6)) + np.array([1.5, 0, 0, 0, 0, 0])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(1 - rows @ rows.T)


def test_means_over_pairs_are_covered() -> None:
    """93 to 97%, where one interval for all pairs as if they were independent would hold it half as often."""
    direction = np.random.default_rng(10**6)
    mean = np.zeros(6)
    for _ in range(40):
        rows = direction.normal(0, 1, (50_000, 6)) + np.array([1.5, 0, 0, 0, 0, 0])
        mean += (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0) / 40
    truth = 1 - float(mean @ mean)
    held = 0
    for seed in range(1000):
        found = interval(pairs(np.random.default_rng(seed), IMAGES), Resampling(300, seed))
        held += found.low <= truth <= found.high
    assert 930 <= held <= 970


def test_undefined_scores_are_counted_and_left_out() -> None:
    found = interval(np.array([1.0, np.nan, 1.0]), FEW)
    assert (found.mean, found.images, found.undefined) == (1.0, 2, 1)
    nothing = interval(np.full(30, np.nan), FEW)
    assert (nothing.images, nothing.undefined) == (0, 30)
    assert np.isnan(nothing.mean)
    matrix = np.ones((4, 4))
    matrix[2, :] = matrix[:, 2] = np.nan
    found = interval(matrix, FEW)
    assert (found.mean, found.images, found.undefined) == (1.0, 3, 1)


def test_what_is_compared_is_over_the_same_images() -> None:
    """An image that is undefined in one is left out of all."""
    one, other = on_the_same_images([np.array([1.0, np.nan, 3.0]), np.array([4.0, 5.0, np.nan])])
    assert np.isnan(one).tolist() == np.isnan(other).tolist() == [False, True, True]
    matrix = np.ones((3, 3))
    matrix[1, :] = matrix[:, 1] = np.nan
    first, second = on_the_same_images([matrix, np.ones((3, 3))])
    assert interval(second, FEW).images == interval(first, FEW).images == 2


def test_scores_have_to_pair() -> None:
    with pytest.raises(ValueError, match="do not pair"):
        on_the_same_images([np.zeros(3), np.zeros(4)])
