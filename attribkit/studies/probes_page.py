"""The page of probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attribkit.report.charts_page import Section, page
from attribkit.studies.probes import Probes
from attribkit.studies.probes_picture import HEAD, READING, chart, legend, lines, notes, summary


def probes_page(every: Sequence[Probes], facts: Mapping[str, str]) -> bytes:
    """The page as the bytes of an HTML file; the same results give the same bytes.

    Args:
        every: Of the network as it is, and of each change.
        facts: The command, the model, versions, as they come at the foot.
    """
    cells = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in line[:-1]] for line in lines(every)]
    penalties = [f"{line[-1]:g}" for line in lines(every)]
    table = [list(HEAD), *([*line, penalty] for line, penalty in zip(cells, penalties, strict=True))]
    shown = [("accuracy by layer; the table below has the numbers", chart(every))]
    words = "What can be read off each layer by a straight cut."
    section = Section("Accuracy by layer", words, shown, legend(every), table)
    return page("How much does each layer know?", summary(every[0]), [section], [READING, *notes(every)], facts)
