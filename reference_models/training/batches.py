"""Batches for training: the whole set in memory, shifted and flipped batch by batch without a loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.reference_models.data import Split
from attribkit.reference_models.normalisation import Normalisation, normalised
from attribkit.reference_models.training.recipes import Recipe

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Loader:
    """The images of a split as the network takes them, on its device.

    They lie there as N x H x W x C, so that what a batch gathers is in channels-last order already, with a
    margin of zeros (the mean colour) for the shifts.
    """

    images: Tensor
    labels: Tensor
    shift: int
    flip: bool

    @classmethod
    def of(cls, split: Split, normalisation: Normalisation, recipe: Recipe, device: torch.device) -> Loader:
        images = normalised(split.images, normalisation, getattr(torch, recipe.precision), device)
        margin = (0, 0, *[recipe.shift] * 4)
        return cls(F.pad(images, margin), split.labels.to(device), recipe.shift, recipe.flip)

    def epoch(self, batch: int, generator: torch.Generator, piece: float = 1.0) -> Iterator[Batch]:
        """Every image once, but for those that do not fill a last batch (they are others every time).

        Below 1, `piece` is the share of the sides of what is cut out, anywhere from an image and its margin.
        """
        count = len(self.labels)
        order = torch.randperm(count, generator=generator)
        sides = [(side, round(piece * (side - 2 * self.shift))) for side in self.images.shape[1:3]]
        starts = [torch.randint(side - cut + 1, (count,), generator=generator) for side, cut in sides]
        mirrored = torch.rand(count, generator=generator) < (0.5 if self.flip else 0)
        # Drawn on the CPU, the same for every device, and brought there at once.
        order, down, right, mirrored = (drawn.to(self.labels.device) for drawn in (order, *starts, mirrored))
        rows, columns = (torch.arange(cut, device=self.labels.device) for _, cut in sides)
        for start in range(0, self.steps(batch) * batch, batch):
            part = slice(start, start + batch)
            chosen = order[part]
            across = torch.where(mirrored[part, None], columns.flip(0), columns) + right[part, None]
            yield self._cut(chosen, down[part, None] + rows, across), self.labels[chosen]

    def steps(self, batch: int) -> int:
        return max(1, len(self.labels) // batch)

    def _cut(self, chosen: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        cut = self.images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        return cut.permute(0, 3, 1, 2)
