"""Many units on one sheet: a row each, with the picture and every map, or a tile each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from attribkit.errors import BadValue
from attribkit.report import pictures
from attribkit.report.layout import RGB, Image, Item, Layout, Text
from attribkit.report.panel import COLOURS
from attribkit.report.pictures import Picture
from attribkit.report.shown import Shown, rule_of

WHITE = np.full(3, 255, np.uint8)
ROWS = 24
"""How many units have a row on one sheet."""

_SIDE, _NAMES, _MARGIN, _GAP = 132, 176, 20, 12
_SIZE, _LINE = 0.42, 17
_FAINT: RGB = (105, 105, 105)
_OWN_SCALES = "Each map has a scale of its own."


def strips(rows: Sequence[Sequence[Picture]]) -> list[Picture]:
    """The columns of rows of tiles, each a strip whose tiles are apart by grey lines."""
    return [pictures.grid(list(column), columns=1) for column in zip(*rows, strict=True)]


def rows(shown: Sequence[Shown], view: str = "classic", foot: Sequence[str] = ()) -> Layout:
    """A row for each unit: its name, what it sees, and its map by every rule with every way past max-pools.

    Args:
        shown: Units that were explained by the same methods.
        view: How to draw maps, as for `attribkit.report.pictures.picture`.
        foot: Lines to stand at the end.

    Returns:
        What stands where.

    Raises:
        BadValue: They were explained by different methods, or there are none.
    """
    names = _columns(shown)
    tiles = [[_seen(each), *(_map(each, each.maps[name], view) for name in names)] for each in shown]
    captions = [["picture"], *(_wrapped(name.split(", ")) for name in names)]
    head = _LINE * max(map(len, captions))
    items: list[Item] = []
    left = _MARGIN + _NAMES + _GAP
    for caption, strip in zip(captions, strips(tiles), strict=True):
        items += _lines(caption, left, _MARGIN + head - _LINE * len(caption), pictures.INK)
        items.append(Image(left, _MARGIN + head + 4, strip))
        left += strip.shape[1] + _GAP
    pitch = (strip.shape[0] - 4) // len(shown)
    for number, each in enumerate(shown):
        items += _name(each, _MARGIN + head + 8 + pitch * number)
    top = _MARGIN + head + 4 + len(strip) + _GAP
    return _ended(items, top, left - _GAP + _MARGIN, [COLOURS[view], _OWN_SCALES, *foot])


def tiles(maps: Sequence[Picture], captions: Sequence[Sequence[str]], foot: Sequence[str] = ()) -> Layout:
    """A tile for each map, nearly as many rows as columns, with lines below each.

    Args:
        maps: Pictures of any sizes.
        captions: For each the lines below it, of which what does not fit is left out.
        foot: Lines to stand at the end.

    Returns:
        What stands where.
    """
    columns = math.ceil(math.sqrt(len(maps)))
    down = _SIDE + 4 + _LINE * max(map(len, captions)) + _GAP
    items: list[Item] = []
    for number, (image, lines) in enumerate(zip(maps, captions, strict=True)):
        row, column = divmod(number, columns)
        left, top = _MARGIN + column * (_SIDE + _GAP), _MARGIN + row * down
        items.append(Image(left, top, _square(image)))
        items += _lines([_fitting(line) for line in lines], left, top + _SIDE + 4, pictures.INK)
    end = _MARGIN + math.ceil(len(maps) / columns) * down
    return _ended(items, end, max(2 * _MARGIN + columns * (_SIDE + _GAP) - _GAP, 400), [_OWN_SCALES, *foot])


def averaged(values: npt.NDArray[np.floating], side: int = _SIDE) -> npt.NDArray[np.float64]:
    """A map of at most so many pixels a side: the means over squares of a larger one."""
    square = math.ceil(max(values.shape[1:]) / side)
    planes = [plane.astype(np.float64) for plane in values]
    return np.stack([_shrunk(plane, square) for plane in planes]) if square > 1 else np.stack(planes)


def _columns(shown: Sequence[Shown]) -> list[str]:
    """The columns of all, ways with switches one after the other."""
    if not shown:
        raise BadValue("there is nothing to show on a sheet")
    names = list(shown[0].maps)
    for each in shown:
        if list(each.maps) != names:
            raise BadValue(f"{each.name} was explained by {', '.join(each.maps)}, the first one by {', '.join(names)}")
    ways = list(dict.fromkeys(name.partition(", ")[2] for name in names))
    rules = list(dict.fromkeys(map(rule_of, names)))
    order = [f"{rule}, {way}" if way else rule for way in ways for rule in rules]
    return [name for name in order if name in names]


def _seen(shown: Shown) -> Picture:
    top, left, bottom, right = shown.window
    part = shown.picture[top:bottom, left:right]
    return _square(averaged(part.transpose(2, 0, 1)).transpose(1, 2, 0).round().astype(np.uint8))


def _map(shown: Shown, values: npt.NDArray[np.floating], view: str) -> Picture:
    top, left, bottom, right = shown.window
    around = pictures.picture(np.zeros((1, 1, 1)), view)[0, 0]
    return _square(pictures.picture(averaged(values[:, top:bottom, left:right]), view), around)


def _square(image: Picture, around: Picture = WHITE) -> Picture:
    """Enlarged by a whole number or averaged, and of one colour around it: for maps, that of zero."""
    image = pictures.enlarged(image, max(1, _SIDE // max(image.shape[:2])))
    if max(image.shape[:2]) > _SIDE:
        image = averaged(image.transpose(2, 0, 1)).transpose(1, 2, 0).round().astype(np.uint8)
    height, width = image.shape[:2]
    square = np.empty((_SIDE, _SIDE, 3), np.uint8)
    square[:] = around
    top, left = (_SIDE - height) // 2, (_SIDE - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def _shrunk(plane: npt.NDArray[np.float64], square: int) -> npt.NDArray[np.float64]:
    import cv2

    height, width = (math.ceil(side / square) for side in plane.shape)
    return np.asarray(cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA), np.float64)


def _name(shown: Shown, top: int) -> list[Item]:
    """Which unit it is, in as many lines as stand beside its row."""
    first = pictures.wrapped(shown.name, _NAMES, _SIZE)[:3]
    rest = [line for text in (shown.target, shown.class_name) for line in pictures.wrapped(text, _NAMES, _SIZE)]
    most = _SIDE // _LINE
    under = _lines(rest[: most - len(first)], _MARGIN, top + _LINE * len(first), _FAINT)
    return [*_lines(first, _MARGIN, top, pictures.INK), *under]


def _lines(lines: Sequence[str], left: float, top: float, ink: RGB) -> list[Item]:
    return [Text(left, top + _LINE * number, line, _SIZE, ink, _LINE) for number, line in enumerate(lines)]


def _wrapped(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in pictures.wrapped(text, _SIDE, _SIZE)]


def _fitting(line: str) -> str:
    first, *rest = pictures.wrapped(line, _SIDE, _SIZE)
    return first + (" ..." if rest else "")


def _ended(items: list[Item], top: float, width: int, foot: Sequence[str]) -> Layout:
    lines = [line for text in foot for line in pictures.wrapped(text, width - 2 * _MARGIN, _SIZE)]
    return Layout(
        width, round(top) + _LINE * len(lines) + _MARGIN, [*items, *_lines(lines, _MARGIN, round(top), _FAINT)]
    )
