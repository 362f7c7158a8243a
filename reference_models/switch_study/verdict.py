"""From intervals to a verdict. Nothing here knows which rule is which's friend: it takes numbers and a margin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from attribkit.reference_models.switch_study.intervals import Interval

State = Literal["holds", "fails", "open", "cannot tell"]
"""What intervals say of a sentence."""

Verdict = Literal["refuted", "undecided", "cannot tell", "not judged", "supported"]

FEWEST = 20  # images, below which an interval says nothing
MOST_RENAMED = 25.0  # percent of the images, above which two networks are no longer one


def keeps(loss: Interval, margin: float, above_floors: Iterable[Interval]) -> State:
    """Say whether a rule loses at most the margin without switches.

    Args:
        loss: What it scores with switches less what it scores without.
        margin: How much it may lose.
        above_floors: With switches, what it scores above each floor: where that is no more than the margin, there is
            nothing to lose.

    Returns:
        Whether the sentence holds.
    """
    if not _can_tell(above_floors, margin):
        return "cannot tell"
    return _sided(loss.high <= margin, loss.low > margin)


def loses(loss: Interval, margin: float, above_floors: Iterable[Interval]) -> State:
    """Say whether a rule loses more than the margin without switches; arguments are those of `keeps`."""
    if not _can_tell(above_floors, margin):
        return "cannot tell"
    return _sided(loss.low > margin, loss.high <= margin)


def is_better(difference: Interval) -> State:
    """Say whether one rule scores more than another: the difference of their scores is above zero."""
    return _sided(difference.low > 0, difference.high <= 0)


def verdict(
    guided: State, deconvnet: State, difference: Interval, margin: float, images: int, renamed: float = 0.0
) -> Verdict:
    """Judge the claim that guided backprop keeps what it has without switches, and that the deconvnet loses.

    Args:
        guided: What is said of the first half.
        deconvnet: What is said of the second half.
        difference: The deconvnet's loss less guided's: losses on either side of a margin may be close to each other.
        margin: How much they have to differ.
        images: How many images there were.
        renamed: How many percent of the images are named differently by the network with switches.

    Returns:
        "not judged" where there are two networks, "undecided" where there are too few images, "cannot tell" where one
        half has nothing to lose; then "refuted" where a half fails, and "supported" where both hold and the losses
        differ by more than the margin.
    """
    if renamed > MOST_RENAMED:
        return "not judged"
    if images < FEWEST:
        return "undecided"
    halves = {guided, deconvnet}
    if "cannot tell" in halves:
        return "cannot tell"
    if "fails" in halves:
        return "refuted"
    return "supported" if halves == {"holds"} and difference.low > margin else "undecided"


def _can_tell(above_floors: Iterable[Interval], margin: float) -> bool:
    return all(above.low > margin for above in above_floors)


def _sided(holds: bool, fails: bool) -> State:
    return "holds" if holds else "fails" if fails else "open"
