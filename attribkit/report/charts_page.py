"""A page of charts and tables, in one file that needs no network, no other file and no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from attribkit.report import still_page
from attribkit.report.marks import STYLE, Marks, svg

_STYLE = f"""{STYLE}
.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); gap: 1.5rem 2rem; }}
.charts figure, .key-chart {{ max-width: 30rem; }}
.key-chart {{ margin-bottom: 1rem; }}
.wide {{ overflow-x: auto; margin-top: 1.5rem; }}
table {{ border-collapse: collapse; font-size: .875rem; }}
th, td {{ padding: .35rem .75rem; border-top: 1px solid var(--line); text-align: right; white-space: nowrap; }}
th:first-child {{ text-align: left; padding-left: 0; }}
thead th {{ border-top: 0; color: var(--quiet); font-weight: 400; }}
tbody th {{ font-weight: 600; }}
footer p + p {{ margin-top: .6rem; }}
"""


@dataclass(frozen=True)
class Section:
    """Charts under a heading.

    Attributes:
        name: The heading.
        words: What is said below it.
        charts: What each shows in words, and the chart.
        legend: What the colours mean.
        table: Lines of cells, the first of them the heads of columns.
    """

    name: str
    words: str
    charts: Sequence[tuple[str, Marks]]
    legend: Marks | None = None
    table: Sequence[Sequence[str]] = field(default_factory=list)


def page(
    title: str, summary: str, sections: Sequence[Section], reading: Sequence[str], facts: Mapping[str, str]
) -> bytes:
    """The page as the bytes of an HTML file; the same sections give the same bytes.

    Args:
        title: The question that the page answers.
        summary: The answer in a line.
        sections: Charts and tables.
        reading: How to read it, in paragraphs.
        facts: The command, the model, versions, as they come at the foot.
    """
    shown = [
        {
            "name": section.name,
            "words": section.words,
            "legend": svg(section.legend, "legend") if section.legend else "",
            "charts": [svg(marks, words) for words, marks in section.charts],
            "table": section.table,
        }
        for section in sections
    ]
    return still_page.page(
        "charts.html", _STYLE, title=title, summary=summary, sections=shown, reading=reading, facts=facts
    )
