"""What is done to a picture's values before a reference model sees them; stored with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attribkit.errors import BadValue

_WHITENING_FLOOR = 0.1  # added to every variance, so that directions of pure noise are not blown up
_CONTRAST_FLOOR = 1e-2
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Normalisation:
    """From values of 0 to 1 to what the network was trained on.

    Without whitening, each channel loses its mean and is divided by its deviation. With whitening, each image loses its
    own mean and is divided by its own deviation (global contrast normalisation); then the mean image is subtracted and
    a matrix decorrelates the pixels (ZCA). That works for images of one size only.

    Args:
        mean: The mean of each channel; with whitening, the mean image.
        std: The deviation of each channel; with whitening, the matrix.
        whitening: Which of the two it is.
    """

    mean: Tensor
    std: Tensor
    whitening: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise images.

        Args:
            images: N x C x H x W, from 0 to 1.

        Returns:
            Inputs of the network, of the same shape.
        """
        mean, std = self.mean.to(images), self.std.to(images)
        if not self.whitening:
            return (images - mean[:, None, None]) / std[:, None, None]
        self._check_size(images)
        flat = _contrast(images).flatten(1)
        return ((flat - mean.flatten()) @ std).view_as(images)

    def inverse(self, images: Tensor) -> Tensor:
        """Undo the normalisation; for whitened images, only up to the mean and contrast of each.

        Args:
            images: Inputs of the network, N x C x H x W.

        Returns:
            Values from 0 to 1.
        """
        mean, std = self.mean.to(images), self.std.to(images)
        if not self.whitening:
            return images * std[:, None, None] + mean[:, None, None]
        self._check_size(images)
        flat = torch.linalg.solve(std, images.flatten(1), left=False) + mean.flatten()
        low, high = flat.min(1, keepdim=True).values, flat.max(1, keepdim=True).values
        return ((flat - low) / (high - low).clamp(min=1e-6)).view_as(images)

    def _check_size(self, images: Tensor) -> None:
        if images.shape[1:] != self.mean.shape:
            wanted, given = ("x".join(map(str, shape[-2:])) for shape in (self.mean.shape, images.shape))
            raise BadValue(f"these weights were trained on whitened images of {wanted}, this one is {given}")

    def tensors(self) -> dict[str, Tensor]:
        """To be stored beside the weights."""
        return {"normalisation.mean": self.mean, "normalisation.std": self.std}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Normalisation:
        std = tensors["normalisation.std"]
        return cls(tensors["normalisation.mean"], std, whitening=std.ndim == 2)


def fit(images: Tensor, *, whiten: bool) -> Normalisation:
    """Compute the normalisation for training images.

    Args:
        images: N x H x W x C bytes.
        whiten: Whether pixels are decorrelated.

    Returns:
        The normalisation.
    """
    if not whiten:
        # Sums of bytes are whole numbers, so the order of adding does not matter.
        count = images[..., 0].numel()
        values = images.flatten(0, 2)
        mean = values.sum(0, dtype=torch.float64) / count
        square = sum((part.double() ** 2).sum(0) for part in values.split(1 << 22)) / count
        return Normalisation((mean / 255).float(), ((square - mean**2).sqrt() / 255).float())
    rows = torch.cat([_contrast(_floats(part)).flatten(1) for part in images.split(_CHUNK)])
    mean = rows.mean(0)
    variance, directions = torch.linalg.eigh(torch.cov(rows.T))
    matrix = directions @ torch.diag((variance.clamp(min=0) + _WHITENING_FLOOR).rsqrt()) @ directions.T
    return Normalisation(mean.view(images.shape[3], *images.shape[1:3]), matrix, whitening=True)


def normalised(images: Tensor, normalisation: Normalisation, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Normalise a whole set of images.

    Args:
        images: N x H x W x C bytes.
        normalisation: What `fit` computed.
        dtype: The type of the result.
        device: Where the result is to be.

    Returns:
        N x H x W x C, ready for the network.
    """
    parts = (
        normalisation(_floats(part.to(device))).permute(0, 2, 3, 1).to(dtype).contiguous()
        for part in images.split(_CHUNK)
    )
    return torch.cat(list(parts))


def _floats(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


def _contrast(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    return (flat / flat.std(1, keepdim=True).clamp(min=_CONTRAST_FLOOR)).view_as(images)
