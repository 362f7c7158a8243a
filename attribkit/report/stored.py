"""Pictures and maps as a page stores them: small files, of a map one from which the browser draws every view."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.errors import BadValue
from attribkit.report import pictures
from attribkit.report.pictures import Picture
from attribkit.report.shown import Shown

ZERO, FULL = 128, 127
"""The byte that stands for zero, and how many lie between it and full strength on either side."""

LADDER = (
    *((steps, 1) for steps in (127, 63, 31, 15, 7)),
    *((steps, 2) for steps in (63, 31, 15, 7)),
    *((steps, square) for square in (3, 4, 6) for steps in (31, 15, 7)),
)
"""From fine to coarse: the steps between zero and full strength, and the side of the squares that are averaged."""

CONTRAST, MOST_CONTRAST = 1.04, 60
"""How much a step of contrast is, and the largest number of steps."""

# Bytes of a pixel of a picture and of a map, at most, and of a file with hardly any pixels.
_PICTURE_BUDGET, _MAP_BUDGET, _LEAST = 3.0, 1.4, 2000
_QUALITIES = ((101, 1), (90, 1), (75, 1), (50, 1), (75, 2), (50, 2), (50, 3), (30, 4))  # above 100: without loss
_LARGEST_WEBP = 16383
# This percentile of the magnitudes that are not zero is the largest that is kept. It lies above full strength, as the
# signed view adds colours up, and large ones of both signs cancel.
_KEPT = 99.5


@dataclass(frozen=True)
class StoredMap:
    """A map as a picture in the classic view, mid-grey for zero; its strongest byte stands for `range`.

    `planes` is 1 where the picture is grey: for a map of one channel, and for the sum of a map that has neither one
    channel nor three. `strengths` has the full strength of each view, and `contrast` how many steps of contrast lead
    from the picture to the classic view at its own strength.
    """

    image: str
    width: int
    height: int
    planes: int
    range: float
    contrast: int
    strengths: Mapping[str, float]


@dataclass(frozen=True)
class Stored:
    """The maps of one `Shown`, each of what its window shows, and the rung of the ladder that they stand on."""

    maps: Mapping[str, StoredMap]
    rung: int

    @property
    def bytes(self) -> float:
        return sum(_bytes(each.image) for each in self.maps.values())

    @property
    def steps(self) -> int:
        """How many lie between zero and the strongest value of a map."""
        return LADDER[self.rung][0]

    @property
    def square(self) -> int:
        """The side of the squares of pixels of which a map has the means."""
        return LADDER[self.rung][1]


def store(shown: Shown, room: float = math.inf, start: int = 0) -> Stored:
    """Its maps as finely as their room allows.

    Args:
        shown: The unit and its maps.
        room: Bytes that there are for all of its maps together.
        start: The rung of the ladder to try first: what maps like these needed before.

    Returns:
        The maps; coarser than the room where even the last rung is too large for it.
    """
    top, left, bottom, right = shown.window
    cut = {method: values[:, top:bottom, left:right] for method, values in shown.maps.items()}
    room = min(room, len(cut) * ((bottom - top) * (right - left) * _MAP_BUDGET + _LEAST))
    with ThreadPoolExecutor(len(cut)) as pool:  # most of the time goes into compressing, which needs no lock
        for rung in range(min(start, len(LADDER) - 1), len(LADDER)):
            steps, square = LADDER[rung]
            maps = pool.map(partial(_stored, steps=steps, square=square), cut.values())
            stored = Stored(dict(zip(cut, maps, strict=True)), rung)
            if stored.bytes <= room:
                break
    return stored


def stored_picture(picture: Picture, room: float = math.inf) -> tuple[str, bool]:
    """A picture as a data URI.

    Args:
        picture: H x W x 3 bytes.
        room: Bytes that there are for it.

    Returns:
        The URI, and whether anything was lost.
    """
    room = min(room, picture.shape[0] * picture.shape[1] * _PICTURE_BUDGET + _LEAST)
    for quality, square in _QUALITIES:
        uri = _uri(_shrunk(picture, square), quality)
        if _bytes(uri) <= room:
            break
    return uri, quality <= 100


def _bytes(uri: str) -> float:
    return len(uri) * 3 / 4


def _stored(values: npt.NDArray[Any], steps: int, square: int) -> StoredMap:
    values = values.astype(np.float64)
    if len(values) not in (1, 3):
        values = values.sum(axis=0, keepdims=True)
    if square > 1:
        values = np.stack([_shrunk(plane, square) for plane in values])
    strengths = {view: pictures.full_strength(values, view) for view in pictures.VIEWS}
    # The sum of three channels may be larger, but it is made in the browser, of what is stored.
    largest = max(_kept(values), *(strength for view, strength in strengths.items() if view != "signed"))
    contrast = _contrast(largest, strengths["classic"])
    largest = strengths["classic"] * CONTRAST**contrast
    shares = np.clip(values / (largest or 1.0), -1, 1)
    stepped = np.rint(ZERO + FULL * (np.rint(shares * steps) / steps)).astype(np.uint8)
    height, width = stepped.shape[1:]
    image = np.ascontiguousarray(np.broadcast_to(stepped.transpose(1, 2, 0), (height, width, 3)))
    return StoredMap(_uri(image), width, height, len(values), largest, contrast, strengths)


def _contrast(largest: float, classic: float) -> int:
    """In steps; what lies above the last of them is cut off."""
    if not classic:
        return 0
    return min(MOST_CONTRAST, math.ceil(math.log(largest / classic) / math.log(CONTRAST) - 1e-9))


def contrasts() -> Iterator[tuple[int, str]]:
    """The steps of contrast, each with its factor as a style sheet has it."""
    return ((step, f"{CONTRAST**step:.4g}") for step in range(1, MOST_CONTRAST + 1))


def _kept(values: npt.NDArray[Any]) -> float:
    magnitudes = np.abs(values[values != 0])
    return float(np.percentile(magnitudes, _KEPT)) if magnitudes.size else 0.0


def _shrunk(image: npt.NDArray[Any], square: int) -> npt.NDArray[Any]:
    """The means over squares; of what is left over at an end, over what there is."""
    import cv2

    height, width = (math.ceil(side / square) for side in image.shape[:2])
    if square == 1:
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def _uri(image: Picture, quality: int = 101) -> str:
    """WebP, without loss a quarter smaller than PNG, unless a side is longer than that format can be."""
    import cv2

    if max(image.shape[:2]) > _LARGEST_WEBP:
        return data_uri("png", pictures.encode_png(image))
    done, encoded = cv2.imencode(".webp", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise BadValue(f"OpenCV could not encode a picture of {image.shape}")
    return data_uri("webp", bytes(encoded))


def data_uri(kind: str, data: bytes) -> str:
    """The bytes of a picture file as they stand in a page."""
    return f"data:image/{kind};base64,{b64encode(data).decode()}"
