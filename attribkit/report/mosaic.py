"""Parts of pictures as tiles of one size, and tiles in a sheet: what a page with thousands of them loads lazily."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attribkit.errors import BadValue
from attribkit.report.pictures import Picture

BETWEEN = 128
"""The grey of a tile where its picture has ended."""

_QUALITY, _WITHOUT_LOSS = 78, 101
_BUDGET = 15_000_000  # of a page, in bytes
_BYTES = {_QUALITY: 0.32, _WITHOUT_LOSS: 2.6}  # of a pixel in a sheet, about

Box = tuple[int, int, int, int]


def side_of(boxes: Sequence[Box], tiles: int) -> int:
    """The side of a tile: what the parts have at most, or less where so many tiles would make a page too large."""
    longest = max(max(bottom - top, right - left) for top, left, bottom, right in boxes)
    return min(longest, max(24, int((_BUDGET / _BYTES[_QUALITY] / max(1, tiles)) ** 0.5)))


def quality_of(side: int, tiles: int) -> int:
    """Of the WebP: without loss, where that leaves room in the page."""
    return _WITHOUT_LOSS if tiles * side**2 * _BYTES[_WITHOUT_LOSS] <= _BUDGET / 2 else _QUALITY


def tile(part: Picture, box: Box, window: int, side: int) -> Picture:
    """A part of a picture on a square of `window` pixels, made smaller to `side`.

    A part that the edge of its picture has cut off lies on the side where the rest of it is.
    """
    import cv2

    height, width = part.shape[:2]
    down = window - height if box[0] == 0 else 0
    across = window - width if box[1] == 0 else 0
    whole = np.full((max(window, height), max(window, width), 3), BETWEEN, np.uint8)
    whole[down : down + height, across : across + width] = part
    if window == side:
        return whole
    return np.asarray(cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def sheet_of(rows: Sequence[Sequence[Picture]], columns: int, side: int) -> Picture:
    """Tiles in rows, so many columns wide; empty places are grey."""
    sheet = np.full((len(rows) * side, columns * side, 3), BETWEEN, np.uint8)
    for row, tiles in enumerate(rows):
        for column, each in enumerate(tiles):
            sheet[row * side : (row + 1) * side, column * side : (column + 1) * side] = each
    return sheet


def encoded(sheet: Picture, quality: int) -> bytes:
    """A sheet as the bytes of a WebP; the same sheet gives the same bytes."""
    import cv2

    done, data = cv2.imencode(".webp", np.ascontiguousarray(sheet[..., ::-1]), [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise BadValue(f"OpenCV could not encode a sheet of {sheet.shape}")
    return bytes(data)
