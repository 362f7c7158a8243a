"""The one reader of images: any file to height x width x 3 bytes, RGB, upright, on white.

Pillow reads headers: is it an image, how large, which way up. OpenCV decodes, once that is known.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import EXTRASAMPLES, TiffImageFile

from attribkit.errors import BadValue
from attribkit.files import PICTURE_ENDINGS

RGB: TypeAlias = npt.NDArray[np.uint8]
"""A picture: height x width x 3, from 0 to 255."""

Picture: TypeAlias = "str | Path | Image.Image | RGB"

ENDINGS = PICTURE_ENDINGS

LIMIT = 2**27
"""The most pixels that are decoded: 134 million, 400 MB as RGB."""

# What it finds odd in a header, our errors say, or nothing does.
logging.getLogger("PIL").addHandler(logging.NullHandler())

ORIENTATION = 0x0112
"""The EXIF tag."""

Pixels = npt.NDArray[Any]


class ImageError(BadValue):
    """A file or an object that is no picture."""


class FirstFrameOnly(UserWarning):
    """An animation or a file of several pages, of which the first is read."""


def read_image(path: str | Path) -> RGB:
    """Read the picture in a file.

    Args:
        path: The file.

    Returns:
        H x W x 3 bytes, upright, on white.

    Raises:
        ImageError: It cannot be read as an image; the message says why.
    """
    return decode_image(image_bytes(path), str(path))


def image_bytes(path: str | Path) -> bytes:
    """Read the file of a picture.

    Args:
        path: The file.

    Returns:
        Its bytes, for `decode_image`.

    Raises:
        ImageError: It cannot be read; the message says why.
    """
    if os.path.isdir(path):
        raise ImageError(f"{path} is a folder, not an image")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error


def decode_image(data: bytes, name: str) -> RGB:
    """Decode the picture in the bytes of a file.

    Args:
        data: The bytes.
        name: What errors call it.

    Returns:
        H x W x 3 bytes, upright, on white.

    Raises:
        ImageError: The bytes are not an image; the message says why.
    """
    if not data:
        raise ImageError(f"{name} is empty")
    header = _header(data, name)
    if header.format == "JPEG" and not _jpeg_has_its_end(data):
        raise ImageError(f"{name} is cut off: the end of the JPEG is missing")
    if header.format == "PNG" and not _png_is_whole(data):
        raise ImageError(f"{name} is damaged or cut off: a chunk of the PNG is not whole")
    with _quiet():
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise ImageError(f"{name} cannot be decoded: {error.err}") from error
    if pixels is None:
        raise ImageError(f"{name} is a damaged {header.format}, or of a kind that is not read: save it as PNG")
    if getattr(header, "is_animated", False) and header.format != "MPO":
        warnings.warn(f"{name} has several frames; the first is read", FirstFrameOnly, stacklevel=2)
    if header.has_transparency_data and (pixels.ndim == 2 or pixels.shape[2] < 4):
        raise ImageError(f"{name} is a {header.format} whose transparency is not read: save it as an RGBA PNG")
    premultiplied = _premultiplied(header, pixels)
    return _upright(_on_white(_rgba(_bytes(pixels, name)), premultiplied), header)


def to_rgb(picture: Picture) -> RGB:
    """Turn a picture in any form into an array.

    Args:
        picture: A path, a PIL image, or an array of H x W x 3 bytes.

    Returns:
        H x W x 3 bytes.

    Raises:
        ImageError: It is none of these, or cannot be read.
    """
    if isinstance(picture, (str, Path)):
        return read_image(picture)
    if isinstance(picture, Image.Image):
        return _from_pillow(picture)
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        what = f"{picture.dtype} of {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise ImageError(f"a picture is a path, a PIL image or an array of height x width x 3 uint8, not {what}")
    return np.ascontiguousarray(picture)


# What Pillow's parsers of headers raise, found by spoiling pictures.
_DAMAGED = (OSError, SyntaxError, EOFError, struct.error, ValueError, TypeError, LookupError, ArithmeticError)


def _header(data: bytes, name: str) -> Image.Image:
    """What Pillow says of a file before anything is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on sizes below its own limit, and on odd tags
            header = Image.open(io.BytesIO(data))
            _check_size(header, name)
            header.getexif()
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has more than {LIMIT:,} pixels: make it smaller") from error
    except ImageError:
        raise
    except _DAMAGED as error:
        raise ImageError(f"{name} is damaged or cut off: {' '.join(str(error).split())}") from error
    return header


def _check_size(header: Image.Image, name: str) -> None:
    if header.width * header.height > LIMIT:
        size = f"{header.width} x {header.height}"
        raise ImageError(f"{name} is {size}, more than {LIMIT:,} pixels: make it smaller")


def _png_is_whole(data: bytes) -> bool:
    """Whether the chunks are all there, with their checksums: OpenCV makes room for what a length claims, gigabytes."""
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 8 + length
        if len(data) < end + 4 or zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        at = end + 4
    return True


def _jpeg_has_its_end(data: bytes) -> bool:
    """Whether the end marker follows the picture; OpenCV may fill the rest with grey, and Pillow finds out late."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:  # segments up to the start of the scan
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at) >= 0  # within a scan a byte 0xFF is never followed by 0xD9


@contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV says nothing on standard error: what is wrong is in our errors."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _bytes(pixels: Pixels, name: str) -> Pixels:
    """Values of 16 bits scaled to 8, so that white stays white."""
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ImageError(f"{name} holds values of type {pixels.dtype}, of unknown range: save it with 8 or 16 bits")
    return pixels


def _rgba(pixels: Pixels) -> Pixels:
    """OpenCV's order of colours, grey or not, to RGB with or without alpha."""
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _premultiplied(header: Image.Image, pixels: Pixels) -> bool:
    """Whether colours are times alpha already: in some TIFFs, and libtiff does it to those of 8 bits."""
    if not isinstance(header, TiffImageFile):
        return False
    alpha = header.tag_v2.get(EXTRASAMPLES, (0,))[0]
    return alpha == 1 or (alpha == 2 and pixels.dtype == np.uint8)


def _on_white(pixels: Pixels, premultiplied: bool = False) -> RGB:
    """What is transparent shows white."""
    if pixels.shape[2] == 3:
        return pixels
    colours, alpha = np.split(pixels.astype(np.uint32), [3], axis=2)
    shown = colours * 255 if premultiplied else colours * alpha
    return ((shown + 255 * (255 - alpha) + 127) // 255).clip(max=255).astype(np.uint8)


def _upright(pixels: RGB, header: Image.Image) -> RGB:
    """Turned as the EXIF data say; OpenCV has done so for TIFF only."""
    turn = TURNS.get(header.getexif().get(ORIENTATION, 1)) if header.format != "TIFF" else None
    return np.array(Image.fromarray(pixels).transpose(turn)) if turn is not None else pixels


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _from_pillow(image: Image.Image) -> RGB:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _rgba(_bytes(np.array(image), f"the image of mode {image.mode}"))
    return _on_white(np.array(image.convert("RGBA" if image.has_transparency_data else "RGB")))
