"""From a picture to a model's input, and back to the picture that the model saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from attribkit.errors import BadValue

if TYPE_CHECKING:
    from PIL.Image import Image

    from attribkit.adapters.images import RGB, Picture

Size: TypeAlias = int | tuple[int, int]
"""Height and width; one number is the side of a square, or the shorter side for models that do not crop."""


class Preprocess:
    """What an adapter knows of its models' inputs. A subclass says how to transform, and how to undo the colours.

        preprocess = attribkit.load("torchvision:resnet18").preprocess
        x = preprocess("cat.jpg")                     # or a PIL image, or an array; 3 x 224 x 224
        x = preprocess("cat.jpg", size=448)           # for nets that take any size

    `undo` gives back the picture that the model saw.
    """

    def transform(self, size: Size | None) -> Callable[[Image], Tensor]:
        """The step from a picture to an input.

        Args:
            size: The size of the input; None is the model's usual one.

        Returns:
            A function from a PIL image to a tensor.
        """
        raise NotImplementedError

    def restore(self, x: Tensor) -> Tensor:
        """Undo what `transform` did to the colours.

        Args:
            x: An input of the model.

        Returns:
            Its colours as numbers from 0 to 1.
        """
        raise NotImplementedError

    def __call__(self, picture: Picture | Sequence[Picture], size: Size | None = None) -> Tensor:
        """Turn a picture into the model's input, or several into a batch.

        Args:
            picture: A path, a PIL image, or an array of H x W x 3 bytes; or a list of these.
            size: The size of the input; None is the model's usual one.

        Returns:
            The input, without the batch dimension; of a list, the batch.

        Raises:
            ImageError: A picture cannot be read.
            BadValue: The pictures of a list become inputs of different sizes.
        """
        if isinstance(picture, (list, tuple)):
            return _batch([self(each, size) for each in picture])
        return self._input(picture, size)  # type: ignore[arg-type]

    def _input(self, picture: Picture, size: Size | None) -> Tensor:
        from PIL import Image

        return self.transform(size)(Image.fromarray(self.picture(picture)))

    def picture(self, picture: Picture) -> RGB:
        """The picture itself, before anything is done for the model.

        Args:
            picture: A path, a PIL image, or an array of H x W x 3 bytes.

        Returns:
            H x W x 3 bytes, upright, on white.

        Raises:
            ImageError: The picture cannot be read.
        """
        from attribkit.adapters.images import to_rgb

        return to_rgb(picture)

    def undo(self, x: Tensor) -> RGB:
        """The picture that the model saw, after resizing and cropping.

        Args:
            x: An input of the model, without the batch dimension.

        Returns:
            H x W x 3 bytes.
        """
        colours = self.restore(x.detach().cpu().float())
        return (colours.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).contiguous().numpy()

    def example(self) -> Tensor:
        """An input to try a model on.

        Returns:
            What a grey square becomes.
        """
        return self(np.full((224, 224, 3), 128, np.uint8))


def _batch(inputs: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(each.shape[1:]): None for each in inputs}
    if len(shapes) != 1:
        found = ", ".join("x".join(map(str, each)) for each in shapes) or "none"
        raise BadValue(f"pictures of one batch become inputs of one size, and these are of {found}: give size=")
    return torch.stack(list(inputs))


class Plain(Preprocess):
    """A picture as it is, in numbers from 0 to 1: for models of which nothing more is known."""

    def transform(self, size: Size | None) -> Callable[[Image], Tensor]:
        from torchvision.transforms import functional

        def apply(image: Image) -> Tensor:
            return functional.to_tensor(image if size is None else functional.resize(image, list(shape(size))))

        return apply

    def restore(self, x: Tensor) -> Tensor:
        return x


def sides(size: Size) -> tuple[int, int]:
    """Height and width of what is cropped."""
    return (size, size) if isinstance(size, int) else size


def shape(size: Size) -> tuple[int, ...]:
    """What torchvision resizes to where nothing is cropped."""
    return (size,) if isinstance(size, int) else size


def unnormalised(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What was there before `(x - mean) / std`, channel by channel; channels are the third dimension from behind."""
    return x * torch.tensor(std).reshape(-1, 1, 1) + torch.tensor(mean).reshape(-1, 1, 1)
