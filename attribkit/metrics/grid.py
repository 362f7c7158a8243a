"""The grid game: is what a map shows in the right cell of a mosaic?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from attribkit.errors import BadValue
from attribkit.metrics.maps import checked, size_of


def mosaics(images: Tensor) -> Tensor:
    """One picture of several, row by row.

    Args:
        images: N x 9 x C x H x W (or 4, 16, ...).

    Returns:
        N x C x 3H x 3W (of 4: 2H x 2W, and so on).
    """
    side = math.isqrt(images.shape[1]) if images.dim() == 5 else 0
    if side == 0 or side * side != images.shape[1]:
        raise BadValue(f"a mosaic is made of N x 9 x C x H x W (or 4, 16...), not of shape {tuple(images.shape)}")
    return images.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def grid_scores(maps: Tensor, cells: int | Sequence[int] | Tensor, side: int = 3) -> Tensor:
    """The share of a map's positive part that lies in the right cell of a mosaic; chance is 1 / side**2.

    The map is summed over colours before its positive part is taken.

    Args:
        maps: One per mosaic, N x C x H x W.
        cells: The number of the right cell, counted row by row from 0: one for all maps, or one per map.
        side: How many cells a mosaic has in a row.

    Returns:
        One value per map; NaN where nothing is positive.
    """
    positive = checked(maps).sum(1).clamp(min=0)
    if any(length % side for length in positive.shape[1:]):
        raise BadValue(f"maps of {size_of(maps)} cannot be cut into {side} x {side} equal cells")
    wanted = torch.as_tensor(cells, device=maps.device)
    if wanted.dtype not in (torch.int32, torch.int64) or wanted.shape not in ((), (len(maps),)):
        raise BadValue(f"cells are whole numbers, one for all maps or one for each of {len(maps)}")
    if bool(((wanted < 0) | (wanted >= side * side)).any()):
        raise BadValue(f"the cells of {side} x {side} are 0 to {side * side - 1}")
    in_cells = positive.unflatten(1, (side, -1)).unflatten(3, (side, -1)).sum((2, 4)).flatten(1)
    return in_cells.gather(1, wanted.long().expand(len(maps))[:, None])[:, 0] / in_cells.sum(1)
