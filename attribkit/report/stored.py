"""Maps as a page stores them: one small picture without loss each, from which the browser draws every view."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.errors import BadValue
from attribkit.report import pictures
from attribkit.report.pictures import Picture
from attribkit.report.shown import Shown

ZERO, FULL = 128, 127
"""The byte that stands for zero, and how many lie between it and full strength on either side."""

# From as fine as a byte can be down to coarse; noise takes as much room as its steps, and a page has to stay small.
_STEPS = (127, 63, 31, 15, 7)
# Bytes: for a pixel of the picture, for a pixel of a map, and for each file where there are hardly any pixels.
_PICTURE_BUDGET, _MAP_BUDGET, _LEAST = 3.0, 1.4, 2000
_LARGEST_WEBP = 16383
# This percentile of the magnitudes that are not zero is the largest that is kept. It lies above full strength, as the
# signed view adds colours up, and large ones of both signs cancel.
_KEPT = 99.5


@dataclass(frozen=True)
class StoredMap:
    """A map as a picture in the classic view, mid-grey for zero; its strongest byte stands for `range`.

    `planes` is 1 where the picture is grey: for a map of one channel, and for the sum of a map that has neither one
    channel nor three. `strengths` has the full strength of each view.
    """

    image: str
    planes: int
    range: float
    strengths: Mapping[str, float]


@dataclass(frozen=True)
class Stored:
    """All pictures of one `Shown` as data URIs; `steps` lie between zero and the strongest value of a map."""

    picture: str
    maps: Mapping[str, StoredMap]
    steps: int


def store(shown: Shown) -> Stored:
    """The maps in as many steps as the budget allows."""
    picture = _uri(shown.picture)
    pixels = shown.picture.shape[0] * shown.picture.shape[1]
    budget = pixels * (_PICTURE_BUDGET + _MAP_BUDGET * len(shown.maps)) + _LEAST * (1 + len(shown.maps))
    for steps in _STEPS:
        maps = {method: _stored(values, steps) for method, values in shown.maps.items()}
        size = len(picture) + sum(len(each.image) for each in maps.values())
        if size * 3 / 4 <= budget:
            break
    return Stored(picture, maps, steps)


def _stored(values: npt.NDArray[Any], steps: int) -> StoredMap:
    if len(values) not in (1, 3):
        values = values.astype(np.float64).sum(axis=0, keepdims=True)
    strengths = {view: pictures.full_strength(values, view) for view in pictures.VIEWS}
    # The sum of three channels may be larger, but it is made in the browser, of what is stored.
    largest = max(_kept(values), *(strength for view, strength in strengths.items() if view != "signed"))
    shares = np.clip(values.astype(np.float64) / (largest or 1.0), -1, 1)
    stepped = np.rint(ZERO + FULL * (np.rint(shares * steps) / steps)).astype(np.uint8)
    image = np.broadcast_to(stepped.transpose(1, 2, 0), (*stepped.shape[1:], 3))
    return StoredMap(_uri(np.ascontiguousarray(image)), len(values), largest, strengths)


def _kept(values: npt.NDArray[Any]) -> float:
    magnitudes = np.abs(values[values != 0]).astype(np.float64)
    return float(np.percentile(magnitudes, _KEPT)) if magnitudes.size else 0.0


def _uri(image: Picture) -> str:
    """Without loss: WebP, a quarter smaller than PNG, unless a side is longer than that format can be."""
    import cv2

    if max(image.shape[:2]) > _LARGEST_WEBP:
        return data_uri("png", pictures.encode_png(image))
    # More than 100 asks for no loss.
    done, encoded = cv2.imencode(".webp", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_WEBP_QUALITY, 101])
    if not done:
        raise BadValue(f"OpenCV could not encode a picture of {image.shape}")
    return data_uri("webp", bytes(encoded))


def data_uri(kind: str, data: bytes) -> str:
    """The bytes of a picture file as they stand in a page."""
    return f"data:image/{kind};base64,{b64encode(data).decode()}"
