"""Metrics written again as loops over numbers, and a unit of which the right map is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIGNAL = 0.7  # what the planted unit answers to each of its pixels


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def undefined(values: Tensor) -> list[bool]:
    return values.isnan().tolist()


class Planted:
    """A unit that adds up the pixels under a mask, and counts how often it is asked."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self.batches: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return (images * self.mask * SIGNAL).sum((1, 2, 3))


def planted(side: int = 12) -> tuple[Planted, Tensor, Tensor]:
    """A unit that sees a quarter of three bright images, the images, and the map that knows it."""
    mask = torch.zeros(1, side, side, dtype=torch.float64)
    mask[:, : side // 2, side // 2 :] = 1
    return Planted(mask), noise(3, 2, side, side).abs() + 0.5, mask.expand(3, 1, side, side)


def slow_cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    lengths = math.sqrt(sum(x * x for x in a.flat)) * math.sqrt(sum(y * y for y in b.flat))
    return sum(x * y for x, y in zip(a.flat, b.flat, strict=True)) / lengths if lengths else math.nan


def slow_ranks(values: list[float]) -> list[float]:
    """How many are smaller, and half of the others that are equal, to a millionth of the largest."""
    largest = max(abs(v) for v in values)
    values = [round(v / largest, 6) for v in values]
    return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


def slow_spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    ranks = [np.array(slow_ranks(list(each.flat))) for each in (a, b)]
    return slow_cosine(*(each - sum(each) / len(each) for each in ranks))


def slow_magnitude(one: NDArray[Any]) -> NDArray[Any]:
    _, height, width = one.shape
    return np.array([[sum(abs(float(v)) for v in one[:, y, x]) for x in range(width)] for y in range(height)])


def slow_detail(one: NDArray[Any]) -> NDArray[Any]:
    grey = one.sum(0)
    detail = np.zeros_like(grey)
    for y, x in np.ndindex(*grey.shape):
        box = grey[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        detail[y, x] = grey[y, x] - sum(box.flat) / box.size
    return detail


def slow_sources(maps: Tensor, images: Tensor) -> list[bool]:
    pictures = [slow_detail(image) for image in images.numpy()]
    found = []
    for own, one in enumerate(maps.numpy()):
        fits = [abs(slow_cosine(slow_detail(one), picture)) for picture in pictures]
        found.append(all(fits[own] > fit + 1e-9 for other, fit in enumerate(fits) if other != own))
    return found


def slow_leads(maps: Tensor, images: Tensor, sources: list[int]) -> list[float]:
    pictures = [slow_detail(image) for image in images.numpy()]
    leads = []
    for own, one in zip(sources, maps.numpy(), strict=True):
        fits = [abs(slow_cosine(slow_detail(one), picture)) for picture in pictures]
        fits = [0.0 if math.isnan(fit) else fit for fit in fits]
        leads.append(fits[own] - max([fit for other, fit in enumerate(fits) if other != own], default=0.0))
    return leads


def slow_lattice(one: NDArray[Any], stride: int) -> float:
    """Frequency by frequency of a Fourier transform written out; sides are whole periods."""
    grey = one.sum(0)
    height, width = grey.shape
    inside = total = 0.0
    for v, u in np.ndindex(height, width):
        if v == u == 0:
            continue
        wave = sum(
            grey[y, x] * np.exp(-2j * math.pi * (v * y / height + u * x / width)) for y, x in np.ndindex(*grey.shape)
        )
        total += abs(wave) ** 2
        inside += abs(wave) ** 2 * (v * stride % height == 0 and u * stride % width == 0)
    return inside / total


def slow_curve(ask: Callable[[Tensor], Tensor], image: Tensor, one: Tensor, fill: Tensor, insert: bool) -> list[float]:
    """One pixel a step, one image at a time; for maps without ties."""
    strength = slow_magnitude(one.numpy())
    order = sorted(np.ndindex(*strength.shape), key=lambda at: -strength[at])
    picture, other = (fill.clone(), image) if insert else (image.clone(), fill)
    curve = [float(ask(picture[None]))]
    for y, x in order:
        picture[:, y, x] = other[:, y, x]
        curve.append(float(ask(picture[None])))
    return [value / float(ask(image[None])) for value in curve]


def slow_area(curve: list[float]) -> float:
    return sum((a + b) / 2 for a, b in itertools.pairwise(curve)) / (len(curve) - 1)


def slow_drops(
    ask: Callable[[Tensor], Tensor], image: Tensor, size: int, stride: int, fill: Tensor
) -> list[list[float]]:
    height, width = image.shape[1:]
    rows = []
    for top in range(0, height - size + 1, stride):
        rows.append([])
        for left in range(0, width - size + 1, stride):
            covered = image.clone()
            covered[:, top : top + size, left : left + size] = fill[:, top : top + size, left : left + size]
            rows[-1].append(float(ask(image[None]) - ask(covered[None])))
    return rows


def slow_boxes(plane: NDArray[Any], size: int, stride: int) -> NDArray[Any]:
    tops, lefts = (range(0, side - size + 1, stride) for side in plane.shape)
    return np.array([[plane[y : y + size, x : x + size].mean() for x in lefts] for y in tops])


def slow_laid(drops: NDArray[Any], size: int, stride: int, sides: tuple[int, int]) -> NDArray[Any]:
    laid = np.zeros(sides)
    for y, x in np.ndindex(*sides):
        on = [
            drops[i, j]
            for i, j in np.ndindex(*drops.shape)
            if i * stride <= y < i * stride + size and j * stride <= x < j * stride + size
        ]
        laid[y, x] = sum(on) / len(on)
    return laid


def slow_ssim(a: NDArray[Any], b: NDArray[Any]) -> float:
    weights = np.array([[math.exp(-((y - 5) ** 2 + (x - 5) ** 2) / 4.5) for x in range(11)] for y in range(11)])
    weights /= weights.sum()
    a, b = a / a.max(), b / b.max()
    values = []
    for y, x in np.ndindex(a.shape[0] - 10, a.shape[1] - 10):
        p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
        mp, mq = (weights * p).sum(), (weights * q).sum()
        vp, vq, c = ((weights * v).sum() for v in ((p - mp) ** 2, (q - mq) ** 2, (p - mp) * (q - mq)))
        values.append((2 * mp * mq + 1e-4) * (2 * c + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return sum(values) / len(values)


def slow_share(one: NDArray[Any], cell: int, side: int) -> float:
    _, height, width = one.shape
    inside = total = 0.0
    for y, x in np.ndindex(height, width):
        value = max(0.0, float(one[:, y, x].sum()))
        total += value
        inside += value * ((y * side // height) * side + x * side // width == cell)
    return inside / total


def slow_blur(images: Tensor) -> Tensor:
    """A Gaussian of a twentieth of the longer side, cut off at three sigmas, mirrored at the edges."""
    sigma = max(images.shape[2:]) / 20
    reach = math.ceil(3 * sigma)
    bell = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-reach, reach + 1)]
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="reflect")
    blurred = np.zeros(images.shape)
    height, width = images.shape[2:]
    for i, a in enumerate(bell):
        for j, b in enumerate(bell):
            blurred += a * b / sum(bell) ** 2 * padded[:, :, i : i + height, j : j + width]
    return torch.from_numpy(blurred)
