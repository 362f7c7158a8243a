"""Marks of a chart: lines, bands, dots and words, put down once and drawn as SVG for pages or as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from attribkit.report import pictures
from attribkit.report.pictures import Picture

Colour = tuple[int, int, int]
Point = tuple[float, float]

PALETTE: tuple[Colour, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (140, 120, 20),
    (130, 130, 130),
)
"""Colours of what is compared, apart for every kind of colour blindness; they can be read on white and on black."""

STYLE = """
.chart { display: block; width: 100%; height: auto;
  font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.chart text { fill: var(--ink); } .chart .faint { fill: var(--quiet); } .chart .grid { stroke: var(--line); }
"""
"""What a page needs to show charts."""

_TIMES = 1.5  # pixels of a picture per unit of a chart
_INK: Colour = (40, 40, 40)
_FAINT: Colour = (105, 105, 105)
_GRID: Colour = (221, 220, 216)


@dataclass(frozen=True)
class Mark:
    """One thing on a chart. A colour of None is that of the grid, or of the text."""

    kind: Literal["line", "band", "dot", "text"]
    points: Sequence[Point]
    colour: Colour | None = None
    text: str = ""
    anchor: Literal["start", "middle", "end"] = "start"
    dashed: bool = False
    faint: bool = False


@dataclass
class Marks:
    """Marks on a ground of a width and a height."""

    width: int
    height: int
    held: list[Mark] = field(default_factory=list)

    def line(self, points: Sequence[Point], colour: Colour | None = None, dashed: bool = False) -> None:
        self.held.append(Mark("line", points, colour, dashed=dashed))

    def band(self, points: Sequence[Point], colour: Colour) -> None:
        self.held.append(Mark("band", points, colour))

    def dot(self, point: Point, colour: Colour) -> None:
        self.held.append(Mark("dot", [point], colour))

    def text(self, point: Point, text: str, anchor: Any = "start", faint: bool = False) -> None:
        self.held.append(Mark("text", [point], text=text, anchor=anchor, faint=faint))


def svg(marks: Marks, label: str) -> str:
    """An element for a page, as wide as what it stands in; `label` says what it shows to those who cannot see it."""
    inside = "".join(map(_element, marks.held))
    head = f'<svg class="chart" viewBox="0 0 {marks.width} {marks.height}" role="img" aria-label="{escape(label)}">'
    return f"{head}{inside}</svg>"


def _element(mark: Mark) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in mark.points)
    x, y = mark.points[0]
    colour = "rgb({},{},{})".format(*mark.colour) if mark.colour else ""
    if mark.kind == "text":
        kind = ' class="faint"' if mark.faint else ""
        return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{mark.anchor}">{escape(mark.text)}</text>'
    if mark.kind == "dot":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
    if mark.kind == "band":
        return f'<polygon points="{places}" fill="{colour}" fill-opacity="0.16"/>'
    dashed = ' stroke-dasharray="5 4"' if mark.dashed else ""
    stroke = f'stroke="{colour}" stroke-width="2"' if colour else 'class="grid"'
    return f'<polyline points="{places}" fill="none" {stroke}{dashed}/>'


def drawn(marks: Marks) -> Picture:
    """The same as a picture on white."""
    sheet: Picture = np.full((round(marks.height * _TIMES), round(marks.width * _TIMES), 3), 255, np.uint8)
    for mark in marks.held:
        _DRAWERS[mark.kind](sheet, mark)
    return sheet


def _pixels(points: Sequence[Point]) -> npt.NDArray[np.int32]:
    """In sixteenths of a pixel, as OpenCV takes them."""
    return np.rint(np.array(points) * _TIMES * 16).astype(np.int32)


def _draw_line(sheet: Picture, mark: Mark) -> None:
    import cv2

    strokes = _dashes(mark.points) if mark.dashed else [mark.points]
    width = 3 if mark.colour else 1
    for stroke in strokes:
        cv2.polylines(sheet, [_pixels(stroke)], False, mark.colour or _GRID, width, cv2.LINE_AA, 4)


def _dashes(points: Sequence[Point]) -> list[list[Point]]:
    """A line in strokes of five with gaps of four between."""
    corners = np.array(points, float)
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    strokes = []
    for start in np.arange(0, along[-1], 9):
        inside = corners[(along > start) & (along < start + 5)]
        ends = [
            [np.interp(at, along, corners[:, i]) for i in (0, 1)] for at in (start, min(start + 5, float(along[-1])))
        ]
        strokes.append([(float(x), float(y)) for x, y in [ends[0], *inside, ends[1]]])
    return strokes


def _draw_band(sheet: Picture, mark: Mark) -> None:
    import cv2

    covered = np.zeros(sheet.shape[:2], np.uint8)
    cv2.fillPoly(covered, [_pixels(mark.points)], 255, cv2.LINE_AA, 4)
    share = covered[..., None] / 255 * 0.16
    sheet[:] = np.rint(sheet * (1 - share) + np.array(mark.colour) * share).astype(np.uint8)


def _draw_dot(sheet: Picture, mark: Mark) -> None:
    import cv2

    x, y = _pixels(mark.points)[0].tolist()
    cv2.circle(sheet, (x, y), int(3.5 * _TIMES * 16), mark.colour or _INK, -1, cv2.LINE_AA, 4)


def _draw_text(sheet: Picture, mark: Mark) -> None:
    size = 0.42 * _TIMES
    x, y = mark.points[0]
    shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[mark.anchor] * pictures.text_width(mark.text, size)
    ink = _FAINT if mark.faint else _INK
    pictures.write(sheet, [mark.text], int(x * _TIMES - shift), int(y * _TIMES), size, ink, 0)


_DRAWERS = {"line": _draw_line, "band": _draw_band, "dot": _draw_dot, "text": _draw_text}
