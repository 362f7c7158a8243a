"""How alike maps are: two of them, or each and those of other images."""

from __future__ import annotations

import torch
from torch import Tensor

from attribkit.errors import BadValue
from attribkit.metrics.maps import blurred, checked, checked_pair, directions, magnitude, size_of


def cosine_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """The cosine between each map and its other one, signs and colours included.

    With the maps of two logits this is class sensitivity: a method that looks at the class has a low one.

    Args:
        maps: N x C x H x W.
        others: As many, of the same shape.

    Returns:
        One value per map; NaN where either of the two is zero everywhere.
    """
    ours, theirs = (directions(each.flatten(1)) for each in checked_pair(maps, others))
    return (ours * theirs).sum(1)


def rank_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """Spearman's rank correlation between the magnitudes of two maps.

    Magnitudes that differ by less than a millionth of the largest share a rank: below that is rounding.

    Args:
        maps: N x C x H x W.
        others: As many, of the same shape.

    Returns:
        One value per map; NaN where either of the two is constant.
    """
    return spearman(*(magnitude(each).flatten(1) for each in checked_pair(maps, others)))


def structural_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """SSIM (Wang et al. 2004) between the magnitudes of two maps, each scaled to a maximum of 1.

    Gaussian windows of 11 x 11 with sigma 1.5, those that fit into the map, with the paper's constants.

    Args:
        maps: N x C x H x W, at least 11 x 11 pixels.
        others: As many, of the same shape.

    Returns:
        One value per map; NaN where either of the two is zero everywhere.
    """
    x, y = (magnitude(each) for each in checked_pair(maps, others))
    if min(x.shape[2:]) < 11:
        raise BadValue(f"SSIM uses windows of 11 x 11 pixels; maps of {size_of(x)} are too small for it")
    x, y = x / x.amax((2, 3), keepdim=True), y / y.amax((2, 3), keepdim=True)
    mean_x, mean_y, xx, yy, xy = (blurred(each, 1.5, 5)[..., 5:-5, 5:-5] for each in (x, y, x * x, y * y, x * y))
    light = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    shared = (2 * (xy - mean_x * mean_y) + 9e-4) / (xx - mean_x**2 + yy - mean_y**2 + 9e-4)
    return (light * shared).mean((1, 2, 3))


def image_dependence(maps: Tensor) -> Tensor:
    """How far each map differs from those of other images: 1 minus its mean cosine with them.

    0: the same map for every image, up to a positive scale. A map that is zero everywhere is left out of the others'
    means.

    Args:
        maps: The maps of one unit at one position for at least two images, N x C x H x W.

    Returns:
        One value per map; NaN for a map that is zero everywhere.
    """
    maps = checked(maps)
    if len(maps) < 2:
        raise BadValue("image dependence compares the maps of several images; there is only one")
    return 1 - mean_cosine_with_others(maps.flatten(1))


def map_distances(maps: Tensor) -> Tensor:
    """How far maps are from each other: 1 minus the cosine of each pair. `image_dependence` is the mean of each row.

    For an interval of the mean over all pairs, images have to be drawn again in rows and columns.

    Args:
        maps: N x C x H x W.

    Returns:
        N x N; NaN for pairs with a map that is zero everywhere.
    """
    rows = directions(checked(maps).flatten(1))
    return 1 - rows @ rows.T


def mean_cosine_with_others(rows: Tensor) -> Tensor:
    """For each row its mean cosine with the other rows, but for those that have none."""
    unit_rows = directions(rows)
    cosines = unit_rows @ unit_rows.mT
    cosines.diagonal(dim1=-2, dim2=-1).fill_(torch.nan)
    return cosines.nanmean(-1)


def spearman(rows: Tensor, others: Tensor) -> Tensor:
    """Row by row: the correlation of ranks, ties sharing their mean rank. NaN where all of a row is one tie."""
    a, b = (directions(ranks - ranks.mean(1, keepdim=True)) for ranks in (_ranks(rows), _ranks(others)))
    return (a * b).sum(1)


def _ranks(rows: Tensor) -> Tensor:
    """Mean ranks. What differs by rounding only would get ranks of its own, hence six decimals of the largest."""
    largest = rows.abs().amax(1, keepdim=True)
    ranks = []
    for row in (rows / largest.where(largest > 0, 1)).round(decimals=6):
        _, place, count = row.unique(return_inverse=True, return_counts=True)
        ranks.append((count.cumsum(0) - (count - 1) / 2)[place])
    return torch.stack(ranks).double()
