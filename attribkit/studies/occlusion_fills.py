"""What an occluder shows: an image of which each window takes its part."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from attribkit.errors import BadType, BadValue

Fill = Literal["grey", "mean", "blur", "noise"] | float | Tensor
FILLS = ("grey", "mean", "blur", "noise")


def filling(fill: Fill, image: Tensor, window: tuple[int, int], preprocess: Any) -> Tensor:
    """The image, C x H x W, that shows where `image` is occluded."""
    if isinstance(fill, Tensor):
        return _expanded(fill, image)
    if isinstance(fill, bool) or not isinstance(fill, (str, int, float)):
        raise BadType(f"fill is {', '.join(FILLS)}, a number or a tensor, not {type(fill).__name__}")
    if not isinstance(fill, str):
        return torch.full_like(image, float(fill))
    if fill == "grey":
        return _grey(image, preprocess)
    if fill == "mean":
        return image.mean((1, 2), keepdim=True).expand_as(image)
    if fill == "blur":
        return _blurred(image, window)
    if fill == "noise":
        return _noise(image)
    raise BadValue(f"fill={fill!r} is not one of {', '.join(FILLS)}, a number or a tensor")


def _expanded(fill: Tensor, image: Tensor) -> Tensor:
    try:
        return fill.to(image).expand_as(image)
    except RuntimeError as error:
        raise BadValue(f"fill of {tuple(fill.shape)} does not fit an image of {tuple(image.shape)}") from error


def _grey(image: Tensor, preprocess: Any) -> Tensor:
    """The middle grey of pictures as the model gets it; 0 for a bare module."""
    if preprocess is None:
        return torch.zeros_like(image)
    height, width = image.shape[1:]
    grey = preprocess(np.full((height, width, 3), 128, np.uint8), (height, width))
    return _expanded(grey, image)


def _blurred(image: Tensor, window: tuple[int, int]) -> Tensor:
    """By a Gaussian whose deviation is a quarter of the window."""
    blurred = image[:, None]
    for dim, length in enumerate(window):
        reach = min(max(1, length), image.shape[dim + 1] - 1)
        at = torch.arange(-reach, reach + 1).to(image)
        weights = torch.exp(-((at / max(length / 4, 0.5)) ** 2) / 2)
        kernel = (weights / weights.sum()).reshape((1, 1, -1, 1) if dim == 0 else (1, 1, 1, -1))
        padding = (0, 0, reach, reach) if dim == 0 else (reach, reach, 0, 0)
        blurred = F.conv2d(F.pad(blurred, padding, mode="reflect"), kernel)
    return blurred[:, 0]


def _noise(image: Tensor) -> Tensor:
    """Of each colour's mean and spread, the same every time."""
    random = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    return image.mean((1, 2), keepdim=True) + image.std((1, 2), keepdim=True) * random
