"""Maps to compare with, for which no network was asked: edges, a hill in the middle, noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.metrics.maps import checked


def sobel_maps(images: Tensor) -> Tensor:
    """The edges of the grey images.

    Args:
        images: N x C x H x W.

    Returns:
        One map per image, N x 1 x H x W.
    """
    grey = F.pad(checked(images, "images").mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    slope = grey.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    across, down = F.conv2d(grey, torch.stack([slope, slope.T])[:, None]).split(1, dim=1)
    return torch.hypot(across, down)


def centred_gaussian_maps(images: Tensor, width: float = 0.25) -> Tensor:
    """A hill in the middle, where photographers put things.

    Args:
        images: N x C x H x W, of which only the shape counts.
        width: The hill's sigma, as a share of each side.

    Returns:
        The same map for every image, N x 1 x H x W.
    """
    n, _, *sides = checked(images, "images").shape
    down, across = (torch.linspace(-0.5, 0.5, s, dtype=torch.float64) if s > 1 else torch.zeros(1) for s in sides)
    hill = torch.exp(-(down[:, None] ** 2 + across[None] ** 2) / (2 * width**2))
    return hill.to(images.device).expand(n, 1, *sides)


def random_maps(images: Tensor, seed: int = 0) -> Tensor:
    """Uniform noise.

    Args:
        images: N x C x H x W, of which only the shape counts.
        seed: The same seed draws the same maps.

    Returns:
        Another map for each image, N x 1 x H x W.
    """
    n, _, *sides = checked(images, "images").shape
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, *sides, generator=generator, dtype=torch.float64).to(images.device)
