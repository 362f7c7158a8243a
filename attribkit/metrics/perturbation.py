"""What a unit answers to an image of which a part is replaced: insertion, deletion, occlusion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.errors import BadValue
from attribkit.metrics.maps import blurred, checked, magnitude, on_images, size_of
from attribkit.metrics.similarity import spearman

Respond = Callable[[Tensor], Tensor]
"""A unit's response: a batch of images goes in, one number per image comes out."""

Fill = Literal["zero", "blur"] | Tensor
"""What takes a pixel's place: zero (the mean colour of normalised images), the blurred image, or one's own images."""


def insertion(
    respond: Respond | Sequence[Respond],
    images: Tensor,
    maps: Tensor,
    *,
    fill: Fill = "zero",
    steps: int = 32,
    seed: int = 0,
) -> Tensor:
    """The area under the unit's response while pixels are put in, strongest first: high where the map is right.

    `response_curves` says more of the arguments.

    Args:
        respond: The unit: from a batch of images to its responses. Or a list of units, one per image.
        images: N x C x H x W.
        maps: One per image.
        fill: What is there in the stead of a pixel.
        steps: In how many steps all pixels have changed.
        seed: For the order of pixels of equal magnitude.

    Returns:
        One value per image; NaN where the curve is undefined.
    """
    curves = response_curves(respond, images, maps, insert=True, fill=fill, steps=steps, seed=seed)
    return torch.trapezoid(curves, _shares(images, steps).to(curves))


def deletion(
    respond: Respond | Sequence[Respond],
    images: Tensor,
    maps: Tensor,
    *,
    fill: Fill = "zero",
    steps: int = 32,
    seed: int = 0,
) -> Tensor:
    """The area under the unit's response while pixels are taken out, strongest first: low where the map is right.

    `response_curves` says more of the arguments.

    Args:
        respond: The unit: from a batch of images to its responses. Or a list of units, one per image.
        images: N x C x H x W.
        maps: One per image.
        fill: What is there in the stead of a pixel.
        steps: In how many steps all pixels have changed.
        seed: For the order of pixels of equal magnitude.

    Returns:
        One value per image; NaN where the curve is undefined.
    """
    curves = response_curves(respond, images, maps, insert=False, fill=fill, steps=steps, seed=seed)
    return torch.trapezoid(curves, _shares(images, steps).to(curves))


def response_curves(
    respond: Respond | Sequence[Respond],
    images: Tensor,
    maps: Tensor,
    *,
    insert: bool,
    fill: Fill = "zero",
    steps: int = 32,
    seed: int = 0,
) -> Tensor:
    """The unit's response after each step, as a share of that to the full image.

    Pixels go in, or out, in the order of the map's magnitude, equally many at each step. The steps of an image are one
    batch.

    Args:
        respond: Gives the unit's response to a batch of images. Where the images have different units, a list of such
            functions, one per image.
        images: N x C x H x W.
        maps: One per image, of the same height and width.
        insert: Whether pixels go in; else they go out.
        fill: What is there in the stead of a pixel: `"zero"`, `"blur"` (the blurred image), or images of yours.
        steps: In how many steps all pixels have changed.
        seed: Pixels of equal magnitude are in random order, drawn from it: a constant map is a random one.

    Returns:
        N x (steps + 1); NaN where the map is zero everywhere or the response to the full image is not above zero.
    """
    strength = on_images(magnitude(maps), images)
    counts = (_shares(images, steps) * strength[0].numel()).round().to(images.device)
    curves = []
    for image, filling, plane, ask in zip(
        images, _filling(images, fill), strength, _for_each(respond, images), strict=True
    ):
        first = _places(plane, seed) < counts[:, None, None, None]  # the strongest, one step more in each row
        pictures = torch.where(first == insert, image, filling)
        curve = _asked(ask, pictures)
        full = curve[-1 if insert else 0]
        curves.append(curve / full if full > 0 and bool(plane.any()) else torch.full_like(curve, torch.nan))
    return torch.stack(curves)


def _shares(images: Tensor, steps: int) -> Tensor:
    """Which share of the pixels has changed after each step: whole pixels, as near to equal steps as they come."""
    pixels = images[0, 0].numel()
    if not 1 <= steps <= pixels:
        raise BadValue(f"{pixels} pixels can change in 1 to {pixels} steps, not in {steps}")
    return torch.linspace(0, pixels, steps + 1, dtype=torch.float64).round() / pixels


def _places(plane: Tensor, seed: int) -> Tensor:
    """The place of each pixel when the strongest come first, those of equal strength in random order."""
    shuffled = torch.randperm(plane.numel(), generator=torch.Generator().manual_seed(seed)).to(plane.device)
    order = shuffled[plane.flatten()[shuffled].argsort(descending=True, stable=True)]
    return order.argsort().view_as(plane)


def occlusion_drops(
    respond: Respond | Sequence[Respond],
    images: Tensor,
    size: int,
    *,
    stride: int | None = None,
    fill: Fill = "zero",
    batch_size: int = 64,
) -> Tensor:
    """How far the unit's response drops when a square covers a part of the image.

    The square must reach both edges of the image, so that every pixel counts.

    Args:
        respond: As for `response_curves`.
        images: N x C x H x W.
        size: The side of the square, in pixels.
        stride: By how much the square moves; without it, by half its size.
        fill: As for `response_curves`.
        batch_size: How many covered images `respond` is given at once.

    Returns:
        N x rows x columns, one value per place of the square.
    """
    sides, step = checked(images, "images").shape[2:], max(1, size // 2) if stride is None else stride
    if size < 1 or step < 1 or any(side < size or (side - size) % step for side in sides):
        raise BadValue(f"a square of {size} that moves by {step} does not reach the edges of {size_of(images)}")
    down, across = (_windows(side, size, step).to(images.device) for side in sides)
    places = torch.cartesian_prod(torch.arange(len(down)), torch.arange(len(across))).split(batch_size)
    drops = []
    for image, filling, ask in zip(images, _filling(images, fill), _for_each(respond, images), strict=True):
        full = _asked(ask, image[None])
        parts = []
        for rows, columns in (each.T for each in places):
            covered = down[rows][:, None, :, None] & across[columns][:, None, None, :]
            parts.append(full - _asked(ask, torch.where(covered, filling, image)))
        drops.append(torch.cat(parts).view(len(down), len(across)))
    return torch.stack(drops)


def occlusion_agreement(maps: Tensor, drops: Tensor, size: int) -> Tensor:
    """Spearman's rank correlation between a map's mean magnitude in each window and the drop that covering it caused.

    Drops that differ by less than a millionth of the largest share a rank.

    Args:
        maps: One per image, N x C x H x W.
        drops: Those of `occlusion_drops`.
        size: The side of the square that caused them.

    Returns:
        One value per map; NaN where the map or the drops are constant.
    """
    return _agreement(magnitude(maps), drops, size)


def occlusion_ceiling(drops: Tensor, size: int, others: Tensor, other_size: int, images: Tensor) -> Tensor:
    """How well two occlusions of the same images agree: what a map can hope for.

    The drops of the one are laid on the pixels that it covered (their mean, where windows overlap), and then take the
    place of a map. Unlike a map's they keep their sign.

    Args:
        drops: Those of `occlusion_drops` by one square, best the smaller one.
        size: The side of that square.
        others: Those by the other square.
        other_size: The side of the other square.
        images: The images of both.

    Returns:
        One value per image; NaN where either's drops are constant.
    """
    sides = (int(images.shape[2]), int(images.shape[3]))
    stride = _strides(drops, size, sides)
    drops = checked(drops[:, None], "drops")
    each = drops.flatten(2).expand(-1, size * size, -1)
    laid = F.fold(each, sides, size, stride=stride) / F.fold(torch.ones_like(each), sides, size, stride=stride)
    return _agreement(laid, others, other_size)


def _agreement(plane: Tensor, drops: Tensor, size: int) -> Tensor:
    stride = _strides(drops, size, plane.shape[2:])
    if len(plane) != len(drops):
        raise BadValue(f"{len(plane)} maps do not fit the drops of {len(drops)} images")
    return spearman(F.avg_pool2d(plane, size, stride).flatten(1), checked(drops[:, None], "drops").flatten(1))


def _windows(side: int, size: int, stride: int) -> Tensor:
    """Which pixels of a side each window covers (windows x pixels)."""
    starts, pixels = torch.arange(0, side - size + 1, stride)[:, None], torch.arange(side)
    return (starts <= pixels) & (pixels < starts + size)


def _strides(drops: Tensor, size: int, sides: Sequence[int]) -> tuple[int, int]:
    """By how much the square moved: as windows end at the edges, their number says it."""
    strides = []
    for count, side in zip(drops.shape[1:], sides, strict=False):
        stride, rest = divmod(side - size, count - 1) if count > 1 else (1, side - size)
        if drops.dim() != 3 or rest or stride < 1:
            what = f"drops of shape {tuple(drops.shape)} do not come from a square of {size}"
            raise BadValue(f"{what} on images of {' x '.join(map(str, sides))}")
        strides.append(stride)
    return strides[0], strides[1]


def _filling(images: Tensor, fill: Fill) -> Tensor:
    """What stands in for pixels, for every image."""
    if isinstance(fill, Tensor):
        if fill.shape != images.shape:
            raise BadValue(f"a fill of shape {tuple(fill.shape)} does not fit images of {tuple(images.shape)}")
        return fill.to(images)
    if fill == "zero":
        return torch.zeros_like(images)
    if fill == "blur":
        sigma = max(images.shape[2:]) / 20
        return blurred(images, sigma, min(math.ceil(3 * sigma), min(images.shape[2:]) - 1))
    raise BadValue(f"fill is 'zero', 'blur' or a tensor like the images, not {fill!r}")


def _for_each(respond: Respond | Sequence[Respond], images: Tensor) -> Sequence[Respond]:
    if callable(respond):
        return [respond] * len(images)
    if len(respond) != len(images):
        raise BadValue(f"{len(respond)} functions do not fit {len(images)} images: give one, or one per image")
    return respond


def _asked(respond: Respond, pictures: Tensor) -> Tensor:
    """A unit's responses, one per picture."""
    with torch.no_grad():
        values = respond(pictures)
    if values.shape != (len(pictures),):
        raise BadValue(
            f"respond returned shape {tuple(values.shape)} for {len(pictures)} images, not one number per image"
        )
    if not bool(values.isfinite().all()):
        raise BadValue("respond returned NaN or infinity")
    return values.double()
