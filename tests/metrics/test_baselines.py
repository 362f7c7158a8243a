"""Maps to compare with are what their formulas say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from slow_metrics import noise

from attribkit import metrics


def test_the_edges_are_sobels() -> None:
    """Against the eight weights written out; edge pixels are repeated outwards. They find themselves among edges."""
    images = noise(4, 3, 6, 7)
    found = metrics.sobel_maps(images)
    for n in range(4):
        grey = np.pad(images[n].numpy().mean(0), 1, mode="edge")
        for y, x in np.ndindex(6, 7):
            (a, b, c), (d, _, f), (g, h, i) = grey[y : y + 3, x : x + 3]
            expected = math.hypot(c + 2 * f + i - a - 2 * d - g, g + 2 * h + i - a - 2 * b - c)
            assert float(found[n, 0, y, x]) == pytest.approx(expected)
    assert metrics.found_sources(found, metrics.sobel_maps(images)).tolist() == [True] * 4


def test_the_gaussian_is_in_the_middle_and_noise_is_seeded() -> None:
    """By the formula at one pixel; the baselines have a map an image."""
    images = noise(2, 3, 9, 5)
    hill = metrics.centred_gaussian_maps(images, width=0.5)
    assert hill.shape == (2, 1, 9, 5)
    assert float(hill[1, 0, 4, 2]) == 1
    assert float(hill[0, 0, 0, 3]) == pytest.approx(math.exp(-(0.5**2 + 0.25**2) / 0.5))
    assert metrics.centred_gaussian_maps(noise(1, 1, 1, 3)).flatten().tolist() == pytest.approx(
        [math.exp(-2), 1, math.exp(-2)]
    )
    one, same, other = (metrics.random_maps(images, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
