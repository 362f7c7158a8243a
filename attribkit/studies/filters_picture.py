"""A sheet of first-layer filters: each on a scale of its own, and all on one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.report import layout, pictures
from attribkit.report.pictures import Picture
from attribkit.report.sheet import Cell, sheet
from attribkit.studies.filters import ALIKE, DEAD, DOMINATING, Filters
from attribkit.studies.filters_usual import USUAL

_SIDE = 30
FAULTS = {
    "dead": f"RMS at most {DEAD:g} of the median",
    "dominating": f"RMS, in medians, over {DOMINATING:g}",
    "frequencies": "energy in low, middle and high ones",
    "near-duplicates": f"cosine from {ALIKE:g}, or its negative",
    "aliasing": "answer to gratings beyond the stride's limit, over that to coarser ones",
}
"""What is measured of each."""
CAPTIONS = {"each filter scaled": "strongest first; mid-grey is zero", "all on one scale": "mid-grey is zero; up"}
DEEPER = "Filters of deeper layers are no pictures: attribkit explain --layer shows what makes their units fire."


def drawn(name: str, found: Filters) -> Picture:
    """Both sheets side by side, strongest filters first, and the numbers below."""
    captions = [[name, words] for name, words in CAPTIONS.items()]
    captions[1][1] += f" to {strongest(found):.2g}"
    row = [Cell(caption, image) for caption, image in zip(captions, grids(found), strict=True)]
    return layout.drawn(sheet(name, described(found), [row], [*faults(found), DEEPER]))


def grids(found: Filters) -> tuple[Picture, Picture]:
    """All filters, each on a scale of its own, and all on one; the strongest first."""
    order = np.argsort(-found.rms, kind="stable")
    each = [_tile(found.weights[i], float(np.abs(found.weights[i]).max()) or 1.0) for i in order]
    same = [_tile(found.weights[i], strongest(found)) for i in order]
    return pictures.grid(each), pictures.grid(same)


def strongest(found: Filters) -> float:
    """The largest weight of all."""
    return float(np.abs(found.weights).max()) or 1.0


def described(found: Filters) -> str:
    """The layer and its filters, in a line."""
    count, colours, height, width = found.weights.shape
    by = "x".join(map(str, found.stride))
    return f"{found.layer}: {count} filters of {height} x {width} over {colours} channels, stride {by}"


def measures(found: Filters) -> dict[str, str]:
    """What was measured for each of `FAULTS`, in a few words."""
    low, middle, high = found.bands[found.rms > 0].mean(0) if found.rms.any() else (0.0, 0.0, 0.0)
    largest = float(found.rms.max() / np.median(found.rms)) if np.median(found.rms) else float("inf")
    opposite = int((found.duplicates[:, 2] < 0).sum())
    return {
        "dead": f"{len(found.dead)} of {len(found.rms)}",
        "dominating": f"{len(found.dominating)}; the strongest {largest:.2f}",
        "frequencies": f"{low:.0%}, {middle:.0%}, {high:.0%}",
        "near-duplicates": f"{len(found.duplicates)}" + (f", {opposite} mirrored" if opposite else ""),
        "aliasing": f"{found.aliasing:.2f}" if np.isfinite(found.aliasing) else "not tested",
    }


def named(found: Filters) -> list[str]:
    """Which filters the faults are of, and what could not be tested: a line each."""
    pairs = [f"{int(a)} and {int(b)} ({cosine:.3f})" for a, b, cosine in found.duplicates]
    lines: dict[str, Sequence[object]] = {"dead": found.dead, "dominating": found.dominating, "near-duplicates": pairs}
    said = [f"{name}: {_listed(numbers)}" for name, numbers in lines.items() if numbers]
    if np.isfinite(found.aliasing):
        return [*said, f"aliasing was tested on {found.second}"]
    return [*said, "aliasing was not tested, since the stride is 1 or no convolution answers after it"]


def faults(found: Filters) -> list[str]:
    """What was measured, a line each, with what is usual; and which filters it was."""
    lines = [f"in brackets what is usual: {'; '.join(USUAL)}"]
    for fault, words in measures(found).items():
        usual = "; ".join(of[fault] for of in USUAL.values())
        lines.append(f"{fault} ({FAULTS[fault]}): {words} [{usual}]")
    return [*lines, *named(found)]


def _listed(numbers: Sequence[object]) -> str:
    more = f" and {len(numbers) - 12} more" if len(numbers) > 12 else ""
    return ", ".join(map(str, numbers[:12])) + more


def _tile(weights: npt.NDArray[Any], strength: float) -> Picture:
    image = pictures.picture(weights, "classic", strength)
    return pictures.enlarged(image, max(1, _SIDE // max(image.shape[:2])))
