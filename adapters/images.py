"""The one reader of images: any file to height x width x 3 bytes, RGB, upright, on white."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from attribkit.adapters.preprocessing import RGB, Picture


class ImageError(ValueError):
    """A file or an object that is no picture."""


def read_image(path: str | Path) -> RGB:
    """The picture in a file."""
    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ImageError(f"{path} is not an image")
    return image


def to_rgb(picture: Picture) -> RGB:
    """A picture in any form as height x width x 3 bytes."""
    if isinstance(picture, (str, Path)):
        return read_image(picture)
    image = np.array(picture if isinstance(picture, np.ndarray) else picture.convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"an array is height x width x 3 bytes, not {image.dtype} of shape {image.shape}")
    return image
