"""A sheet of first-layer filters: each on a scale of its own, and all on one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.report import pictures
from attribkit.report.pictures import Picture
from attribkit.report.sheet import Row, rimmed, sheet
from attribkit.studies.filters import ALIKE, DOMINATING, Filters

_SIDE = 30
DEEPER = "Filters of deeper layers are no pictures: attribkit explain --layer shows what makes their units fire."


def drawn(name: str, found: Filters) -> Picture:
    """Both sheets side by side, strongest filters first, and the numbers below."""
    order = np.argsort(-found.rms, kind="stable")
    strongest = float(np.abs(found.weights).max()) or 1.0
    each = [_tile(found.weights[i], float(np.abs(found.weights[i]).max()) or 1.0) for i in order]
    same = [_tile(found.weights[i], strongest) for i in order]
    images = [rimmed(pictures.grid(each)), rimmed(pictures.grid(same))]
    captions = [
        ["each filter scaled", "strongest first; mid-grey is zero"],
        ["all on one scale", f"to {strongest:.2g}"],
    ]
    return sheet(name, described(found), [Row(captions, images)], [*faults(found), DEEPER])


def described(found: Filters) -> str:
    """The layer and its filters, in a line."""
    count, colours, height, width = found.weights.shape
    by = "x".join(map(str, found.stride))
    return f"{found.layer}: {count} filters of {height} x {width} over {colours} channels, stride {by}"


def faults(found: Filters) -> list[str]:
    """What was measured, a line each."""
    low, middle, high = found.bands[found.rms > 0].mean(0) if found.rms.any() else (0.0, 0.0, 0.0)
    largest = float(found.rms.max() / np.median(found.rms)) if np.median(found.rms) else float("inf")
    pairs = ", ".join(f"{int(a)} and {int(b)} ({cosine:.3f})" for a, b, cosine in found.duplicates[:8])
    more = f" and {len(found.duplicates) - 8} more" if len(found.duplicates) > 8 else ""
    lines = [
        f"dead: {len(found.dead)}{_listed(found.dead)}",
        f"dominating (RMS over {DOMINATING:g} times the median): {len(found.dominating)}{_listed(found.dominating)}; "
        f"the strongest has {largest:.2f} times the median",
        f"energy in low, middle and high frequencies: {low:.0%}, {middle:.0%}, {high:.0%}",
        f"near-duplicates (cosine from {ALIKE:g}): {len(found.duplicates)}{': ' + pairs + more if pairs else ''}",
    ]
    return [*lines, _aliasing(found)]


def _aliasing(found: Filters) -> str:
    if not np.isfinite(found.aliasing):
        return "aliasing: not tested, since the stride is 1 or no convolution answers after it"
    times = f"{found.aliasing:.2f} times as strongly as to those below"
    return f"aliasing: {found.second} answers to gratings beyond the stride's limit {times}"


def _listed(numbers: list[int]) -> str:
    return f": {', '.join(map(str, numbers[:12]))}{'...' if len(numbers) > 12 else ''}" if numbers else ""


def _tile(weights: npt.NDArray[Any], strength: float) -> Picture:
    image = pictures.picture(weights, "classic", strength)
    return pictures.enlarged(image, max(1, _SIDE // max(image.shape[:2])))
