"""A page of first-layer filters: both sheets, their faults beside what is usual, and the frequencies of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attribkit.report import pictures, still_page
from attribkit.report.page import source
from attribkit.report.stored import data_uri
from attribkit.studies.filters import Filters
from attribkit.studies.filters_picture import CAPTIONS, DEEPER, FAULTS, described, grids, measures, named, strongest
from attribkit.studies.filters_usual import USUAL


def page(name: str, result: Filters, facts: Mapping[str, str]) -> bytes:
    """The page as the bytes of an HTML file; the same filters give the same bytes.

    Args:
        name: Of the network.
        found: Its filters.
        facts: The command, the model, versions, as they come at the foot.
    """
    sheets = [
        {"name": name, "words": words, "image": data_uri("png", pictures.encode_png(image)), "width": image.shape[1]}
        for (name, words), image in zip(CAPTIONS.items(), grids(result), strict=True)
    ]
    sheets[1]["words"] += f" to {strongest(result):.2g}"
    faults = [
        {"name": fault, "means": FAULTS[fault], "here": words, "usual": [of[fault] for of in USUAL.values()]}
        for fault, words in measures(result).items()
    ]
    return still_page.page(
        "filters.html",
        source("filters.css"),
        name=name,
        described=described(result),
        sheets=sheets,
        faults=faults,
        networks=list(USUAL),
        named=named(result),
        deeper=DEEPER,
        rows=_rows(result),
        facts=facts,
    )


def _rows(result: Filters) -> list[dict[str, Any]]:
    """A line per filter, the strongest first."""
    median = float(np.median(result.rms)) or 1.0
    twins: dict[int, list[str]] = {}
    for a, b, cosine in result.duplicates:
        for one, other in ((int(a), int(b)), (int(b), int(a))):
            twins.setdefault(one, []).append(f"like {other} ({cosine:.3f})")
    marks = dict.fromkeys(result.dead, "dead") | dict.fromkeys(result.dominating, "dominating")
    return [
        {
            "number": number,
            "rms": f"{result.rms[number] / median:.2f}",
            "bands": [f"{share:.0%}" for share in result.bands[number]],
            "words": ", ".join([*filter(None, [marks.get(number)]), *twins.get(number, [])]),
        }
        for number in np.argsort(-result.rms, kind="stable").tolist()
    ]
