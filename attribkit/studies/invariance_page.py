"""The page of an invariance, and of the correspondence of parts beside it."""

from __future__ import annotations

from collections.abc import Mapping

from attribkit.report import charts
from attribkit.report.charts_page import Section, page
from attribkit.studies.correspondence import Correspondence
from attribkit.studies.invariance import Invariance
from attribkit.studies.invariance_picture import (
    BORDER,
    CONTROL,
    NORMALISED,
    corresponding,
    legend,
    moved,
    part_lines,
    summary,
    table,
)

HEADS = ("means over moves", "probability", "border")
PART_HEADS = ("part", "layer", "distance", "deviation", "random boxes", "random not above", "features changed")
_SIGNS = (
    "Correspondence: the part is covered in grey in each image, and of what changes in a layer only the signs are "
    "compared, between every two images. The distance is the share of unlike signs among the features that change in "
    "either. Parts that are one thing to the network lie below random boxes of the same sizes."
)


def invariance_page(result: Invariance, parts: Correspondence | None, facts: Mapping[str, str]) -> bytes:
    """The page as the bytes of an HTML file; the same results give the same bytes.

    Args:
        found: What moving the pictures did.
        parts: What covering parts did, if that was asked.
        facts: The command, the model, versions, as they come at the foot.
    """
    lines = [[HEADS[0], *result.layers, *HEADS[1:]], *table(result)]
    shown = [(chart.name, chart.marks) for chart in moved(result)]
    sections = [Section("Moves", "How far features and the answer go.", shown, legend(result), lines)]
    if parts is not None:
        colours = charts.legend(["a part: mean and deviation over pairs", CONTROL])
        made = [(chart.name, chart.marks) for chart in corresponding(parts)]
        words = "The same part covered in several images."
        sections.append(Section("Parts", words, made, colours, [list(PART_HEADS), *part_lines(parts)]))
    reading = [NORMALISED, BORDER, *([] if parts is None else [_SIGNS])]
    return page("How do features move when the picture does?", summary(result), sections, reading, facts)
