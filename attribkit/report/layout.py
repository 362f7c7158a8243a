"""A layout: texts and images at places on white, from which a picture is drawn or an SVG is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from attribkit.report import pictures
from attribkit.report.pictures import Picture
from attribkit.report.stored import data_uri

RGB = tuple[int, int, int]

# Of a letter whose size is 1, in pixels: OpenCV's and that of a usual font that is as wide.
_LETTER = 26
_FONTS = "Helvetica, Arial, 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Text:
    """A line of text; `top` is where the line begins, of which the letters take the lower part."""

    left: float
    top: float
    words: str
    size: float
    ink: RGB
    line: int
    anchor: Literal["start", "middle", "end"] = "start"


@dataclass(frozen=True)
class Image:
    """A picture, each of whose pixels is a square of `factor` pixels, with a thin grey line around it."""

    left: float
    top: float
    pixels: Picture
    factor: int = 1


@dataclass(frozen=True)
class Outline:
    """A rectangle of lines, which lie outside of what it encloses."""

    left: float
    top: float
    width: float
    height: float
    ink: RGB
    away: int
    """How many pixels lie between the line and what is enclosed."""


Item = Text | Image | Outline


@dataclass(frozen=True)
class Layout:
    """Items on white."""

    width: int
    height: int
    items: Sequence[Item]


def below(layouts: Sequence[Layout]) -> Layout:
    """Layouts below each other."""
    items: list[Item] = []
    top = 0
    for layout in layouts:
        items += [replace(item, top=item.top + top) for item in layout.items]
        top += layout.height
    return Layout(max(layout.width for layout in layouts), top, items)


# ------------------------------------------------------------------------------------------------------- a picture


def drawn(layout: Layout, scale: int = 1) -> Picture:
    """A layout as a picture.

    Args:
        layout: What stands where.
        scale: How many pixels each of its pixels becomes, along each side; letters become as many times as fine.

    Returns:
        H x W x 3 bytes.
    """
    sheet = np.full((layout.height * scale, layout.width * scale, 3), 255, np.uint8)
    for item in layout.items:
        if isinstance(item, Text):
            _write(sheet, item, scale)
        elif isinstance(item, Image):
            _paste(sheet, item, scale)
        else:
            _outline(sheet, item, scale)
    return sheet


def _write(sheet: Picture, text: Text, scale: int) -> None:
    width = pictures.text_width(text.words, text.size)
    left = text.left - {"start": 0, "middle": width / 2, "end": width}[text.anchor]
    place = round(left * scale), round(text.top * scale)
    pictures.write(sheet, [text.words], *place, text.size * scale, text.ink, text.line * scale, scale)


def _paste(sheet: Picture, image: Image, scale: int) -> None:
    enlarged = pictures.enlarged(image.pixels, image.factor * scale)
    height, width = enlarged.shape[:2]
    top, left = round(image.top * scale), round(image.left * scale)
    frame = sheet[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1]
    frame[:] = pictures.GREY
    sheet[top : top + height, left : left + width] = enlarged


def _outline(sheet: Picture, outline: Outline, scale: int) -> None:
    near, far = round(outline.away * scale), round((outline.away + 1) * scale)
    top, left = round(outline.top * scale), round(outline.left * scale)
    bottom, right = round((outline.top + outline.height) * scale), round((outline.left + outline.width) * scale)
    kept = sheet[top - near : bottom + near, left - near : right + near].copy()
    sheet[top - far : bottom + far, left - far : right + far] = outline.ink
    sheet[top - near : bottom + near, left - near : right + near] = kept


# ---------------------------------------------------------------------------------------------------------- an SVG


def svg(layout: Layout, scale: int = 1, about: Mapping[str, str] | None = None) -> bytes:
    """A layout as an SVG for print: text is text, and the pixels of images are there as they are.

    Args:
        layout: What stands where.
        scale: How large it is at first.
        about: What the file says of itself.

    Returns:
        The bytes of the file; the same layout gives the same bytes.
    """
    width, height = layout.width, layout.height
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * scale}" height="{height * scale}" '
        f'viewBox="0 0 {width} {height}" font-family="{_FONTS}">'
    )
    said = "\n".join(f"{key}: {value}" for key, value in (about or {}).items())
    lines = [head, f"<desc>{_escaped(said)}</desc>", f'<rect width="{width}" height="{height}" fill="white"/>']
    lines += [line for item in layout.items for line in _elements(item)]
    return "\n".join([*lines, "</svg>", ""]).encode("utf-8", "backslashreplace")


def _elements(item: Item) -> Iterable[str]:
    if isinstance(item, Text):
        yield (
            f'<text x="{item.left:g}" y="{item.top + item.line * 2 / 3:g}" font-size="{item.size * _LETTER:g}" '
            f'text-anchor="{item.anchor}" fill="{_colour(item.ink)}">{_escaped(item.words)}</text>'
        )
    elif isinstance(item, Image):
        height, width = (side * item.factor for side in item.pixels.shape[:2])
        uri = quoteattr(data_uri("png", pictures.encode_png(item.pixels)))
        yield _rectangle(item.left, item.top, width, height, (pictures.GREY,) * 3, 0)
        yield (
            f'<image x="{item.left:g}" y="{item.top:g}" width="{width}" height="{height}" href={uri} '
            'preserveAspectRatio="none" style="image-rendering:optimizeSpeed;image-rendering:pixelated"/>'
        )
    else:
        yield _rectangle(item.left, item.top, item.width, item.height, item.ink, item.away)


def _rectangle(left: float, top: float, width: float, height: float, ink: RGB, away: int) -> str:
    off = away + 0.5  # the middle of a line of one pixel
    return (
        f'<rect x="{left - off:g}" y="{top - off:g}" width="{width + 2 * off:g}" height="{height + 2 * off:g}" '
        f'fill="none" stroke="{_colour(ink)}"/>'
    )


def _colour(ink: RGB) -> str:
    return "#" + "".join(f"{part:02x}" for part in ink)


def _escaped(text: str) -> str:
    """Text in XML, which has no control characters."""
    return escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", text))
