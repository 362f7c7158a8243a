"""How a signal goes back through a max-pool.

A *route* says where each output of a pool sends its signal: to the cells that indices name ("own": this image's;
or those of a recording), or over its window by a fixed scheme ("uniform", "center", "corner"). Indices are flat
positions in the unpadded input plane, as torch's `return_indices` gives them.

Windows are products of one window per dimension, so a fixed scheme is one small matrix per dimension, and a signal goes
down by multiplying with each in turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

SCHEMES = ("uniform", "center", "corner")


class Windows(Protocol):
    """What has to be known of a pool: its name, over how many dimensions it goes, and where its windows lie."""

    @property
    def op(self) -> str: ...

    @property
    def rank(self) -> int: ...

    def plane(self, x: Tensor) -> tuple[int, ...]: ...

    def cells(self, d: int, size: int, outputs: int, device: torch.device) -> Tensor: ...


def unpool(signal: Tensor, indices: Tensor, plane: Sequence[int], overlap: str = "add") -> Tensor:
    """The signal put where the indices say; cells named twice add up, or keep what the last window put there."""
    rank = len(plane)
    # Not flatten and unflatten, which torch cannot batch for `is_grads_batched`.
    leading, cells = signal.shape[:-rank], math.prod(signal.shape[-rank:])
    flat = signal.reshape(*leading, cells)
    indices = indices.expand_as(signal).reshape(*leading, cells)
    empty = flat.new_zeros(*flat.shape[:-1], math.prod(plane))
    if overlap == "add":
        return empty.scatter_add(-1, indices, flat).reshape(*leading, *plane)
    order = torch.arange(flat.shape[-1], device=flat.device).expand_as(flat)
    last = torch.full_like(empty, -1, dtype=torch.long).scatter_reduce(-1, indices, order, "amax")
    return torch.where(last >= 0, flat.gather(-1, last.clamp(min=0)), empty).reshape(*leading, *plane)


def routes(pool: Windows, plane: Sequence[int], like: Tensor, scheme: str) -> list[Tensor]:
    """One matrix per dimension, outputs by inputs: the share of its signal that an output sends to each cell."""
    matrices = []
    for d, (size, outputs) in enumerate(zip(plane, like.shape[-pool.rank :], strict=True)):
        cells = pool.cells(d, size, outputs, like.device)
        inside = (cells >= 0) & (cells < size)
        count, position = inside.sum(-1, keepdim=True), inside.cumsum(-1) - 1
        if scheme == "uniform":
            share = inside.to(like.dtype) / count.clamp(min=1)  # a dilated window may lie in the padding alone
        else:
            chosen = (count - 1) // 2 if scheme == "center" else 0
            share = inside & (position == chosen)
        empty = torch.zeros(*cells.shape[:-1], size, dtype=like.dtype, device=like.device)
        matrix = empty.scatter_add(-1, cells.clamp(0, size - 1), share.to(like.dtype))
        matrices.append(matrix.unflatten(-2, (*[1] * (pool.rank - 2), -1)) if matrix.dim() > 2 else matrix)
    return matrices


def along_each(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    rank = len(matrices)
    for d, matrix in enumerate(matrices):
        x = (x.transpose(d - rank, -1) @ matrix).transpose(d - rank, -1)
    return x
