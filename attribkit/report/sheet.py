"""A sheet: rows of images under their captions, on white, between a heading and a foot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attribkit.report import pictures
from attribkit.report.pictures import Picture

RIM = 3
"""The white border of an image on a sheet, of which the innermost pixel is a grey line."""

# A column is as wide as its image, but never too narrow for its captions.
_COLUMN, _MARGIN, _GAP = 200, 24, 20
_FAINT = (105, 105, 105)


@dataclass(frozen=True)
class Type:
    """A kind of text: its size, its colour, and the height of a line."""

    size: float
    ink: tuple[int, int, int]
    line: int


_HEADING = Type(0.7, pictures.INK, 30)
_PLAIN = Type(0.5, pictures.INK, 21)
_QUIET = Type(0.5, _FAINT, 21)


@dataclass(frozen=True)
class Row:
    """Images side by side; the captions of each are lines, the first of them its name."""

    captions: list[list[str]]
    images: list[Picture]

    @property
    def widths(self) -> list[int]:
        return [max(image.shape[1], _COLUMN) for image in self.images]


def rimmed(image: Picture) -> Picture:
    """A thin grey line around it, so that white on white has an end, and room for the lines of a box."""
    edge = RIM - 1
    return np.pad(pictures.framed(image), ((edge, edge), (edge, edge), (0, 0)), constant_values=255)


def sheet(heading: str, summary: str, rows: list[Row], foot: list[str]) -> Picture:
    widths = [max(column) for column in zip(*(row.widths for row in rows), strict=True)]
    width = sum(widths) + _GAP * (len(widths) - 1)
    parts = [_text([heading], width, _HEADING), _text([summary], width, _PLAIN)]
    for row in rows:
        parts += [_space(width), _captions(row, widths), _side_by_side(row.images, widths)]
    parts += [_space(width), _text(foot, width, _QUIET)]
    whole = np.concatenate(parts)
    return np.pad(whole, ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)), constant_values=255)


def _blank(height: int, width: int) -> Picture:
    return np.full((height, width, 3), 255, np.uint8)


def _space(width: int) -> Picture:
    return _blank(_GAP, width)


def _text(paragraphs: list[str], width: int, kind: Type) -> Picture:
    """Each paragraph from a new line on, wrapped."""
    lines = [line for text in paragraphs if text for line in pictures.wrapped(text, width, kind.size)]
    part = _blank(kind.line * len(lines), width)
    pictures.write(part, lines, 0, 0, kind.size, kind.ink, kind.line)
    return part


def _captions(row: Row, widths: list[int]) -> Picture:
    """The name of each image and what else is said of it, in columns that end at the same height."""
    columns = [
        np.concatenate([_text(lines[:1], width, _PLAIN), _text(lines[1:], width, _QUIET)])
        for lines, width in zip(row.captions, widths, strict=True)
    ]
    return _side_by_side(columns, widths)


def _side_by_side(parts: list[Picture], widths: list[int]) -> Picture:
    """Parts in columns, from the same height down."""
    joined = _blank(max(map(len, parts)), sum(widths) + _GAP * (len(widths) - 1))
    left = 0
    for part, width in zip(parts, widths, strict=True):
        joined[: len(part), left : left + part.shape[1]] = part
        left += width + _GAP
    return joined
