"""The verdict comes out each way, by the numbers alone."""

from __future__ import annotations

import numpy as np
import pytest

from attribkit.reference_models.switch_study.verdict import (
    FEWEST,
    Interval,
    Scores,
    loss,
    mean_interval,
    verdict,
    worst,
)

MARGIN = 0.1


def scores(mean: float, images: int = 500, seed: int = 0) -> Scores:
    """Found or not, image by image, as often as `mean` says."""
    return (np.random.default_rng(seed).random(images) < mean).astype(np.float64)


def judged(guided: tuple[float, float], deconvnet: tuple[float, float], images: int = 500) -> str:
    """The verdict on made-up rates of success, each with switches and without."""
    losses = [
        loss(scores(with_, images, seed), scores(without, images, seed + 10))
        for seed, (with_, without) in enumerate((guided, deconvnet))
    ]
    return verdict(losses[0], losses[1], MARGIN)


@pytest.mark.parametrize(
    ("guided", "deconvnet", "expected"),
    [
        ((0.9, 0.9), (0.9, 0.1), "supported"),
        ((0.5, 0.8), (0.9, 0.1), "supported"),  # that guided gains is no objection
        ((0.9, 0.3), (0.9, 0.1), "refuted"),  # guided needs them too
        ((0.9, 0.9), (0.9, 0.9), "refuted"),  # the deconvnet does not need them
        ((0.9, 0.9), (0.02, 0.01), "refuted"),  # the deconvnet has nothing to lose
        ((0.9, 0.8), (0.9, 0.1), "undecided"),  # just at the margin
    ],
)
def test_the_verdict_follows_the_numbers(
    guided: tuple[float, float], deconvnet: tuple[float, float], expected: str
) -> None:
    assert judged(guided, deconvnet) == expected


def test_few_images_decide_nothing() -> None:
    """However clear they look."""
    assert judged((1.0, 1.0), (1.0, 0.0), images=FEWEST - 1) == "undecided"
    assert judged((1.0, 1.0), (1.0, 0.0), images=FEWEST) == "supported"
    assert judged((0.9, 0.85), (0.9, 0.7), images=25) == "undecided"


def test_the_claim_mirrored_is_refuted() -> None:
    """With the two rules exchanged, what supports becomes what refutes."""
    keeps, loses = Interval(0.0, -0.02, 0.02, 500), Interval(0.8, 0.76, 0.84, 500)
    assert (verdict(keeps, loses, MARGIN), verdict(loses, keeps, MARGIN)) == ("supported", "refuted")


def test_an_interval_is_the_bootstrap_written_out() -> None:
    """Resample by resample; the same for paired scores."""
    values = np.random.default_rng(1).normal(0.3, 1, 40)
    generator = np.random.default_rng(7)
    means = []
    for row in generator.integers(40, size=(500, 40)).tolist():
        means.append(sum(values[index] for index in row) / 40)
    found = mean_interval(values, resamples=500, seed=7)
    assert found.low == pytest.approx(np.quantile(means, 0.025))
    assert found.high == pytest.approx(np.quantile(means, 0.975))
    assert found.mean == pytest.approx(values.mean())


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    """95% of intervals hold the mean that the scores are drawn from, give or take what 200 tries allow."""
    found = [mean_interval(np.random.default_rng(seed).normal(0.5, 1, 200), 300, seed) for seed in range(200)]
    held = sum(interval.low <= 0.5 <= interval.high for interval in found)
    assert 180 <= held <= 199


def test_undefined_scores_are_counted_and_left_out() -> None:
    """Pairs of which one is undefined, too; with none left there is no verdict."""
    with_, without = np.array([1.0, np.nan, 1.0]), np.array([0.0, 0.0, np.nan])
    found = loss(with_, without)
    assert (found.mean, found.images, found.undefined) == (1.0, 1, 2)
    nothing = loss(np.full(30, np.nan), np.zeros(30))
    assert (nothing.images, nothing.undefined) == (0, 30)
    assert verdict(nothing, nothing, MARGIN) == "undecided"


def test_scores_have_to_pair() -> None:
    with pytest.raises(ValueError, match="do not pair"):
        loss(np.zeros(3), np.zeros(4))


def test_the_worst_of_several() -> None:
    assert worst(["supported", "undecided", "refuted"]) == "refuted"
    assert worst(["supported", "undecided"]) == "undecided"
    assert worst(["supported"]) == "supported"
    with pytest.raises(ValueError, match="no verdict"):
        worst([])
