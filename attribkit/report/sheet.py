"""A sheet: rows of images under their captions, on white, between a heading and a foot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from attribkit.report import pictures
from attribkit.report.layout import RGB, Image, Item, Layout, Outline, Text
from attribkit.report.pictures import Picture

# A column is as wide as its image, but never too narrow for its captions.
_COLUMN, _MARGIN, _GAP = 200, 24, 20
_FAINT = (105, 105, 105)
_BAR, _UNDER = 10, 10
"""How high a colour bar is, and how far below an image what belongs to it begins."""


@dataclass(frozen=True)
class Type:
    """A kind of text: its size, its colour, and the height of a line."""

    size: float
    ink: RGB
    line: int


_HEADING = Type(0.7, pictures.INK, 30)
_PLAIN = Type(0.5, pictures.INK, 21)
_QUIET = Type(0.5, _FAINT, 21)
_SMALL = Type(0.42, _FAINT, 17)


@dataclass(frozen=True)
class Cell:
    """An image under its captions, the first of which is its name, and what stands below it.

    Attributes:
        captions: Lines, each of which may be wrapped.
        image: The image, unless there are captions only.
        factor: How many pixels each of its pixels becomes.
        bar: Its colours from left to right, one pixel high.
        numbers: What stands below the bar: at its ends, and between.
        below: Another image, smaller.
        boxes: Lines on that one.
    """

    captions: list[str]
    image: Picture | None = None
    factor: int = 1
    bar: Picture | None = None
    numbers: tuple[str, ...] = ()
    below: Picture | None = None
    boxes: tuple[Outline, ...] = field(default=())

    @property
    def width(self) -> int:
        return max(_COLUMN, 0 if self.image is None else self.image.shape[1] * self.factor)


Row = Sequence[Cell]


def sheet(heading: str, summary: str, rows: Sequence[Row], foot: list[str]) -> Layout:
    """Rows whose columns stand below each other, all within margins.

    Args:
        heading: The largest words.
        summary: What stands below them.
        rows: Cells from left to right.
        foot: Lines to stand at the end.

    Returns:
        What stands where.
    """
    columns = max(map(len, rows))
    widths = [max(row[column].width for row in rows if column < len(row)) for column in range(columns)]
    width = sum(widths) + _GAP * (columns - 1)
    items, top = _paragraphs([heading], 0, 0, width, _HEADING)
    more, top = _paragraphs([summary], 0, top, width, _PLAIN)
    items += more
    for row in rows:
        more, top = _row(row, widths, top + _GAP)
        items += more
    more, top = _paragraphs(foot, 0, top + _GAP, width, _QUIET)
    placed = [replace(item, left=item.left + _MARGIN, top=item.top + _MARGIN) for item in [*items, *more]]
    return Layout(width + 2 * _MARGIN, top + 2 * _MARGIN, placed)


def _row(row: Row, widths: list[int], top: int) -> tuple[list[Item], int]:
    """The cells of a row, whose images begin at the same height, and where the row ends."""
    items: list[Item] = []
    lefts = [sum(widths[:column]) + _GAP * column for column in range(len(row))]
    ends = [top]
    for cell, left, width in zip(row, lefts, widths, strict=False):
        more, end = _paragraphs(cell.captions[:1], left, top, width, _PLAIN)
        rest, end = _paragraphs(cell.captions[1:], left, end, width, _QUIET)
        items += [*more, *rest]
        ends.append(end)
    start = max(ends) + 3
    for cell, left in zip(row, lefts, strict=True):
        more, end = _figure(cell, left, start)
        items += more
        ends.append(end)
    return items, max(ends)


def _figure(cell: Cell, left: int, top: int) -> tuple[list[Item], int]:
    """An image and what stands below it."""
    if cell.image is None:
        return [], top
    height, width = (side * cell.factor for side in cell.image.shape[:2])
    items: list[Item] = [Image(left, top, cell.image, cell.factor)]
    end = top + height
    if cell.bar is not None:
        end += _UNDER
        items.append(Image(left, end, cell.bar.repeat(_BAR, axis=0)))
        end += _BAR + 3
        anchors = ("start", "end") if len(cell.numbers) == 2 else ("start", "middle", "end")
        for number, anchor in zip(cell.numbers, anchors, strict=False):
            place = left + {"start": 0, "middle": width / 2, "end": width}[anchor]
            items.append(Text(place, end, number, _SMALL.size, _SMALL.ink, _SMALL.line, anchor))  # type: ignore[arg-type]
        end += _SMALL.line
    if cell.below is not None:
        end += _UNDER
        items.append(Image(left, end, cell.below))
        items += [replace(box, left=left + box.left, top=end + box.top) for box in cell.boxes]
        end += len(cell.below)
    return items, end


def _paragraphs(paragraphs: list[str], left: int, top: int, width: int, kind: Type) -> tuple[list[Item], int]:
    """Each from a new line on, wrapped, and where they end."""
    lines = [line for text in paragraphs if text for line in pictures.wrapped(text, width, kind.size)]
    items: list[Item] = [
        Text(left, top + kind.line * number, line, kind.size, kind.ink, kind.line) for number, line in enumerate(lines)
    ]
    return items, top + kind.line * len(lines)
