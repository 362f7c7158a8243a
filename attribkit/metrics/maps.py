"""What every metric needs of a map: that it makes sense, its magnitude, its direction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.errors import BadType, BadValue


def magnitude(maps: Tensor) -> Tensor:
    """How strong a map is at each pixel: its absolute value, summed over colours.

    Args:
        maps: N x C x H x W.

    Returns:
        N x 1 x H x W.
    """
    return checked(maps).abs().sum(1, keepdim=True)


def checked(maps: Tensor, name: str = "maps") -> Tensor:
    """In float64, since 1 minus a cosine and ties depend on the last digits; refused unless it makes sense."""
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        kind = maps.dtype if isinstance(maps, Tensor) else type(maps).__name__
        raise BadType(f"{name} must be a float tensor of N x C x H x W, not {kind}")
    if maps.dim() != 4 or maps.numel() == 0:
        hint = f"; write {name}[:, None] for one colour" if maps.dim() == 3 else ""
        raise BadValue(f"{name} are N x C x H x W, not of shape {tuple(maps.shape)}{hint}")
    wrong = (~maps.detach().isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if wrong:
        raise BadValue(f"{len(wrong)} of {len(maps)} {name} hold NaN or infinity; the first is number {wrong[0]}")
    return maps.detach().double()


def checked_pair(maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and as many others of the same shape."""
    if maps.shape != others.shape:
        raise BadValue(f"maps of shape {tuple(maps.shape)} do not fit others of shape {tuple(others.shape)}")
    return checked(maps), checked(others, "others")


def on_images(maps: Tensor, images: Tensor) -> Tensor:
    """Maps of which each has its image, on the device of the images."""
    checked(images, "images")
    if len(maps) != len(images) or maps.shape[2:] != images.shape[2:]:
        raise BadValue(f"{len(maps)} maps of {size_of(maps)} do not fit {len(images)} images of {size_of(images)}")
    return maps.to(images.device)


def size_of(pictures: Tensor) -> str:
    return " x ".join(str(side) for side in pictures.shape[-2:])


def directions(rows: Tensor) -> Tensor:
    """Rows of length 1; 0 / 0, which is NaN, where a row is zero."""
    rows = rows / rows.abs().amax(-1, keepdim=True)  # so that no square is too large or too small for its type
    return rows / rows.norm(dim=-1, keepdim=True)


def blurred(pictures: Tensor, sigma: float, reach: int) -> Tensor:
    """Each plane through a Gaussian of `2 * reach + 1` pixels per side, mirrored at the edges."""
    away = torch.linspace(-reach, reach, 2 * reach + 1, dtype=pictures.dtype, device=pictures.device)
    bell = torch.exp(-0.5 * (away / sigma) ** 2)
    bell = bell / bell.sum()
    planes = F.pad(pictures, [reach] * 4, mode="reflect").flatten(0, 1)[:, None]
    return F.conv2d(planes, torch.outer(bell, bell)[None, None]).view_as(pictures)
