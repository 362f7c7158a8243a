"""Source retrieval: does a map fit the image that it comes from better than other images?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.errors import BadValue
from attribkit.metrics.maps import checked, directions, size_of


def found_sources(maps: Tensor, images: Tensor, sources: Tensor | None = None) -> Tensor:
    """Whether each map fits the image that it comes from better than all other images; chance is 1/N.

    A tie does not count as found: a constant map, which fits no image, is never right, and neither is the map of an
    image that occurs twice. The correlation keeps signs within a map. Where a map has none, give `magnitude(maps)` and
    `sobel_maps(images)`.

    Args:
        maps: N x C x H x W.
        images: Those among which the source is looked for; they may have another number of colours.
        sources: The number of the image that each map comes from. Without it map i comes from image i.

    Returns:
        One bool per map.
    """
    # A tie may be off by the rounding of a sum over all pixels.
    return source_leads(maps, images, sources) > 1e-9


def source_leads(maps: Tensor, images: Tensor | Candidates, sources: Tensor | None = None) -> Tensor:
    """How much better each map fits the image that it comes from than the best of the others.

    Where `found_sources` is at its ceiling, this still says by how much.

    Args:
        maps: N x C x H x W.
        images: Those among which the source is looked for; they may have another number of colours. Or `Candidates`,
            where many maps are asked about.
        sources: The number of the image that each map comes from. Without it map i comes from image i.

    Returns:
        One value per map, a difference of two correlations: from -1 to 1, and 0 for a map that fits no image.
    """
    if sources is None and len(maps) != len(images):
        raise BadValue(f"{len(maps)} maps and {len(images)} images: say in sources= which image each comes from")
    own = torch.arange(len(maps)) if sources is None else torch.as_tensor(sources)
    if own.shape != (len(maps),) or own.dtype not in (torch.int32, torch.int64):
        raise BadValue(f"sources are {len(maps)} image numbers, one per map, not {own.dtype} of {tuple(own.shape)}")
    if bool(((own < 0) | (own >= len(images))).any()):
        raise BadValue(f"sources are image numbers from 0 to {len(images) - 1}")
    fits = source_correlations(maps, images).nan_to_num(0)
    own = own.to(fits.device).long()[:, None]
    return fits.gather(1, own)[:, 0] - fits.scatter(1, own, 0).amax(1)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Images among which sources are looked for, made ready once for any number of maps.

    Attributes:
        directions: What of each image is compared, of length 1: N x pixels.
        plane: Height and width of the images.
    """

    directions: Tensor
    plane: tuple[int, ...]

    @classmethod
    def of(cls, images: Tensor) -> Candidates:
        """Make images ready.

        Args:
            images: N x C x H x W.
        """
        checked(images, "images")  # before they are taken part by part, as all details at once need much memory
        parts = [directions(details(part, "images")) for part in images.split(250)]
        return cls(torch.cat(parts), tuple(images.shape[-2:]))

    def __len__(self) -> int:
        return len(self.directions)


def source_correlations(maps: Tensor, images: Tensor | Candidates) -> Tensor:
    """How well each map fits each image.

    The map summed over colours and the grey image, both less their 5 x 5 box mean, by the absolute value of their
    normalised correlation. Without the box mean, every map with a bright middle would fit every such image.

    Args:
        maps: M x C x H x W.
        images: N x C x H x W; they may have another number of colours. Or `Candidates`, if many maps are asked about.

    Returns:
        Values from 0 to 1, M x N; NaN where a map or an image has no detail.
    """
    plane = images.plane if isinstance(images, Candidates) else images.shape[-2:]
    if maps.shape[-2:] != plane:
        raise BadValue(f"maps of {size_of(maps)} do not fit images of {' x '.join(map(str, plane))}")
    candidates = images if isinstance(images, Candidates) else Candidates.of(images)
    return (directions(details(maps)) @ candidates.directions.T).abs()


def details(pictures: Tensor, name: str = "maps") -> Tensor:
    """What of a picture or map is compared: its sum over colours less the mean of the 5 x 5 box around each pixel.

    Args:
        pictures: N x C x H x W.
        name: What they are called in an error.

    Returns:
        Rows of H * W; exactly zero where only rounding is left.
    """
    plane = checked(pictures, name).sum(1, keepdim=True)
    detail = plane - F.avg_pool2d(plane, 5, stride=1, padding=2, count_include_pad=False)
    least = max(4 * torch.finfo(pictures.dtype).eps, 1e-13)  # of the picture's largest value
    noise = least * pictures.detach().double().abs().flatten(1).amax(1, keepdim=True)
    rows = detail.flatten(1)
    return torch.where(rows.abs().amax(1, keepdim=True) > noise, rows, 0)
