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


def drawn(name: str, result: Filters) -> Picture:
    """Both sheets side by side, strongest filters first, and the numbers below."""
    captions = [[name, words] for name, words in CAPTIONS.items()]
    captions[1][1] += f" to {strongest(result):.2g}"
    row = [Cell(caption, image) for caption, image in zip(captions, grids(result), strict=True)]
    return layout.drawn(sheet(name, described(result), [row], [*faults(result), DEEPER]))


def grids(result: Filters) -> tuple[Picture, Picture]:
    """All filters, each on a scale of its own, and all on one; the strongest first."""
    order = np.argsort(-result.rms, kind="stable")
    each = [_tile(result.weights[i], float(np.abs(result.weights[i]).max()) or 1.0) for i in order]
    same = [_tile(result.weights[i], strongest(result)) for i in order]
    return pictures.grid(each), pictures.grid(same)


def strongest(result: Filters) -> float:
    """The largest weight of all."""
    return float(np.abs(result.weights).max()) or 1.0


def described(result: Filters) -> str:
    """The layer and its filters, in a line."""
    count, colours, height, width = result.weights.shape
    by = "x".join(map(str, result.stride))
    return f"{result.layer}: {count} filters of {height} x {width} over {colours} channels, stride {by}"


def measures(result: Filters) -> dict[str, str]:
    """What was measured for each of `FAULTS`, in a few words."""
    low, middle, high = result.bands[result.rms > 0].mean(0) if result.rms.any() else (0.0, 0.0, 0.0)
    largest = float(result.rms.max() / np.median(result.rms)) if np.median(result.rms) else float("inf")
    opposite = int((result.duplicates[:, 2] < 0).sum())
    return {
        "dead": f"{len(result.dead)} of {len(result.rms)}",
        "dominating": f"{len(result.dominating)}; the strongest {largest:.2f}",
        "frequencies": f"{low:.0%}, {middle:.0%}, {high:.0%}",
        "near-duplicates": f"{len(result.duplicates)}" + (f", {opposite} mirrored" if opposite else ""),
        "aliasing": f"{result.aliasing:.2f}" if np.isfinite(result.aliasing) else "not tested",
    }


def named(result: Filters) -> list[str]:
    """Which filters the faults are of, and what could not be tested: a line each."""
    pairs = [f"{int(a)} and {int(b)} ({cosine:.3f})" for a, b, cosine in result.duplicates]
    lines: dict[str, Sequence[object]] = {
        "dead": result.dead,
        "dominating": result.dominating,
        "near-duplicates": pairs,
    }
    said = [f"{name}: {_listed(numbers)}" for name, numbers in lines.items() if numbers]
    if np.isfinite(result.aliasing):
        return [*said, f"aliasing was tested on {result.second}"]
    return [*said, "aliasing was not tested, since the stride is 1 or no convolution answers after it"]


def faults(result: Filters) -> list[str]:
    """What was measured, a line each, with what is usual; and which filters it was."""
    lines = [f"in brackets what is usual: {'; '.join(USUAL)}"]
    for fault, words in measures(result).items():
        usual = "; ".join(of[fault] for of in USUAL.values())
        lines.append(f"{fault} ({FAULTS[fault]}): {words} [{usual}]")
    return [*lines, *named(result)]


def _listed(numbers: Sequence[object]) -> str:
    more = f" and {len(numbers) - 12} more" if len(numbers) > 12 else ""
    return ", ".join(map(str, numbers[:12])) + more


def _tile(weights: npt.NDArray[Any], strength: float) -> Picture:
    image = pictures.picture(weights, "classic", strength)
    return pictures.enlarged(image, max(1, _SIDE // max(image.shape[:2])))
