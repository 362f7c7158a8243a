"""Insertion, deletion and occlusion find what was planted, and agree with loops that change one pixel at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_metrics import (
    SIGNAL,
    Planted,
    noise,
    planted,
    slow_area,
    slow_blur,
    slow_boxes,
    slow_curve,
    slow_drops,
    slow_laid,
    slow_magnitude,
    slow_spearman,
    undefined,
)
from torch import Tensor

from attribkit import metrics


@pytest.mark.parametrize("fill", ["zero", "blur", "tensor"])
@pytest.mark.parametrize("insert", [True, False])
def test_curves_are_those_of_single_pixels(insert: bool, fill: str) -> None:
    """One pixel a step equals a loop that changes one pixel after the other, for a unit that is not linear."""
    images, maps = noise(2, 3, 5, 4).abs(), noise(2, 3, 5, 4, seed=1)
    weights = noise(3, 5, 4, seed=2)

    def ask(pictures: Tensor) -> Tensor:
        return (pictures * weights).sum((1, 2, 3)).tanh() + pictures.square().mean((1, 2, 3)) + 3

    given_ = noise(2, 3, 5, 4, seed=3)
    filling = {"zero": torch.zeros_like(images), "blur": slow_blur(images), "tensor": given_}[fill]
    options: dict[str, Any] = {"fill": given_ if fill == "tensor" else fill, "steps": 20}
    curves = metrics.response_curves(ask, images, maps, insert=insert, **options)
    area = (metrics.insertion if insert else metrics.deletion)(ask, images, maps, **options)
    for n in range(2):
        expected = slow_curve(ask, images[n], maps[n], filling[n], insert)
        torch.testing.assert_close(curves[n].tolist(), expected)
        assert float(area[n]) == pytest.approx(slow_area(expected))


def test_the_map_that_knows_the_units_pixels_wins() -> None:
    """The unit sees a quarter: its mask reaches 1 after a quarter of the pixels, and beats every baseline."""
    unit, images, mask = planted()
    options: dict[str, Any] = {"steps": 16}
    curves = metrics.response_curves(unit, images, mask, insert=True, **options)
    assert bool((curves[:, 4:] - 1).abs().max() < 1e-9)
    right = metrics.insertion(unit, images, mask, **options), metrics.deletion(unit, images, mask, **options)
    assert bool((right[0] > 0.86).all())
    assert bool((right[1] < 0.14).all())
    for make in (metrics.sobel_maps, metrics.centred_gaussian_maps, metrics.random_maps):
        assert bool((metrics.insertion(unit, images, make(images), **options) < right[0] - 0.2).all())
        assert bool((metrics.deletion(unit, images, make(images), **options) > right[1] + 0.2).all())
    worst = metrics.insertion(unit, images, 1 - mask, **options)
    assert bool((worst < 0.14).all())


@pytest.mark.parametrize("measure", [metrics.insertion, metrics.deletion])
def test_constant_and_random_maps_give_one_half(measure: Callable[..., Tensor]) -> None:
    """For a unit that adds up pixels: pixels of equal magnitude come in random order, not from the top left."""
    unit, images, _ = planted(32)
    for maps in (torch.ones(3, 1, 32, 32), -torch.ones(3, 3, 32, 32), metrics.random_maps(images)):
        assert measure(unit, images, maps).tolist() == pytest.approx([0.5] * 3, abs=0.05)
    constant = torch.ones(3, 1, 32, 32)
    one, same, other = (measure(unit, images, constant, seed=seed).tolist() for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_the_steps_of_an_image_are_one_batch_and_units_may_differ() -> None:
    """Three images, three functions, each asked once; 35 pixels go in 8 steps that are nearly equal."""
    units = [Planted(noise(2, 5, 7, seed=n).abs()) for n in range(3)]
    images, maps = noise(3, 2, 5, 7).abs(), noise(3, 1, 5, 7, seed=9)
    found = metrics.insertion(units, images, maps, steps=8)
    assert [unit.batches for unit in units] == [[9]] * 3
    for n in range(3):
        curve = slow_curve(units[n], images[n], maps[n], torch.zeros(2, 5, 7), True)
        counts = [round(k * 35 / 8) for k in range(9)]
        pairs = itertools.pairwise(counts)
        assert float(found[n]) == pytest.approx(sum((curve[a] + curve[b]) / 2 * (b - a) / 35 for a, b in pairs))


def test_no_curve_where_there_is_no_order_or_no_response() -> None:
    """A map that is zero everywhere, and a unit that the full image does not excite, are undefined."""
    unit, images, mask = planted()
    images[1] *= -1
    maps = mask.clone()
    maps[2] = 0
    for measure in (metrics.insertion, metrics.deletion):
        assert undefined(measure(unit, images, maps, steps=4)) == [False, True, True]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 4),
    stride=st.integers(1, 3),
    extra=st.tuples(st.integers(0, 3), st.integers(1, 3)),
    batch_size=st.integers(1, 9),
)
def test_occlusion_is_that_of_a_loop(
    seed: int, size: int, stride: int, extra: tuple[int, int], batch_size: int
) -> None:
    """Drops, agreement and ceiling, for windows that overlap, touch or leave no gap at the edges, and any batch."""
    sides = (size + extra[0] * stride, size + extra[1] * stride)
    images, maps = noise(2, 2, *sides, seed=seed), noise(2, 3, *sides, seed=seed + 1)
    weights, fill = noise(2, *sides, seed=seed + 2), noise(2, 2, *sides, seed=seed + 3)

    def ask(pictures: Tensor) -> Tensor:
        return (pictures * weights).sum((1, 2, 3)).exp()  # so steep that many drops are ties

    drops = metrics.occlusion_drops(ask, images, size, stride=stride, fill=fill, batch_size=batch_size)
    agreement = metrics.occlusion_agreement(maps, drops, size)
    fine = metrics.occlusion_drops(ask, images, 1, stride=1)
    ceiling = metrics.occlusion_ceiling(fine, 1, drops, size, images)
    back = metrics.occlusion_ceiling(drops, size, fine, 1, images) if stride <= size else None
    for n in range(2):
        slow = np.array(slow_drops(ask, images[n], size, stride, fill[n]))
        torch.testing.assert_close(drops[n].numpy(), slow)
        boxes = slow_boxes(slow_magnitude(maps[n].numpy()), size, stride)
        assert float(agreement[n]) == pytest.approx(slow_spearman(boxes, slow), abs=1e-9, nan_ok=True)
        single = np.array(slow_drops(ask, images[n], 1, 1, torch.zeros(2, *sides)))
        assert float(ceiling[n]) == pytest.approx(
            slow_spearman(slow_boxes(single, size, stride), slow), abs=1e-9, nan_ok=True
        )
        if back is not None:
            laid = slow_laid(slow, size, stride, sides)
            assert float(back[n]) == pytest.approx(slow_spearman(laid, single), abs=1e-9, nan_ok=True)


def test_the_map_that_is_the_units_own_agrees_with_occlusion() -> None:
    """A linear unit: input times weight agrees wholly at every size; noise not at all; two sizes agree well."""
    weights = noise(1, 16, 16, seed=5).abs() * torch.linspace(0, 1, 16).double() ** 2
    unit, images = Planted(weights), noise(4, 2, 16, 16).abs() + 1
    maps = (images * weights).expand_as(images)
    drops = {size: metrics.occlusion_drops(unit, images, size) for size in (4, 8)}
    for size in drops:
        assert metrics.occlusion_agreement(maps, drops[size], size).tolist() == pytest.approx([1.0] * 4)
    assert bool((metrics.occlusion_ceiling(drops[4], 4, drops[8], 8, images) > 0.9).all())
    many = torch.cat([metrics.random_maps(images, seed) for seed in range(20)])
    chance = metrics.occlusion_agreement(many, drops[4].repeat(20, 1, 1), 4)
    assert float(chance.mean()) == pytest.approx(0, abs=0.1)


def test_a_constant_map_and_an_idle_unit_have_no_agreement() -> None:
    """They are undefined, also where rounding makes a constant uneven."""
    unit, images, mask = planted()
    drops = metrics.occlusion_drops(unit, images, 4)
    for value in (0.0, 0.1, 1e-20):
        maps = torch.full((3, 3, 12, 12), value, dtype=torch.float32)
        assert undefined(metrics.occlusion_agreement(maps, drops, 4)) == [True] * 3
    idle = metrics.occlusion_drops(lambda x: x.new_ones(len(x)), images, 4)
    assert undefined(metrics.occlusion_agreement(mask, idle, 4)) == [True] * 3
    assert undefined(metrics.occlusion_ceiling(drops, 4, idle, 4, images)) == [True] * 3


def test_drops_that_rise_count_as_such() -> None:
    """A pixel that speaks against the unit gives a negative drop; the ceiling keeps the sign, a map's magnitude not."""
    images = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    weights = torch.linspace(-1, 1, 16, dtype=torch.float64).view(1, 4, 4)
    drops = metrics.occlusion_drops(Planted(weights), images, 1)
    assert float(drops.min()) == pytest.approx(-SIGNAL)
    assert float(metrics.occlusion_ceiling(drops, 1, drops, 1, images)) == pytest.approx(1)
    assert abs(float(metrics.occlusion_agreement(weights[None], drops, 1))) < 0.2
