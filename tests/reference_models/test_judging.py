"""From made-up scores to each verdict, and a metric that sees the middle only says nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attribkit import metrics
from attribkit.reference_models.switch_study import judging, validation
from attribkit.reference_models.switch_study.intervals import Resampling
from attribkit.reference_models.switch_study.subjects import WITH
from attribkit.reference_models.switch_study.verdict import Verdict

FEW = Resampling(300, seed=0)
IMAGES = 400


def rates(*shares: float, seed: int = 0) -> list[list[float]]:
    """Found or not, image by image, as often as each says."""
    draws = np.random.default_rng(seed).random((len(shares), IMAGES))
    return [(row < share).astype(float).tolist() for row, share in zip(draws, shares, strict=True)]


def cells(guided: tuple[float, float], deconvnet: tuple[float, float], floor: float = 0.01) -> dict[str, Any]:
    """Made-up scores, each with switches and without."""
    with_guided, without_guided, with_deconvnet, without_deconvnet, noise = rates(*guided, *deconvnet, floor)
    return {
        WITH: {"guided": with_guided, "deconvnet": with_deconvnet, "backprop": noise}
        | {"random map": noise, "centred Gaussian": [0.0] * IMAGES},
        "uniform": {"guided": without_guided, "deconvnet": without_deconvnet, "backprop": noise},
    }


def judged(made_up: dict[str, Any], **more: float) -> judging.Measurement:
    return judging.measured("source retrieval", "last", "uniform", made_up, 0.1, FEW, **more)


@pytest.mark.parametrize(
    ("guided", "deconvnet", "expected"),
    [
        ((0.9, 0.9), (0.9, 0.1), "supported"),
        ((0.5, 0.8), (0.9, 0.1), "supported"),  # that guided gains is no objection
        ((0.9, 0.3), (0.9, 0.1), "refuted"),  # guided needs them too
        ((0.9, 0.9), (0.9, 0.9), "refuted"),  # the deconvnet does not need them
        ((0.9, 0.9), (0.02, 0.01), "cannot tell"),  # the deconvnet has nothing to lose
        ((0.9, 0.2), (0.02, 0.01), "cannot tell"),  # nor does it count against
        ((0.05, 0.02), (0.9, 0.1), "cannot tell"),  # guided has nothing to keep
        ((0.9, 0.8), (0.9, 0.1), "undecided"),  # just at the margin
    ],
)
def test_the_verdict_follows_the_numbers(
    guided: tuple[float, float], deconvnet: tuple[float, float], expected: Verdict
) -> None:
    assert judged(cells(guided, deconvnet)).verdict == expected


def test_a_floor_that_is_high_says_as_little() -> None:
    """Where noise scores as much as the deconvnet with its switches, too."""
    assert judged(cells((0.9, 0.9), (0.5, 0.1), floor=0.02)).verdict == "supported"
    assert judged(cells((0.9, 0.9), (0.5, 0.1), floor=0.45)).verdict == "cannot tell"


def test_two_networks_are_not_judged() -> None:
    assert judged(cells((0.9, 0.9), (0.9, 0.1)), renamed=26).verdict == "not judged"


def test_the_main_figure_is_a_difference_of_differences() -> None:
    """Paired: image by image, which is narrower than the two apart where what makes them hard is shared."""
    hard = np.random.default_rng(3).normal(0, 1, IMAGES)
    made_up = cells((0.9, 0.9), (0.9, 0.9))
    made_up[WITH] |= {"guided": (1 + hard).tolist(), "deconvnet": (1.5 + hard).tolist()}
    made_up["uniform"] |= {"guided": [0.9] * IMAGES, "deconvnet": [0.8] * IMAGES}
    found = judged(made_up)
    assert found.difference.mean == pytest.approx(0.7 - 0.1)
    assert (
        found.difference.high - found.difference.low < 1e-6 < found.losses["guided"].high - found.losses["guided"].low
    )
    assert found.better.mean == pytest.approx(-0.5)
    assert found.sentences["guided is better"] == "fails"


def test_what_is_undefined_for_one_is_left_out_of_all() -> None:
    """Losses and their parts are of the same images."""
    made_up = cells((0.9, 0.9), (0.9, 0.1))
    made_up["uniform"]["backprop"][:50] = [None] * 50
    found = judged(made_up)
    assert {each.images for each in (*found.losses.values(), found.better, found.difference)} == {IMAGES - 50}
    (row,) = judging.means({"source retrieval": {"last": made_up}}, FEW)
    guided, lost = row["means"], found.losses["guided"].mean
    assert guided[WITH]["guided"].mean - guided["uniform"]["guided"].mean == pytest.approx(lost)


def test_pairs_are_kept_as_what_is_below_the_diagonal() -> None:
    assert judging.array([[], [1.0], [2.0, 3.0]])[[0, 0, 1, 2], [1, 2, 2, 1]].tolist() == [1, 2, 3, 3]
    assert judging.array([None, 1.0])[1] == 1


def hill_seen(maps: Tensor) -> Tensor:
    """A metric that only sees the middle: how much of a map's strength a hill covers."""
    strength = metrics.magnitude(maps)
    hill = metrics.centred_gaussian_maps(maps)
    return (strength * hill).sum((1, 2, 3)) / strength.sum((1, 2, 3))


def test_a_metric_that_only_sees_the_middle_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With switches the deconvnet is strong in the middle, and nowhere without: by itself that would be a verdict.

    Another image's map is strong there, too; less that, nothing is left.
    """
    images = torch.rand(IMAGES, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(IMAGES) % 10
    cases = metrics.Cases(torch.nn.Identity(), images, classes)
    monkeypatch.setattr(
        validation, "evaluate", lambda method, metric, cases: hill_seen(method(cases.images, cases.classes))
    )
    middle, away = metrics.centred_gaussian_maps(images), 1 - metrics.centred_gaussian_maps(images)

    def scored(strong: Tensor, less_anothers: bool) -> list[float]:
        """Maps that differ from image to image but for where they are strong."""
        monkeypatch.setattr(validation, "LESS_ANOTHERS", ("occlusion",) if less_anothers else ())

        def mapper(_: object, shown: Tensor) -> Tensor:
            return strong * (shown.mean(1, keepdim=True) + 0.2)

        answerable = torch.ones(IMAGES, dtype=torch.bool)
        found: list[float] = validation._of_class("occlusion", cases, answerable, mapper, [])["occlusion"].tolist()
        return found

    verdicts = []
    for less_anothers in (False, True):
        kept, lost = scored(middle, less_anothers), scored(away, less_anothers)
        noise = scored(torch.ones_like(middle), less_anothers)
        made_up = {
            WITH: {"guided": kept, "deconvnet": kept, "backprop": kept, "random map": noise},
            "uniform": {"guided": kept, "deconvnet": lost, "backprop": kept},
        }
        verdicts.append(judging.measured("occlusion", "class", "uniform", made_up, 0.1, FEW).verdict)
    assert verdicts == ["supported", "cannot tell"]
