"""What makes no sense is refused in one line, whichever metric it is given to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from slow_metrics import Planted, noise
from torch import Tensor, nn

from attribkit import metrics

MAPS, IMAGES = noise(2, 3, 12, 12), noise(2, 3, 12, 12, seed=1)
UNIT = Planted(torch.ones(1, 12, 12))

OF_MAPS: dict[str, Callable[[Tensor], object]] = {
    "magnitude": metrics.magnitude,
    "image_dependence": metrics.image_dependence,
    "found_sources": lambda maps: metrics.found_sources(maps, IMAGES),
    "source_correlations": lambda maps: metrics.source_correlations(maps, IMAGES),
    "source_correlations, the image": lambda maps: metrics.source_correlations(IMAGES, maps),
    "insertion": lambda maps: metrics.insertion(UNIT, IMAGES, maps),
    "insertion, the image": lambda maps: metrics.insertion(UNIT, maps, MAPS),
    "deletion": lambda maps: metrics.deletion(UNIT, IMAGES, maps),
    "occlusion_drops": lambda maps: metrics.occlusion_drops(UNIT, maps, 4),
    "occlusion_agreement": lambda maps: metrics.occlusion_agreement(maps, noise(2, 5, 5), 4),
    "grid_scores": lambda maps: metrics.grid_scores(maps, 0),
    "cosine_similarity": lambda maps: metrics.cosine_similarity(maps, maps),
    "rank_similarity": lambda maps: metrics.rank_similarity(maps, maps),
    "structural_similarity": lambda maps: metrics.structural_similarity(maps, maps),
    "signal_convergence": lambda maps: metrics.signal_convergence(maps[:, None].repeat(1, 2, 1, 1, 1)),
    "sobel_maps": metrics.sobel_maps,
    "random_maps": metrics.random_maps,
    "centred_gaussian_maps": metrics.centred_gaussian_maps,
}


@pytest.mark.parametrize("name", OF_MAPS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_is_refused_wherever_it_is_given(name: str, value: float) -> None:
    """One line that says how many hold it."""
    maps = MAPS.clone()
    maps[1, 2, 3, 4] = value
    with pytest.raises(
        ValueError, match=r"^\d of \d (maps|others|images) hold NaN or infinity; the first is number \d$"
    ):
        OF_MAPS[name](maps)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.magnitude(MAPS[0]), "maps are N x C x H x W, not of shape (3, 12, 12); write maps["),
        (lambda: metrics.magnitude(MAPS[:0]), "not of shape (0, 3, 12, 12)"),
        (lambda: metrics.image_dependence(MAPS[:1]), "compares the maps of several images; there is only one"),
        (lambda: metrics.found_sources(MAPS[:1], IMAGES), "1 maps and 2 images: say in sources="),
        (lambda: metrics.found_sources(MAPS[..., :9], IMAGES), "maps of 12 x 9 do not fit images of 12 x 12"),
        (lambda: metrics.found_sources(MAPS, IMAGES, torch.tensor([0, 2])), "image numbers from 0 to 1"),
        (lambda: metrics.found_sources(MAPS, IMAGES, torch.tensor([0, -1])), "image numbers from 0 to 1"),
        (lambda: metrics.found_sources(MAPS, IMAGES, torch.tensor([0])), "2 image numbers, one per map"),
        (lambda: metrics.found_sources(MAPS, IMAGES, torch.tensor([0.0, 1.0])), "not torch.float32 of (2,)"),
        (lambda: metrics.insertion(UNIT, IMAGES, MAPS[:1]), "1 maps of 12 x 12 do not fit 2 images of 12 x 12"),
        (lambda: metrics.insertion(UNIT, IMAGES, MAPS[:, :, :4]), "2 maps of 4 x 12 do not fit 2 images"),
        (lambda: metrics.insertion(UNIT, IMAGES, MAPS, steps=145), "144 pixels can change in 1 to 144 steps"),
        (lambda: metrics.insertion(UNIT, IMAGES, MAPS, steps=0), "1 to 144 steps, not in 0"),
        (lambda: metrics.insertion(UNIT, IMAGES, MAPS, fill="grey"), "fill is 'zero', 'blur' or a tensor"),  # type: ignore[arg-type]
        (lambda: metrics.insertion(UNIT, IMAGES, MAPS, fill=MAPS[:1]), "a fill of shape (1, 3, 12, 12)"),
        (lambda: metrics.insertion([UNIT], IMAGES, MAPS), "1 functions do not fit 2 images"),
        (lambda: metrics.deletion(lambda x: x.mean(), IMAGES, MAPS), "respond returned shape () for 33 images"),
        (lambda: metrics.deletion(lambda x: x[:, 0, 0], IMAGES, MAPS), "shape (33, 12) for 33 images"),
        (lambda: metrics.deletion(lambda x: UNIT(x) / 0, IMAGES, MAPS), "respond returned NaN or infinity"),
        (lambda: metrics.occlusion_drops(UNIT, IMAGES, 5), "a square of 5 that moves by 2 does not reach"),
        (lambda: metrics.occlusion_drops(UNIT, IMAGES, 13), "does not reach the edges of 12 x 12"),
        (lambda: metrics.occlusion_drops(UNIT, IMAGES, 0), "a square of 0 that moves by 1"),
        (lambda: metrics.occlusion_drops(UNIT, IMAGES, 4, stride=0), "a square of 4 that moves by 0"),
        (lambda: metrics.occlusion_agreement(MAPS, noise(2, 6, 5), 4), "drops of shape (2, 6, 5) do not come"),
        (lambda: metrics.occlusion_agreement(MAPS, noise(2, 1, 5), 4), "square of 4 on images of 12 x 12"),
        (lambda: metrics.occlusion_agreement(MAPS, noise(2, 2, 2), 12), "square of 12 on images of 12 x 12"),
        (lambda: metrics.occlusion_agreement(MAPS, noise(2, 1, 1), 13), "square of 13 on images of 12 x 12"),
        (lambda: metrics.occlusion_agreement(MAPS, noise(2, 5), 4), "drops of shape (2, 5) do not come"),
        (lambda: metrics.occlusion_agreement(MAPS, noise(1, 5, 5), 4), "2 maps do not fit the drops of 1 images"),
        (lambda: metrics.occlusion_agreement(MAPS, noise(2, 5, 5) / 0, 4), "2 of 2 drops hold NaN"),
        (lambda: metrics.occlusion_ceiling(noise(2, 5, 5) / 0, 4, noise(2, 5, 5), 4, IMAGES), "2 of 2 drops hold"),
        (lambda: metrics.mosaics(noise(1, 8, 3, 4, 4)), "not of shape (1, 8, 3, 4, 4)"),
        (lambda: metrics.mosaics(MAPS), "a mosaic is made of N x 9 x C x H x W"),
        (lambda: metrics.grid_scores(MAPS[..., :11], 0), "maps of 12 x 11 cannot be cut into 3 x 3 equal cells"),
        (lambda: metrics.grid_scores(MAPS, 9), "the cells of 3 x 3 are 0 to 8"),
        (lambda: metrics.grid_scores(MAPS, [0, 1, 2]), "one for all maps or one for each of 2"),
        (lambda: metrics.grid_scores(MAPS, torch.tensor([0.0, 1.0])), "cells are whole numbers"),
        (lambda: metrics.with_upper_layers_random(nn.Linear(1, 1), 0), "share must be above 0 and at most 1, not 0"),
        (lambda: metrics.cosine_similarity(MAPS, MAPS[:1]), "do not fit others of shape (1, 3, 12, 12)"),
        (lambda: metrics.cosine_similarity(MAPS, MAPS / 0), "2 of 2 others hold NaN or infinity"),
        (lambda: metrics.structural_similarity(MAPS[..., :10], MAPS[..., :10]), "maps of 12 x 10 are too small"),
        (lambda: metrics.maps_of_random_signals(nn.Identity(), MAPS, 0), "count must be at least 1, not 0"),
        (lambda: metrics.signal_convergence(MAPS[:, None]), "at least two signals, not of shape (2, 1, 3, 12, 12)"),
        (lambda: metrics.signal_convergence(MAPS), "maps must be N x signals x C x H x W"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_one_line(call: Callable[[], object], says: str) -> None:
    """With the shapes that were given."""
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [np.zeros((2, 3, 4, 4)), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)])
def test_maps_are_float_tensors(wrong: Any) -> None:
    """Arrays and bytes are told so."""
    with pytest.raises(TypeError, match=r"maps must be a float tensor of N x C x H x W, not (ndarray|torch.uint8)"):
        metrics.magnitude(wrong)


def test_nothing_that_is_given_is_changed() -> None:
    """Maps and images are as before, and no graph hangs on a result, also when they carry one."""
    maps, images = MAPS.clone().requires_grad_(), IMAGES.clone().requires_grad_()
    for name, measure in OF_MAPS.items():
        found = measure(maps)
        assert isinstance(found, Tensor), name
        assert not found.requires_grad, name
    metrics.insertion(UNIT, images, maps)
    assert torch.equal(maps, MAPS)
    assert torch.equal(images, IMAGES)
