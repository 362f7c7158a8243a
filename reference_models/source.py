"""Our own reference models, with the weights that come with the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attribkit.adapters.preprocessing import Preprocess, Size, sides
from attribkit.adapters.source import LoadedModel
from attribkit.adapters.weights import Weights, WeightsError, is_file
from attribkit.errors import BadValue
from attribkit.reference_models import architectures, trained
from attribkit.reference_models.normalisation import Normalisation

if TYPE_CHECKING:
    from PIL.Image import Image


def names() -> tuple[str, ...]:
    """Every architecture."""
    return architectures.NAMES


def build(name: str, weights: Weights, classes: int | None, channels: int | None = None) -> LoadedModel:
    """Build a reference model.

    Args:
        name: The architecture.
        weights: "default" (those that come with the package), "none" or a file that `attribkit train` wrote.
        classes: The number of classes, without weights only.
        channels: The number of the input's colours, without weights only.

    Returns:
        The model, ready to be explained.
    """
    side = architectures.architecture(name).side
    if weights == "none":
        channels = 3 if channels is None else channels
        bare = architectures.build(name, classes, channels)
        return LoadedModel(f"reference:{name}", bare, ReferencePreprocess(side, None, channels))
    if channels is not None:
        raise WeightsError(f"weights of {name} have their own channels: leave channels= out, or pass weights='none'")
    path = Path(weights) if is_file(weights) else trained.bundled(name)
    if path is None:
        raise WeightsError(
            f"no weights of {name} come with attribkit: train it and pass weights=FILE, or weights='none'"
        )
    loaded = trained.load(path, name)
    if classes not in (None, len(loaded.facts["classes"])):
        raise WeightsError(f"{path} has {len(loaded.facts['classes'])} classes, not {classes}: leave classes= out")
    preprocess = ReferencePreprocess(side, loaded.normalisation)
    return LoadedModel(f"reference:{name}", loaded.net, preprocess, tuple(loaded.facts["classes"]))


def is_here(name: str) -> bool:
    """Whether weights of it come with the package."""
    return trained.bundled(name) is not None


@dataclass(frozen=True, eq=False)
class ReferencePreprocess(Preprocess):
    """The middle square of a picture at the side that the network was made for, normalised as it was trained."""

    side: int
    normalisation: Normalisation | None
    channels: int = 3  # grey where it is 1; no picture has others

    def transform(self, size: Size | None) -> Callable[[Image], Tensor]:
        from torchvision.transforms import functional

        height, width = sides(self.side if size is None else size)
        self._check()

        def apply(image: Image) -> Tensor:
            cropped = functional.center_crop(functional.resize(image, [max(height, width)]), [height, width])
            x = functional.to_tensor(cropped if self.channels == 3 else functional.to_grayscale(cropped))
            return x if self.normalisation is None else self.normalisation(x[None])[0]

        return apply

    def restore(self, x: Tensor) -> Tensor:
        self._check()
        if self.normalisation is None:
            return x.expand(3, -1, -1)
        return self.normalisation.inverse(x[None])[0]

    def example(self) -> Tensor:
        return super().example() if self.channels in (1, 3) else torch.full([self.channels, self.side, self.side], 0.5)

    def _check(self) -> None:
        if self.channels not in (1, 3):
            raise BadValue(
                f"a picture has 1 or 3 channels, but the network takes {self.channels}: pass tensors instead"
            )
