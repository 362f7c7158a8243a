"""The filters of a network's first layer, and their faults by number (Zeiler & Fergus 2013)."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attribkit.engine.shadow import shadow
from attribkit.errors import BadValue
from attribkit.explaining.given import Model
from attribkit.explaining.watching import watched
from attribkit.studies.stored import Stored

Array = npt.NDArray[Any]

DEAD = 1e-3
"""A filter is dead whose RMS is at most this share of the median one's."""
DOMINATING = 3.0
"""And one dominates whose RMS is more than this many times the median."""
ALIKE = 0.98
"""Two filters are near-duplicates from this cosine on, of either sign."""
BANDS = (1 / 6, 1 / 3)
"""Where low, middle and high frequencies part, in cycles per pixel along the diagonal of the plane of frequencies."""
DIRECTIONS, PHASES = 8, 4
_SIDE = 64
# Of the finest grating that a stride leaves apart. Those above 1 are folded onto coarse ones.
_SHARES = (0.4, 0.6, 0.8, 1.2, 1.4, 1.6)


@dataclass(frozen=True, eq=False)
class Filters(Stored):
    """First-layer filters and what is measured of them.

    Attributes:
        layer: The convolution's path.
        weights: Filters x colours x height x width.
        stride: Of the convolution.
        rms: Root mean square of each filter's weights.
        bands: The share of each filter's energy in low, middle and high frequencies, filters x 3; 0 for dead ones.
        duplicates: Pairs of filters and their cosine, strongest first: pairs x 3.
        aliasing: How strongly the layer after answers to gratings that are too fine for the first layer's stride, as a
            share of its answer to those that are not; NaN where the first layer leaves out nothing or none comes after.
        second: The layer after, on which that was tested.
    """

    _kind: ClassVar = "set of filters"
    _facts: ClassVar = ("layer", "second")

    layer: str
    weights: Array
    stride: tuple[int, int]
    rms: Array
    bands: Array
    duplicates: Array
    aliasing: float
    second: str | None

    @property
    def dead(self) -> list[int]:
        """Filters with next to no weight."""
        return np.flatnonzero(self.rms <= DEAD * np.median(self.rms)).tolist()

    @property
    def dominating(self) -> list[int]:
        """Filters much stronger than the others."""
        return np.flatnonzero(self.rms > DOMINATING * np.median(self.rms)).tolist()

    @classmethod
    def _made(cls, arrays: dict[str, Any], facts: dict[str, Any]) -> Filters:
        height, width = arrays.pop("stride").tolist()
        return cls(stride=(height, width), aliasing=float(arrays.pop("aliasing")), **arrays, **facts)


def filters(model: Model) -> Filters:
    """Look at the filters of a network's first convolution, for the faults that Zeiler & Fergus name.

    Dead filters and dominating ones by their RMS, energy by frequency, near-duplicates by cosine, and aliasing: whether
    the layer after answers to gratings that the first layer's stride cannot keep apart from coarser ones.

    Args:
        model: A network, or what `attribkit.load` gives. It stays as it is.

    Returns:
        The filters and their numbers.

    Raises:
        BadValue: There is no convolution over two dimensions.
    """
    net = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    if not isinstance(net, nn.Module):
        raise BadValue(f"filters are looked for in an nn.Module, not in a {type(model).__name__}")
    net = shadow(net)
    convolutions = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d)]
    if not convolutions:
        raise BadValue(f"{type(net).__name__} has no convolution over two dimensions, so there are no filters to show")
    name, first = convolutions[0]
    weights = first.weight.detach().cpu().double().numpy()
    rms = np.sqrt((weights**2).mean((1, 2, 3)))
    height, width = first.stride
    aliasing, second = _aliasing(net, first, dict(convolutions[1:]))
    return Filters(
        layer=name,
        weights=weights,
        stride=(height, width),
        rms=rms,
        bands=_bands(weights),
        duplicates=_duplicates(weights, rms),
        aliasing=aliasing,
        second=second,
    )


def _bands(weights: Array) -> Array:
    """The shares of low, middle and high frequencies in each filter's energy, the mean of each colour left out."""
    size = max(32, *weights.shape[2:])
    energy = np.abs(np.fft.fft2(weights, (size, size))) ** 2
    along = np.abs(np.fft.fftfreq(size))
    radius = np.hypot(along[:, None], along[None])
    edges = (-1.0, *BANDS, np.inf)
    shares = [energy[:, :, (radius > a) & (radius <= b)].sum((1, 2)) for a, b in itertools.pairwise(edges)]
    total = energy.sum((1, 2, 3))
    return np.stack(shares, 1) / np.where(total > 0, total, 1)[:, None]


def _duplicates(weights: Array, rms: Array) -> Array:
    """Pairs of living filters whose cosine is near 1 or -1."""
    alive = np.flatnonzero(rms > DEAD * np.median(rms))
    flat = weights[alive].reshape(len(alive), -1)
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-300)
    cosines = np.triu(flat @ flat.T, 1)
    pairs = np.argwhere(np.abs(cosines) >= ALIKE)
    found = [(alive[a], alive[b], cosines[a, b]) for a, b in pairs]
    return np.array(sorted(found, key=lambda pair: -abs(pair[2])), float).reshape(-1, 3)


def gratings(first: nn.Conv2d, cycles: float, side: int) -> Tensor:
    """Sine waves of `cycles` per pixel in several directions and phases, all colours alike, between -1 and 1."""
    at = torch.arange(side, dtype=torch.float64)
    angles = torch.arange(DIRECTIONS, dtype=torch.float64) * torch.pi / DIRECTIONS
    phases = torch.arange(PHASES, dtype=torch.float64) * 2 * torch.pi / PHASES
    along = torch.cos(angles)[:, None, None] * at + torch.sin(angles)[:, None, None] * at[:, None]
    waves = torch.sin(2 * torch.pi * cycles * along[:, None] + phases[:, None, None])
    planes = waves.reshape(-1, 1, side, side).expand(-1, first.in_channels, -1, -1)
    return planes.to(first.weight)


def _aliasing(net: nn.Module, first: nn.Conv2d, later: dict[str, nn.Conv2d]) -> tuple[float, str | None]:
    """The answer of the next convolution that is called to gratings above the stride's limit, over that below."""
    stride = max(first.stride)
    if stride == 1 or not later:
        return float("nan"), None
    limit = 1 / (2 * stride)
    called: list[str] = []
    answers: list[float] = []

    def keep(name: str, inputs: Any, output: Tensor) -> None:
        called[:] = called or [name]
        answers.append(float(output.double().std((2, 3)).mean()))
        raise _Answered

    with watched(later.items(), keep), torch.no_grad():
        for share in _SHARES:
            with suppress(_Answered):
                net(gratings(first, share * limit, max(_SIDE, 16 * stride)))
    if len(answers) != len(_SHARES):  # nothing comes after, or a network catches what is raised in it
        return float("nan"), None
    coarse, fine = sum(answers[:3]), sum(answers[3:])
    return (fine / coarse if coarse else float("nan")), called[0]


class _Answered(Exception):
    """The forward pass need not go on: the layer in question has answered."""
