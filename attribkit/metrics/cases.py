"""Cases to score methods of attribution on: a model, images, and the class that is asked of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from attribkit.errors import BadValue
from attribkit.metrics.perturbation import Respond, occlusion_drops


@dataclass(frozen=True, eq=False)
class Cases:
    """What every method is asked alike.

        cases = attribkit.Cases(model, images)
        attribkit.evaluate(attribkit.rewrite(model, "guided"), "grid", cases)

    Args:
        model: A classifier: images go in, a score for each class comes out.
        images: N x C x H x W.
        targets: The class that is asked of each image; without it, those that the model names.
        steps: In how many steps pixels are put in and out, for the metrics that do so.
        seed: For the metrics that draw something.
    """

    model: nn.Module
    images: Tensor
    targets: Tensor | None = None
    steps: int = 8
    seed: int = 0

    @cached_property
    def classes(self) -> Tensor:
        """The class that is asked of each image."""
        if self.targets is None:
            return self.scores.argmax(1)
        if self.targets.shape != (len(self.images),):
            raise BadValue(
                f"{tuple(self.targets.shape)} targets do not fit {len(self.images)} images: give one per image"
            )
        return self.targets.to(self.images.device)

    @cached_property
    def scores(self) -> Tensor:
        """What the model says of the images."""
        with torch.no_grad():
            scores = torch.cat([self._answers(self.images[part]) for part in batches(self.images)])
        if scores.dim() != 2:
            raise BadValue(f"the model returns {tuple(scores.shape)}, not one score per class: use a classifier")
        return scores

    @cached_property
    def responses(self) -> list[Respond]:
        """For each image the score of its class, as a function of any images."""
        return [self._response(target) for target in self.classes.tolist()]

    def _response(self, target: int) -> Respond:
        return lambda images: self._answers(images)[:, target]

    def _answers(self, images: Tensor) -> Tensor:
        return self.model(images.clone())  # a first layer in place writes into what it gets

    @cached_property
    def drops(self) -> dict[int, Tensor]:
        """What covering each part costs, by the side of the square: two and three eighths of the image's."""
        eighth = self.images.shape[-1] // 8
        return {
            size: occlusion_drops(self.responses, self.images, size, stride=eighth) for size in (2 * eighth, 3 * eighth)
        }

    @cached_property
    def mosaics(self) -> dict[int, tuple[list[int], int]]:
        """For each image nine, eight of them of other classes and itself in a cell that is drawn for it.

        There are none where fewer than eight are of other classes.
        """
        generator = torch.Generator().manual_seed(self.seed)
        cells = torch.randint(9, (len(self.images),), generator=generator)
        drawn = {}
        for index, cell in enumerate(cells.tolist()):
            others = (self.classes != self.classes[index]).nonzero()[:, 0]
            if len(others) >= 8:
                eight = others[torch.randperm(len(others), generator=generator)[:8]].tolist()
                drawn[index] = ([*eight[:cell], index, *eight[cell:]], cell)
        return drawn


def batches(images: Tensor, pixels: int = 500_000) -> Iterator[slice]:
    """Parts of at most fifty images, and fewer of large ones, so that all that a network keeps fits in memory."""
    size = max(1, min(50, pixels // images.shape[2:].numel()))
    return (slice(start, start + size) for start in range(0, len(images), size))
