"""A map's source is found where it was planted, by chance where nothing can be found, and as a slow loop finds it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_metrics import noise, slow_leads, slow_sources

from attribkit import metrics


def test_a_map_that_is_its_image_is_found() -> None:
    """As it is, negative, in one colour, in float32 and after a high-pass; and so is one with much noise upon it."""
    images = noise(12, 3, 16, 16)
    high = images - torch.nn.functional.avg_pool2d(images, 3, 1, 1)
    for maps in (
        images,
        -images,
        images.sum(1, keepdim=True),
        images.float(),
        high,
        images + noise(12, 3, 16, 16, seed=1),
    ):
        assert metrics.found_sources(maps, images).tolist() == [True] * 12


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 9), width=st.integers(2, 9), weight=st.floats(0, 1))
def test_sources_are_found_where_a_loop_finds_them(seed: int, height: int, width: int, weight: float) -> None:
    """For images as small as they come and maps that are partly noise."""
    images = noise(6, 2, height, width, seed=seed)
    maps = weight * images + (1 - weight) * noise(6, 2, height, width, seed=seed + 1)
    assert metrics.found_sources(maps, images).tolist() == slow_sources(maps, images)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), weight=st.floats(0, 1))
def test_leads_are_those_of_a_loop(seed: int, weight: float) -> None:
    """With sources of their own, and a map that is zero among them: it fits no image and so leads by nothing."""
    images = noise(6, 2, 7, 8, seed=seed)
    maps = weight * images[[3, 0, 0]] + (1 - weight) * noise(3, 2, 7, 8, seed=seed + 1)
    maps[1] = 0
    found = metrics.source_leads(maps, images, torch.tensor([3, 0, 2]))
    assert found.tolist() == pytest.approx(slow_leads(maps, images, [3, 0, 2]), abs=1e-9)
    assert found[1] == 0


def test_many_images_are_looked_through_part_by_part() -> None:
    """The best rival may be in any part."""
    images = noise(600, 1, 6, 6)
    maps = images[[10, 590]] + 0.1 * images[[580, 20]]
    found = metrics.source_leads(maps, images, torch.tensor([10, 590]))
    assert found.tolist() == pytest.approx(slow_leads(maps, images, [10, 590]), abs=1e-9)
    rivals = metrics.source_leads(maps, images, torch.tensor([580, 20]))
    assert (rivals < -0.5).all()


def test_of_random_maps_one_in_n_is_found() -> None:
    """Chance is 1/N: of 400 maps with 10 images a tenth."""
    found = metrics.found_sources(noise(400, 1, 12, 12), noise(10, 3, 12, 12, seed=1), torch.arange(400) % 10)
    assert float(found.double().mean()) == pytest.approx(0.1, abs=0.045)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7, 1e-30])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_constant_map_fits_no_image(value: float, dtype: torch.dtype) -> None:
    """It is less than chance: never found, also where rounding leaves something of it."""
    value = 0.1 if abs(value) > 1 and dtype is torch.float16 else value
    images = noise(5, 3, 9, 9)
    maps = torch.full((5, 3, 9, 9), value, dtype=dtype)
    maps[:, 0] *= 1.1
    assert metrics.found_sources(maps, images).tolist() == [False] * 5
    assert bool(metrics.source_correlations(maps, images).isnan().all())
    assert metrics.found_sources(maps[:1], images[:1]).tolist() == [False]


def test_one_map_for_every_image_is_right_once_at_most() -> None:
    """That is chance exactly: a deconvnet without switches can do no better."""
    images = noise(8, 3, 10, 10)
    assert metrics.found_sources(noise(1, 3, 10, 10, seed=1).expand(8, -1, -1, -1), images).sum() == 1


def test_a_tie_is_not_found() -> None:
    """Where an image occurs twice neither is; the same detail on another ground is a tie too."""
    images = noise(4, 3, 10, 10)
    images[3] = 2 * images[0] + 5
    assert metrics.found_sources(images, images).tolist() == [False, True, True, False]


def test_several_maps_may_come_from_one_image() -> None:
    """`sources` says from which."""
    images = noise(4, 3, 10, 10)
    maps = images[[2, 2, 0]]
    assert metrics.found_sources(maps, images, torch.tensor([2, 1, 0])).tolist() == [True, False, True]
