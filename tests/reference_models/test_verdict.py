"""The verdict comes out each way, by the numbers alone."""

from __future__ import annotations

import pytest

from attribkit.reference_models.switch_study.intervals import Interval
from attribkit.reference_models.switch_study.verdict import (
    FEWEST,
    State,
    Verdict,
    is_better,
    keeps,
    loses,
    verdict,
)

MARGIN = 0.1
HIGH_ABOVE, AT_FLOOR = Interval(0.8, 0.7, 0.9, 500), Interval(0.3, 0.1, 0.5, 500)


def between(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 500)


APART = between(0.3, 0.5)


@pytest.mark.parametrize(
    ("loss", "kept", "lost"),
    [
        (between(-0.3, 0.1), "holds", "fails"),
        (between(0.11, 0.3), "fails", "holds"),
        (between(0.1, 0.3), "open", "open"),
        (between(0.05, 0.11), "open", "open"),
    ],
)
def test_a_sentence_follows_the_interval(loss: Interval, kept: State, lost: State) -> None:
    assert keeps(loss, MARGIN, [HIGH_ABOVE, HIGH_ABOVE]) == kept
    assert loses(loss, MARGIN, [HIGH_ABOVE, HIGH_ABOVE]) == lost


@pytest.mark.parametrize("loss", [between(-0.3, 0.0), between(0.3, 0.5), between(0.0, 0.2)])
def test_who_is_at_one_of_the_floors_has_nothing_to_lose(loss: Interval) -> None:
    """Its lower end at the margin above either of them: whatever it seems to lose or to keep."""
    assert keeps(loss, MARGIN, [HIGH_ABOVE, AT_FLOOR]) == "cannot tell"
    assert loses(loss, MARGIN, [AT_FLOOR, HIGH_ABOVE]) == "cannot tell"


@pytest.mark.parametrize(
    ("difference", "said"),
    [(between(0.01, 0.2), "holds"), (between(-0.2, 0.0), "fails"), (between(-0.1, 0.1), "open")],
)
def test_better_is_above_zero(difference: Interval, said: State) -> None:
    assert is_better(difference) == said


@pytest.mark.parametrize(
    ("guided", "deconvnet", "expected"),
    [
        ("holds", "holds", "supported"),
        ("fails", "holds", "refuted"),
        ("holds", "fails", "refuted"),
        ("fails", "open", "refuted"),
        ("open", "holds", "undecided"),
        ("holds", "open", "undecided"),
        ("holds", "cannot tell", "cannot tell"),
        ("cannot tell", "holds", "cannot tell"),
        ("fails", "cannot tell", "cannot tell"),  # it counts neither for nor against
    ],
)
def test_the_verdict_follows_the_sentences(guided: State, deconvnet: State, expected: Verdict) -> None:
    assert verdict(guided, deconvnet, APART, MARGIN, 500) == expected


def test_losses_that_are_close_to_each_other_support_nothing() -> None:
    """Though one is below the margin and the other above it."""
    guided, deconvnet, difference = between(0.074, 0.082), between(0.112, 0.121), between(0.032, 0.044)
    halves = keeps(guided, MARGIN, [HIGH_ABOVE]), loses(deconvnet, MARGIN, [HIGH_ABOVE])
    assert halves == ("holds", "holds")
    assert verdict(*halves, difference, MARGIN, 500) == "undecided"
    assert verdict(*halves, between(0.1, 0.3), MARGIN, 500) == "undecided"


def test_few_images_decide_nothing() -> None:
    """However clear they look."""
    assert verdict("holds", "holds", APART, MARGIN, FEWEST - 1) == "undecided"
    assert verdict("fails", "holds", APART, MARGIN, FEWEST - 1) == "undecided"
    assert verdict("holds", "holds", APART, MARGIN, FEWEST) == "supported"


def test_two_networks_are_not_judged() -> None:
    """Above a quarter of the images renamed, whatever the sentences say."""
    assert verdict("holds", "holds", APART, MARGIN, 500, renamed=25.0) == "supported"
    for guided in ("holds", "fails", "cannot tell"):
        assert verdict(guided, "holds", APART, MARGIN, 500, renamed=25.1) == "not judged"
