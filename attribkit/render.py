"""Arrays to pictures: a map, pictures side by side, pictures in a grid, a PNG.

Pictures are numpy arrays of H x W x 3 bytes, red first. The same array always gives the same bytes.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.files import write_whole

Picture = npt.NDArray[np.uint8]

VIEWS = ("signed", "absolute", "positive")

# What counts as full strength: this percentile of the magnitudes *that are not zero*. A few extreme pixels
# then do not wash out the rest, and a map that is zero outside a small window is scaled by what is inside it.
FULL_STRENGTH = 99.5

# From zero to full strength. Blue against red stays apart for every kind of colour blindness; both sides
# darken alike, so that in grey the picture reads as magnitude.
_WHITE_TO_RED = ((255, 255, 255), (250, 200, 175), (230, 125, 98), (190, 42, 50), (103, 0, 31))
_WHITE_TO_BLUE = ((255, 255, 255), (190, 215, 235), (110, 165, 208), (40, 100, 172), (5, 38, 97))

_GREY, _INK = 205, (40, 40, 40)
_GAP = 4
_MARGIN, _COLUMN, _LINE = 12, 224, 18
_FONT_SCALE = 0.45


def picture(values: npt.NDArray[Any], view: str = "signed") -> Picture:
    """One map of C x H x W as a picture.

    `"signed"`: the sum over the channels, blue below zero, white at zero, red above. `"absolute"`: the
    largest magnitude over the channels, from black (zero) to bright. `"positive"`: what is above zero, as a
    colour photograph when there are three channels and in grey otherwise. Full strength is the 99.5th
    percentile of the magnitudes that are not zero; what lies above it is cut off.
    """
    if view not in VIEWS:
        raise ValueError(f"view={view!r} is not one of {', '.join(map(repr, VIEWS))}")
    values = np.asarray(values)
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"a picture needs a map of C x H x W, this one has the shape {values.shape}")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a map with NaN or infinite values cannot be made a picture")
    # To [-1, 1] first: neither the sum over channels nor the percentile can then overflow or vanish.
    values = values / (np.abs(values).max() or 1.0)
    if view == "signed":
        return _diverging(_scaled(values.sum(axis=0)))
    if view == "absolute":
        return _sequential(_scaled(np.abs(values).max(axis=0)))
    positive = np.clip(values, 0, None)
    colours = positive if len(positive) == 3 else np.repeat(positive.max(axis=0, keepdims=True), 3, axis=0)
    return _bytes(_scaled(colours).transpose(1, 2, 0) * 255)


def _scaled(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`values` over their full strength, cut off at -1 and 1; zeros stay zeros."""
    magnitudes = np.abs(values[values != 0])
    if not magnitudes.size:
        return values
    return np.asarray(np.clip(values / np.percentile(magnitudes, FULL_STRENGTH), -1, 1))


def _bytes(values: npt.NDArray[np.float64]) -> Picture:
    rounded: Picture = np.rint(values).astype(np.uint8)
    return rounded


def _diverging(values: npt.NDArray[np.float64]) -> Picture:
    stops = np.linspace(0, 1, len(_WHITE_TO_RED))
    strength = np.abs(values)
    sides = [
        np.stack([np.interp(strength, stops, channel) for channel in np.transpose(side)], axis=-1)
        for side in (_WHITE_TO_RED, _WHITE_TO_BLUE)
    ]
    return _bytes(np.where(values[..., None] > 0, sides[0], sides[1]))


def _sequential(values: npt.NDArray[np.float64]) -> Picture:
    import cv2

    bgr = cv2.applyColorMap(_bytes(values * 255), cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def panel(images: list[Picture], titles: list[str]) -> Picture:
    """Pictures side by side on white, each under its title.

    Small ones are enlarged by a whole number, each pixel becoming a square, to about the size of the largest;
    none is stretched. Long titles go over several lines.
    """
    _check_pictures(images)
    if len(images) != len(titles):
        raise ValueError(f"{len(images)} images need as many titles, there are {len(titles)}")
    largest = max(_COLUMN, *(max(image.shape[:2]) for image in images))
    framed = [_framed(_enlarged(image, largest // max(image.shape[:2]))) for image in images]
    widths = [max(image.shape[1], _COLUMN) for image in framed]
    lines = [_wrapped(title, width) for title, width in zip(titles, widths, strict=True)]
    head = _MARGIN + _LINE * max(map(len, lines)) + _MARGIN // 2
    height = head + max(len(image) for image in framed) + _MARGIN
    sheet = np.full((height, sum(widths) + _MARGIN * (len(images) + 1), 3), 255, np.uint8)
    left = _MARGIN
    for image, width, title in zip(framed, widths, lines, strict=True):
        _write(sheet, title, left)
        sheet[head : head + len(image), left : left + image.shape[1]] = image
        left += width + _MARGIN
    return sheet


def grid(images: list[Picture]) -> Picture:
    """Pictures in rows, nearly as many rows as columns, apart by grey lines; each keeps its size."""
    _check_pictures(images)
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), _GREY, np.uint8)
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        top, left = _GAP + row * (height + _GAP), _GAP + column * (width + _GAP)
        sheet[top : top + height, left : left + width] = 255
        if index < len(images):
            image = images[index]
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _check_pictures(images: list[Picture]) -> None:
    if not images:
        raise ValueError("there are no images to show")
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"an image is H x W x 3 bytes (uint8), this one is {image.shape} of {image.dtype}")


def _enlarged(image: Picture, factor: int) -> Picture:
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _framed(image: Picture) -> Picture:
    """A thin grey line around it, so that a white picture on white has an end."""
    return np.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=_GREY)


def _wrapped(title: str, width: int) -> list[str]:
    """`title` in lines of at most `width` pixels, broken at spaces where there are any."""
    lines = [""]
    for word in title.split():
        if lines[-1] and _text_width(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for letter in word:
            if _text_width(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines[1:] or [""]


def _text_width(text: str) -> int:
    import cv2

    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _FONT_SCALE, 1)[0][0])


def _write(sheet: Picture, lines: list[str], left: int) -> None:
    import cv2

    for number, line in enumerate(lines, start=1):
        foot = (left, _MARGIN + _LINE * number - 6)
        cv2.putText(sheet, line, foot, cv2.FONT_HERSHEY_SIMPLEX, _FONT_SCALE, _INK, 1, cv2.LINE_AA)


def encode_png(rgb: Picture) -> bytes:
    """A picture as the bytes of a PNG file, without loss; the same picture gives the same bytes."""
    import cv2

    _check_pictures([rgb])
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))
    if not done:
        raise ValueError(f"OpenCV could not encode a picture of {rgb.shape}")
    return bytes(encoded)


def write_png(path: str | os.PathLike[str], rgb: Picture) -> None:
    """A picture as a PNG file, written whole or not at all."""
    write_whole(path, encode_png(rgb))
