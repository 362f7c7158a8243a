"""Arrays to pictures: a map, pictures side by side, pictures in a grid, a PNG.

Pictures are numpy arrays of H x W x 3 bytes, red first. The same array always gives the same bytes.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.errors import BadValue
from attribkit.files import write_whole

Picture = npt.NDArray[np.uint8]

VIEWS = ("classic", "signed", "absolute", "positive")

# What counts as full strength: this percentile of the magnitudes *that are not zero*. A few extreme pixels
# then do not wash out the rest, and a map that is zero outside a small window is scaled by what is inside it.
# Chosen by looking: the tails of real maps are so long that at 99.5 most of a map is as pale as its zeros.
FULL_STRENGTH = 97

# From zero to full strength. Blue against red stays apart for every kind of colour blindness; both sides
# darken alike, so that in grey the picture reads as magnitude.
_WHITE_TO_RED = ((255, 255, 255), (250, 200, 175), (230, 125, 98), (190, 42, 50), (103, 0, 31))
_WHITE_TO_BLUE = ((255, 255, 255), (190, 215, 235), (110, 165, 208), (40, 100, 172), (5, 38, 97))

GREY, INK = 205, (40, 40, 40)
_GAP = 4
_MARGIN, _COLUMN, _LINE = 12, 224, 18
_FONT_SCALE = 0.45


def picture(values: npt.NDArray[Any], view: str = "classic", strength: float | None = None) -> Picture:
    """One map of C x H x W as a picture.

    `"classic"`: as the papers show it, shifted and rescaled so that zero is mid-grey, in colour when there are
    three channels. `"signed"`: the sum over the channels, blue below zero, white at zero, red above.
    `"absolute"`: the largest magnitude over the channels, from black (zero) to bright. `"positive"`: what is
    above zero, as a colour photograph when there are three channels and in grey otherwise.

    Args:
        values: One map, C x H x W.
        view: One of the four above.
        strength: The value that gets the strongest colour; what lies above it is cut off. Maps drawn with the same
            strength can be compared. Without it, the map's own `full_strength`.

    Returns:
        H x W x 3 bytes.

    Raises:
        BadValue: There is no such view, or the map is none: of another shape, or with NaN or infinity.
    """
    values = _checked(values, view)
    if strength is None:
        strength = full_strength(values, view)
    if not strength >= 0:
        raise BadValue(f"strength={strength} is not a magnitude")
    shares = np.clip(_reduced(values / (strength or 1.0), view), -1, 1)
    if view == "signed":
        return _diverging(shares)
    if view == "absolute":
        return _sequential(shares)
    return _bytes((128 + 127 * shares if view == "classic" else 255 * shares).transpose(1, 2, 0))


def full_strength(values: npt.NDArray[Any], view: str = "classic") -> float:
    """What a map's strongest colour stands for: the 97th percentile of what the view shows and is not zero.

    Args:
        values: One map, C x H x W.
        view: As for `picture`.

    Returns:
        A magnitude in the units of the map; 0 where it is zero everywhere.
    """
    values = _checked(values, view)
    # To [-1, 1] first: neither the sum over channels nor the percentile can then overflow or vanish.
    peak = float(np.abs(values).max())
    magnitudes = np.abs(_reduced(values / (peak or 1.0), view))
    magnitudes = magnitudes[magnitudes != 0]
    return float(np.percentile(magnitudes, FULL_STRENGTH)) * peak if magnitudes.size else 0.0


def _checked(values: npt.NDArray[Any], view: str) -> npt.NDArray[np.float64]:
    if view not in VIEWS:
        raise BadValue(f"view={view!r} is not one of {', '.join(map(repr, VIEWS))}")
    values = np.asarray(values)
    if values.ndim != 3 or 0 in values.shape:
        raise BadValue(f"a picture needs a map of C x H x W, but this one has the shape {values.shape}")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise BadValue("a map with NaN or infinite values cannot be drawn")
    return values


def _reduced(values: npt.NDArray[np.float64], view: str) -> npt.NDArray[np.float64]:
    """What a view shows of a map: one plane, or three in the views that are colour photographs."""
    if view == "absolute":
        return np.asarray(np.abs(values).max(axis=0))
    if view == "signed":
        return np.asarray(values.sum(axis=0))
    shown = np.clip(values, 0, None) if view == "positive" else values
    if len(shown) == 3:
        return shown
    return np.repeat(_reduced(shown, "absolute" if view == "positive" else "signed")[None], 3, axis=0)


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

    Args:
        images: Pictures of any sizes, H x W x 3 bytes.
        titles: As many.

    Returns:
        One picture.
    """
    _check_pictures(images)
    if len(images) != len(titles):
        raise BadValue(f"{len(images)} images need as many titles, not {len(titles)}")
    largest = max(_COLUMN, *(max(image.shape[:2]) for image in images))
    shown = [framed(enlarged(image, largest // max(image.shape[:2]))) for image in images]
    widths = [max(image.shape[1], _COLUMN) for image in shown]
    lines = [wrapped(title, width) for title, width in zip(titles, widths, strict=True)]
    head = _MARGIN + _LINE * max(map(len, lines)) + _MARGIN // 2
    height = head + max(len(image) for image in shown) + _MARGIN
    sheet = np.full((height, sum(widths) + _MARGIN * (len(images) + 1), 3), 255, np.uint8)
    left = _MARGIN
    for image, width, title in zip(shown, widths, lines, strict=True):
        write(sheet, title, left)
        sheet[head : head + len(image), left : left + image.shape[1]] = image
        left += width + _MARGIN
    return sheet


def grid(images: list[Picture], columns: int | None = None) -> Picture:
    """Pictures in rows, apart by grey lines; each keeps its size.

    Args:
        images: Pictures of any sizes, H x W x 3 bytes.
        columns: How many stand in a row; without it, there are nearly as many rows as columns.

    Returns:
        One picture.
    """
    _check_pictures(images)
    if columns is None:
        columns = math.ceil(math.sqrt(len(images)))
    if columns < 1:
        raise BadValue(f"a grid has at least one column, not {columns}")
    rows = math.ceil(len(images) / columns)
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), GREY, np.uint8)
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
        raise BadValue("there are no images to show")
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise BadValue(f"an image is H x W x 3 bytes (uint8), this one is {image.shape} of {image.dtype}")


def enlarged(image: Picture, factor: int) -> Picture:
    """Each pixel as a square: nothing is smoothed, nothing stretched.

    Args:
        image: H x W x 3 bytes.
        factor: The side of the square.

    Returns:
        The enlarged picture.
    """
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def framed(image: Picture) -> Picture:
    """A thin grey line around it, so that a white picture on white has an end."""
    return np.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=GREY)


def wrapped(text: str, width: int, size: float = _FONT_SCALE) -> list[str]:
    """`text` in lines of at most `width` pixels, broken at spaces where there are any."""
    lines = [""]
    for word in text.split():
        if lines[-1] and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for letter in word:
            if text_width(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return lines[1:] or [""]


def text_width(text: str, size: float = _FONT_SCALE) -> int:
    import cv2

    return int(cv2.getTextSize(_drawable(text), cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0])


def write(
    sheet: Picture,
    lines: list[str],
    left: int,
    top: int = _MARGIN,
    size: float = _FONT_SCALE,
    ink: tuple[int, int, int] = INK,
    line: int = _LINE,
    thickness: int = 1,
) -> None:
    """Lines of text onto the sheet, each `line` pixels under the one before."""
    import cv2

    for number, text in enumerate(lines, start=1):
        foot = (left, top + line * number - line // 3)
        cv2.putText(sheet, _drawable(text), foot, cv2.FONT_HERSHEY_SIMPLEX, size, ink, thickness, cv2.LINE_AA)


def _drawable(text: str) -> str:
    # A file name that is not UTF-8 reaches Python with halves of surrogate pairs, which OpenCV cannot take.
    return text.encode("utf-8", "backslashreplace").decode()


def encode_png(rgb: Picture, about: Mapping[str, str] | None = None) -> bytes:
    """A picture as the bytes of a PNG file, without loss; the same picture gives the same bytes.

    Args:
        rgb: H x W x 3 bytes.
        about: What the file says of itself, as texts under keywords.

    Returns:
        The bytes of the file.
    """
    import cv2

    _check_pictures([rgb])
    # OpenCV's own choice makes files three to six times as large; level 6 takes twice as long for five percent less.
    smaller = [cv2.IMWRITE_PNG_COMPRESSION, 3]
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]), smaller)
    if not done:
        raise BadValue(f"OpenCV could not encode a picture of {rgb.shape}")
    start, rest = bytes(encoded[:_HEADER]), bytes(encoded[_HEADER:])
    return start + b"".join(_text_chunk(*said) for said in (about or {}).items()) + rest


# The signature of a PNG file and its first chunk, after which texts may stand.
_HEADER = 33


def _text_chunk(keyword: str, text: str) -> bytes:
    """A PNG chunk of text, uncompressed, in no language."""
    data = b"iTXt" + keyword.encode("latin1") + b"\0\0\0\0\0" + text.encode("utf-8", "backslashreplace")
    return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


def write_png(path: str | os.PathLike[str], rgb: Picture, about: Mapping[str, str] | None = None) -> None:
    """A picture as a PNG file, written whole or not at all.

    Args:
        path: The file; its folder is made where there is none.
        rgb: H x W x 3 bytes.
        about: What the file says of itself, as texts under keywords.

    Raises:
        FileError: It cannot be written.
    """
    write_whole(path, encode_png(rgb, about))
