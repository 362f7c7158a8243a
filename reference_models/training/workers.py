"""Several processes that train one network, started by `torchrun`; or one, alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Workers:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process' part of a batch; all see the same batch."""
        return batch if self.count == 1 else batch[self.rank :: self.count]

    def wrapped(self, net: nn.Module) -> nn.Module:
        """`net` with its gradients averaged over all."""
        return net if self.count == 1 else nn.parallel.DistributedDataParallel(net)

    def mean(self, value: Tensor) -> Tensor:
        if self.count > 1:
            dist.all_reduce(value)
        return value / self.count


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Workers]:
    """The processes that `torchrun` started, or this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Workers()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Workers(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
