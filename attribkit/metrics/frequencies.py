"""What of a map repeats with the strides of its network: the checkerboard."""

from __future__ import annotations

import torch
from torch import Tensor

from attribkit.errors import BadValue
from attribkit.metrics.maps import checked, size_of


def lattice_energy(maps: Tensor, stride: int) -> Tensor:
    """The share of a map's energy that repeats every `stride` pixels, down and across: 1 for a checkerboard.

    The map is summed over colours. Its constant part counts neither above nor below. Noise has about
    (stride ** 2 - 1) / (H * W - 1). Rows and columns at the lower and right edge are left out if they fill no period.

    Args:
        maps: N x C x H x W.
        stride: The period of the lattice in pixels, at least 2: a product of strides of the network.

    Returns:
        One value per map; NaN for a map that is constant.
    """
    plane = checked(maps).sum(1)
    if not 2 <= stride <= min(plane.shape[1:]):
        raise BadValue(f"a lattice in maps of {size_of(maps)} has a stride of 2 to the shorter side, not {stride}")
    height, width = (side - side % stride for side in plane.shape[1:])
    whole = plane[:, :height, :width]
    repeated = whole.unflatten(2, (-1, stride)).unflatten(1, (-1, stride)).mean((1, 3))
    constant = whole.mean((1, 2))
    of_lattice = (repeated - constant[:, None, None]).square().mean((1, 2))
    all_of_it = (whole - constant[:, None, None]).square().mean((1, 2))
    varies = all_of_it.sqrt() > 1e-9 * whole.abs().amax((1, 2))
    return torch.where(varies, of_lattice / all_of_it, torch.nan)
