"""Metrics find what was planted, give chance where nothing can be found, and agree with slow loops over numbers."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import attribkit
from attribkit.metrics import evaluation

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


# Oracles: loops over numbers ---------------------------------------------------------------------------------------


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


# 1. Image dependence -----------------------------------------------------------------------------------------------


class PoolNet(nn.Module):
    """Two convolutions, and a pool between them where one is wanted."""

    def __init__(self, pools: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.between = nn.MaxPool2d(2) if pools else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(self.between(torch.relu(self.conv1(x)))))


@pytest.mark.parametrize(("pools", "switches"), [(False, "own"), (True, "uniform"), (True, "own")])
def test_a_deconvnet_without_switches_gives_every_image_the_same_map(pools: bool, switches: str) -> None:
    """A theorem: 0 up to rounding without pools or with uniform switches; own switches and the other rules differ."""
    with torch.random.fork_rng(devices=[]):
        net = PoolNet(pools).double()
    unit: dict[str, Any] = {"layer": "conv2", "channel": 2, "at": (1, 1), "switches": switches}
    found = {
        rule: evaluation.image_dependence(attribkit.explain(net, noise(5, 3, 12, 12), rule, **unit).values)
        for rule in ("deconvnet", "guided", "backprop")
    }
    if pools and switches == "own":
        assert bool((found["deconvnet"] > 0.05).all())
    else:
        assert found["deconvnet"].abs().max() < 1e-12
    assert bool((found["guided"] > 0.05).all())
    assert bool((found["backprop"] > 0.05).all())


def test_image_dependence_is_that_of_a_loop_and_knows_no_scale() -> None:
    """Each image's value is 1 minus the mean of its cosines with the others, whatever the maps' positive scales."""
    maps = noise(4, 3, 5, 6)
    rows = maps.numpy()
    expected = [
        1 - sum(slow_cosine(rows[i], rows[j]) for j in range(4) if j != i) / 3 for i in range(4)
    ]  # fmt: skip
    for scale in (1.0, 1e-200, 1e200):
        scales = scale * torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)[:, None, None, None]
        torch.testing.assert_close(evaluation.image_dependence(maps * scales).tolist(), expected)


def test_image_dependence_of_opposite_and_of_random_maps() -> None:
    """Random maps: 1, which is chance. A map and its negative: 2."""
    one = noise(1, 3, 4, 4)
    assert evaluation.image_dependence(torch.cat([one, -one])).tolist() == pytest.approx([2, 2])
    assert float(evaluation.image_dependence(noise(20, 3, 32, 32)).mean()) == pytest.approx(1, abs=0.01)


def test_a_zero_map_has_no_image_dependence_and_spoils_no_other() -> None:
    """It is NaN, and the others have the values that they have without it."""
    maps = noise(4, 3, 5, 5)
    maps[1] = 0
    values = evaluation.image_dependence(maps)
    assert undefined(values) == [False, True, False, False]
    torch.testing.assert_close(values[[0, 2, 3]], evaluation.image_dependence(maps[[0, 2, 3]]))
    maps[[0, 2]] = 0
    assert undefined(evaluation.image_dependence(maps)) == [True] * 4


# 2. Source retrieval -----------------------------------------------------------------------------------------------


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
        assert evaluation.found_sources(maps, images).tolist() == [True] * 12


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 9), width=st.integers(2, 9), weight=st.floats(0, 1))
def test_sources_are_found_where_a_loop_finds_them(seed: int, height: int, width: int, weight: float) -> None:
    """For images as small as they come and maps that are partly noise."""
    images = noise(6, 2, height, width, seed=seed)
    maps = weight * images + (1 - weight) * noise(6, 2, height, width, seed=seed + 1)
    assert evaluation.found_sources(maps, images).tolist() == slow_sources(maps, images)


def test_of_random_maps_one_in_n_is_found() -> None:
    """Chance is 1/N: of 400 maps with 10 images a tenth."""
    found = evaluation.found_sources(noise(400, 1, 12, 12), noise(10, 3, 12, 12, seed=1), torch.arange(400) % 10)
    assert float(found.double().mean()) == pytest.approx(0.1, abs=0.045)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7, 1e-30])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_constant_map_fits_no_image(value: float, dtype: torch.dtype) -> None:
    """It is less than chance: never found, also where rounding leaves something of it."""
    value = 0.1 if abs(value) > 1 and dtype is torch.float16 else value
    images = noise(5, 3, 9, 9)
    maps = torch.full((5, 3, 9, 9), value, dtype=dtype)
    maps[:, 0] *= 1.1
    assert evaluation.found_sources(maps, images).tolist() == [False] * 5
    assert bool(evaluation.source_correlations(maps, images).isnan().all())
    assert evaluation.found_sources(maps[:1], images[:1]).tolist() == [False]


def test_one_map_for_every_image_is_right_once_at_most() -> None:
    """That is chance exactly: a deconvnet without switches can do no better."""
    images = noise(8, 3, 10, 10)
    assert evaluation.found_sources(noise(1, 3, 10, 10, seed=1).expand(8, -1, -1, -1), images).sum() == 1


def test_a_tie_is_not_found() -> None:
    """Where an image occurs twice neither is; the same detail on another ground is a tie too."""
    images = noise(4, 3, 10, 10)
    images[3] = 2 * images[0] + 5
    assert evaluation.found_sources(images, images).tolist() == [False, True, True, False]


def test_several_maps_may_come_from_one_image() -> None:
    """`sources` says from which."""
    images = noise(4, 3, 10, 10)
    maps = images[[2, 2, 0]]
    assert evaluation.found_sources(maps, images, torch.tensor([2, 1, 0])).tolist() == [True, False, True]


def test_the_edges_are_sobels() -> None:
    """Against the eight weights written out; edge pixels are repeated outwards. They find themselves among edges."""
    images = noise(4, 3, 6, 7)
    found = evaluation.sobel_maps(images)
    for n in range(4):
        grey = np.pad(images[n].numpy().mean(0), 1, mode="edge")
        for y, x in np.ndindex(6, 7):
            (a, b, c), (d, _, f), (g, h, i) = grey[y : y + 3, x : x + 3]
            expected = math.hypot(c + 2 * f + i - a - 2 * d - g, g + 2 * h + i - a - 2 * b - c)
            assert float(found[n, 0, y, x]) == pytest.approx(expected)
    assert evaluation.found_sources(found, evaluation.sobel_maps(images)).tolist() == [True] * 4


# 3. Insertion and deletion -----------------------------------------------------------------------------------------


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
    curves = evaluation.response_curves(ask, images, maps, insert=insert, **options)
    area = (evaluation.insertion if insert else evaluation.deletion)(ask, images, maps, **options)
    for n in range(2):
        expected = slow_curve(ask, images[n], maps[n], filling[n], insert)
        torch.testing.assert_close(curves[n].tolist(), expected)
        assert float(area[n]) == pytest.approx(slow_area(expected))


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


def test_the_map_that_knows_the_units_pixels_wins() -> None:
    """The unit sees a quarter: its mask reaches 1 after a quarter of the pixels, and beats every baseline."""
    unit, images, mask = planted()
    options: dict[str, Any] = {"steps": 16}
    curves = evaluation.response_curves(unit, images, mask, insert=True, **options)
    assert bool((curves[:, 4:] - 1).abs().max() < 1e-9)
    right = evaluation.insertion(unit, images, mask, **options), evaluation.deletion(unit, images, mask, **options)
    assert bool((right[0] > 0.86).all())
    assert bool((right[1] < 0.14).all())
    for make in (evaluation.sobel_maps, evaluation.centred_gaussian_maps, evaluation.random_maps):
        assert bool((evaluation.insertion(unit, images, make(images), **options) < right[0] - 0.2).all())
        assert bool((evaluation.deletion(unit, images, make(images), **options) > right[1] + 0.2).all())
    worst = evaluation.insertion(unit, images, 1 - mask, **options)
    assert bool((worst < 0.14).all())


@pytest.mark.parametrize("measure", [evaluation.insertion, evaluation.deletion])
def test_constant_and_random_maps_give_one_half(measure: Callable[..., Tensor]) -> None:
    """For a unit that adds up pixels: pixels of equal magnitude come in random order, not from the top left."""
    unit, images, _ = planted(32)
    for maps in (torch.ones(3, 1, 32, 32), -torch.ones(3, 3, 32, 32), evaluation.random_maps(images)):
        assert measure(unit, images, maps).tolist() == pytest.approx([0.5] * 3, abs=0.05)
    constant = torch.ones(3, 1, 32, 32)
    one, same, other = (measure(unit, images, constant, seed=seed).tolist() for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_the_steps_of_an_image_are_one_batch_and_units_may_differ() -> None:
    """Three images, three functions, each asked once; 35 pixels go in 8 steps that are nearly equal."""
    units = [Planted(noise(2, 5, 7, seed=n).abs()) for n in range(3)]
    images, maps = noise(3, 2, 5, 7).abs(), noise(3, 1, 5, 7, seed=9)
    found = evaluation.insertion(units, images, maps, steps=8)
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
    for measure in (evaluation.insertion, evaluation.deletion):
        assert undefined(measure(unit, images, maps, steps=4)) == [False, True, True]


def test_the_gaussian_is_in_the_middle_and_noise_is_seeded() -> None:
    """By the formula at one pixel; the baselines have a map an image."""
    images = noise(2, 3, 9, 5)
    hill = evaluation.centred_gaussian_maps(images, width=0.5)
    assert hill.shape == (2, 1, 9, 5)
    assert float(hill[1, 0, 4, 2]) == 1
    assert float(hill[0, 0, 0, 3]) == pytest.approx(math.exp(-(0.5**2 + 0.25**2) / 0.5))
    assert evaluation.centred_gaussian_maps(noise(1, 1, 1, 3)).flatten().tolist() == pytest.approx(
        [math.exp(-2), 1, math.exp(-2)]
    )
    one, same, other = (evaluation.random_maps(images, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


# 4. Agreement with occlusion ---------------------------------------------------------------------------------------


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

    drops = evaluation.occlusion_drops(ask, images, size, stride=stride, fill=fill, batch_size=batch_size)
    agreement = evaluation.occlusion_agreement(maps, drops, size)
    fine = evaluation.occlusion_drops(ask, images, 1, stride=1)
    ceiling = evaluation.occlusion_ceiling(fine, 1, drops, size, images)
    back = evaluation.occlusion_ceiling(drops, size, fine, 1, images) if stride <= size else None
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
    drops = {size: evaluation.occlusion_drops(unit, images, size) for size in (4, 8)}
    for size in drops:
        assert evaluation.occlusion_agreement(maps, drops[size], size).tolist() == pytest.approx([1.0] * 4)
    assert bool((evaluation.occlusion_ceiling(drops[4], 4, drops[8], 8, images) > 0.9).all())
    many = torch.cat([evaluation.random_maps(images, seed) for seed in range(20)])
    chance = evaluation.occlusion_agreement(many, drops[4].repeat(20, 1, 1), 4)
    assert float(chance.mean()) == pytest.approx(0, abs=0.1)


def test_a_constant_map_and_an_idle_unit_have_no_agreement() -> None:
    """They are undefined, also where rounding makes a constant uneven."""
    unit, images, mask = planted()
    drops = evaluation.occlusion_drops(unit, images, 4)
    for value in (0.0, 0.1, 1e-20):
        maps = torch.full((3, 3, 12, 12), value, dtype=torch.float32)
        assert undefined(evaluation.occlusion_agreement(maps, drops, 4)) == [True] * 3
    idle = evaluation.occlusion_drops(lambda x: x.new_ones(len(x)), images, 4)
    assert undefined(evaluation.occlusion_agreement(mask, idle, 4)) == [True] * 3
    assert undefined(evaluation.occlusion_ceiling(drops, 4, idle, 4, images)) == [True] * 3


def test_drops_that_rise_count_as_such() -> None:
    """A pixel that speaks against the unit gives a negative drop; the ceiling keeps the sign, a map's magnitude not."""
    images = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    weights = torch.linspace(-1, 1, 16, dtype=torch.float64).view(1, 4, 4)
    drops = evaluation.occlusion_drops(Planted(weights), images, 1)
    assert float(drops.min()) == pytest.approx(-SIGNAL)
    assert float(evaluation.occlusion_ceiling(drops, 1, drops, 1, images)) == pytest.approx(1)
    assert abs(float(evaluation.occlusion_agreement(weights[None], drops, 1))) < 0.2


# 5. The grid game --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_mosaic_has_its_images_row_by_row(side: int) -> None:
    """Each cell of it is the image of that number, and a score is that of a loop."""
    images = noise(2, side * side, 3, 4, 5)
    found = evaluation.mosaics(images)
    assert found.shape == (2, 3, 4 * side, 5 * side)
    maps = noise(2, 3, 4 * side, 5 * side, seed=1)
    for cell in range(side * side):
        y, x = cell // side, cell % side
        assert torch.equal(found[:, :, 4 * y : 4 * y + 4, 5 * x : 5 * x + 5], images[:, cell])
        expected = [slow_share(one, cell, side) for one in maps.numpy()]
        torch.testing.assert_close(evaluation.grid_scores(maps, cell, side).tolist(), expected)


def test_the_grid_game_is_won_by_the_right_cell() -> None:
    """All in it: 1; all beside it: 0; a constant map or noise: 1/9; what is negative does not count."""
    maps = torch.zeros(9, 3, 18, 18, dtype=torch.float64)
    for cell in range(9):
        maps[cell, :, 6 * (cell // 3) : 6 * (cell // 3) + 6, 6 * (cell % 3) : 6 * (cell % 3) + 6] = 0.3
    assert evaluation.grid_scores(maps, torch.arange(9)).tolist() == pytest.approx([1.0] * 9)
    assert evaluation.grid_scores(maps - 0.2 * (maps == 0), list(range(9))).tolist() == pytest.approx([1.0] * 9)
    assert evaluation.grid_scores(maps, (torch.arange(9) + 1) % 9).tolist() == [0.0] * 9
    assert evaluation.grid_scores(torch.ones(2, 3, 9, 9), 4).tolist() == pytest.approx([1 / 9] * 2)
    assert float(evaluation.grid_scores(noise(50, 3, 30, 30), 7).mean()) == pytest.approx(1 / 9, abs=0.01)
    assert undefined(evaluation.grid_scores(-maps, 0)) == [True] * 9


def test_colours_are_added_before_the_sign_is_asked() -> None:
    """A pixel of +1 in one colour and -1 in another has nothing positive."""
    maps = torch.zeros(1, 3, 3, 3)
    maps[0, 0], maps[0, 1] = 1, -1
    maps[0, 2, 0, 0] = 2
    assert evaluation.grid_scores(maps, 0).tolist() == [1]


# 6. Randomised weights, classes, start signals ---------------------------------------------------------------------


class Small(nn.Module):
    """Four layers, with a norm before the first, between and after, and a dropout that counts for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.norm0 = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 8, 3, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.block = nn.Sequential(
            nn.ReLU(), nn.Conv2d(8, 40, 3, groups=4), nn.GroupNorm(2, 40), nn.PReLU(), nn.Dropout()
        )
        self.conv3 = nn.ConvTranspose2d(40, 6, 2)
        self.head = nn.Linear(6, 50)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.norm1(self.conv1(self.norm0(x))))
        return self.head(torch.relu(self.conv3(x)).mean((2, 3)))


def learnt() -> Small:
    """With every number of it changed from what a constructor gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = Small()
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 5)
    return net


LAYERS = {
    "head": {"head.weight", "head.bias"},
    "conv3": {"conv3.weight", "conv3.bias"},
    "block.1": {"block.1.weight", "block.1.bias", "block.2.weight", "block.2.bias", "block.3.weight"},
    "conv1": {"conv1.weight"}
    | {f"norm{n}.{name}" for n in (0, 1) for name in ("weight", "bias", "running_mean", "running_var")},
}


def changed(one: nn.Module, other: nn.Module) -> set[str]:
    theirs = other.state_dict()
    return {name for name, value in one.state_dict().items() if not torch.equal(value, theirs[name])}


def test_a_cascade_loses_one_layer_after_the_other() -> None:
    """From the top, norms with the layer before them; each copy keeps what was drawn before; the model is untouched."""
    net = learnt()
    before = copy.deepcopy(net.state_dict())
    copies = list(evaluation.cascade(net))
    assert [name for name, _ in copies] == list(LAYERS)
    lost: set[str] = set()
    previous: nn.Module = net
    for name, made in copies:
        assert changed(previous, made) - {"norm0.num_batches_tracked"} == LAYERS[name]
        lost |= LAYERS[name]
        assert changed(net, made) == lost
        previous = made
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    shared = {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for _, m in copies for p in m.parameters()}
    assert not shared
    assert len({p.data_ptr() for _, made in copies for p in made.parameters()}) == 4 * len(list(net.parameters()))


def test_what_a_cascade_draws_is_hes() -> None:
    """Mean zero and variance 2 / fan-in, biases zero, norms as new; drawn from the seed and from nothing else."""
    net = learnt()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        state = torch.get_rng_state()
        *_, (_, made) = evaluation.cascade(net, seed=5)
        assert torch.equal(torch.get_rng_state(), state)
    found = made.state_dict()
    for name, fan_in in (("conv1", 27), ("block.1", 18), ("head", 6)):
        weight = found[f"{name}.weight"]
        assert abs(float(weight.mean())) < 4 * math.sqrt(2 / fan_in / weight.numel())
        assert float(weight.var()) == pytest.approx(2 / fan_in, rel=6 / math.sqrt(weight.numel()))
    assert not any(float(found[name].abs().sum()) for name in ("head.bias", "conv3.bias", "block.1.bias", "norm0.bias"))
    assert bool((found["norm1.weight"] == 1).all())
    assert bool((found["norm1.running_var"] == 1).all())
    assert bool((found["block.3.weight"] == 0.25).all())
    *_, (_, again) = evaluation.cascade(net, seed=5)
    *_, (_, other) = evaluation.cascade(net, seed=6)
    assert changed(made, again) == set()
    assert changed(made, other) == {f"{name}.weight" for name in LAYERS}


@pytest.mark.parametrize(("share", "count"), [(1 / 3, 1), (0.5, 2), (0.01, 1), (0.7, 3), (1, 4)])
def test_the_upper_share_is_a_step_of_the_cascade(share: float, count: int) -> None:
    """The copy that has lost so many layers, rounded and at least one."""
    net = learnt()
    made = evaluation.with_upper_layers_random(net, share, seed=2)
    steps = list(evaluation.cascade(net, seed=2))
    assert changed(made, steps[count - 1][1]) == set()
    assert made is not net


def test_parameters_that_stay_are_named() -> None:
    """A parameter of no layer, and a weight that is computed, are warned of; no layer at all is an error."""
    net = nn.Sequential(
        nn.Embedding(4, 3), nn.Linear(3, 3), torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    )
    with pytest.warns(UserWarning, match=r"these keep their parameters: 0 \(Embedding\), 2 \(Param.*, 2\.param"):
        (name, made), *rest = evaluation.cascade(net)
    assert (name, rest) == ("1", [])
    assert changed(net, made) == {"1.weight", "1.bias"}
    with pytest.raises(ValueError, match="Sequential has no convolution and no linear module to make random"):
        next(evaluation.cascade(nn.Sequential(nn.ReLU())))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.integers(1, 50), colours=st.integers(1, 3))
def test_similarities_are_those_of_loops(seed: int, levels: int, colours: int) -> None:
    """Cosine of maps, Spearman and SSIM of magnitudes, with few levels and thus many ties, too."""
    maps, others = ((noise(2, colours, 12, 13, seed=s) * levels).round() / levels for s in (seed, seed + 1))
    one, other = maps.numpy(), others.numpy()
    cosine, rank = evaluation.cosine_similarity(maps, others), evaluation.rank_similarity(maps, others)
    structure = evaluation.structural_similarity(maps, others)
    for n in range(2):
        assert float(cosine[n]) == pytest.approx(slow_cosine(one[n], other[n]), abs=1e-9)
        a, b = slow_magnitude(one[n]), slow_magnitude(other[n])
        assert float(rank[n]) == pytest.approx(slow_spearman(a, b), abs=1e-9)
        assert float(structure[n]) == pytest.approx(slow_ssim(a, b), abs=1e-6)


def test_a_map_is_like_itself_and_noise_is_like_nothing() -> None:
    """1 for the same map at any scale, by all three, about 0 for noise, and -1 by the cosine for the negative one."""
    maps = noise(10, 3, 32, 32)
    for alike in (evaluation.cosine_similarity, evaluation.rank_similarity, evaluation.structural_similarity):
        assert alike(maps, 7 * maps).tolist() == pytest.approx([1.0] * 10)
        assert float(alike(maps, noise(10, 3, 32, 32, seed=1)).mean()) == pytest.approx(0, abs=0.05)
    assert evaluation.cosine_similarity(maps, -maps).tolist() == pytest.approx([-1.0] * 10)
    assert evaluation.rank_similarity(maps, -maps).tolist() == pytest.approx([1.0] * 10)


def test_a_zero_map_is_like_nothing_and_a_constant_one_has_no_ranks() -> None:
    """Undefined, each alone."""
    maps, others = noise(3, 2, 12, 12), noise(3, 2, 12, 12, seed=1)
    maps[0] = 0
    others[2] = 0.1
    assert undefined(evaluation.cosine_similarity(maps, others)) == [True, False, False]
    assert undefined(evaluation.rank_similarity(maps, others)) == [True, False, True]
    assert undefined(evaluation.structural_similarity(maps, others)) == [True, False, False]


def test_rounding_has_no_ranks() -> None:
    """What differs by less than a millionth of the largest value is a tie."""
    steps = torch.linspace(0, 1, 144, dtype=torch.float64).view(1, 1, 12, 12)
    trembling = (steps > 0.5).double() + 1e-8 * noise(1, 1, 12, 12)
    still = (steps > 0.5).double()
    assert float(evaluation.rank_similarity(trembling, steps)) == float(evaluation.rank_similarity(still, steps))


def test_randomisation_and_class_move_a_gradient() -> None:
    """On a small net: backprop of other weights, and of another logit, is another map; else the same."""
    net, images = learnt().double().eval(), noise(2, 3, 14, 14)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(noise(*parameter.shape, seed=7) / 3)
    maps, same, other = (attribkit.explain(net, images, "backprop", target=t).values for t in (3, 3, 5))
    assert evaluation.cosine_similarity(maps, same).tolist() == pytest.approx([1, 1])
    assert bool((evaluation.cosine_similarity(maps, other) < 0.9).all())
    random = attribkit.explain(evaluation.with_upper_layers_random(net), images, "backprop", target=3).values
    assert bool((evaluation.rank_similarity(maps, random) < 0.99).all())


def test_start_signals_converge_in_a_net_of_one_path_only() -> None:
    """Through one positive channel every signal gives the same map; through many of both signs they differ."""
    images = noise(2, 3, 6, 6)
    narrow = nn.Conv2d(3, 1, 6, bias=False).double()
    funnel = nn.Sequential(narrow, nn.Conv2d(1, 9, 1, bias=False).double())
    maps = evaluation.maps_of_random_signals(funnel, images, count=6)
    assert maps.shape == (2, 6, 3, 6, 6)
    assert (evaluation.cosine_similarity(maps[:, 0], maps[:, 1]).abs() - 1).abs().max() < 1e-9
    positive = torch.einsum("ns,chw->nschw", noise(2, 6).abs(), noise(3, 6, 6))
    assert evaluation.signal_convergence(positive).tolist() == pytest.approx([1, 1])
    wide = evaluation.signal_convergence(noise(3, 9, 3, 30, 30))
    assert wide.tolist() == pytest.approx([0] * 3, abs=0.05)


def test_maps_of_random_signals_are_autograds() -> None:
    """Each is the signal's product with the Jacobian; all images have the same signals; nothing else is touched."""
    net, images = nn.Conv2d(2, 3, 2).double(), noise(2, 2, 4, 4)
    maps = evaluation.maps_of_random_signals(net, images, count=3, seed=4)
    one, same = evaluation.maps_of_random_signals(net, images[:1].expand(2, -1, -1, -1), count=1, seed=4)[:, 0]
    assert torch.equal(one, same)
    torch.testing.assert_close(one, maps[0, 0])
    generator = torch.Generator().manual_seed(4)
    for s in range(3):
        signal = torch.randn(3, 3, 3, generator=generator).double().numpy()
        expected = np.zeros((2, 4, 4))
        for k, y, x in np.ndindex(3, 3, 3):
            expected[:, y : y + 2, x : x + 2] += signal[k, y, x] * net.weight[k].detach().numpy()
        torch.testing.assert_close(maps[1, s].numpy(), expected)
    assert net.weight.grad is None
    assert not images.requires_grad


def test_signal_convergence_is_that_of_a_loop_without_the_zero_maps() -> None:
    """The mean over pairs of signals; pairs with a zero map do not count, and with one map left there is none."""
    maps = noise(3, 4, 2, 3, 3)
    maps[1, 2] = 0
    maps[2, :3] = 0
    found = evaluation.signal_convergence(maps)
    for n in range(2):
        kept = [one for one in maps[n].numpy() if one.any()]
        pairs = [slow_cosine(a, b) for i, a in enumerate(kept) for b in kept[:i]]
        assert float(found[n]) == pytest.approx(sum(pairs) / len(pairs))
    assert undefined(found) == [False, False, True]


# What does not fit -------------------------------------------------------------------------------------------------

MAPS, IMAGES = noise(2, 3, 12, 12), noise(2, 3, 12, 12, seed=1)
UNIT = Planted(torch.ones(1, 12, 12))

OF_MAPS: dict[str, Callable[[Tensor], object]] = {
    "magnitude": evaluation.magnitude,
    "image_dependence": evaluation.image_dependence,
    "found_sources": lambda maps: evaluation.found_sources(maps, IMAGES),
    "source_correlations": lambda maps: evaluation.source_correlations(maps, IMAGES),
    "source_correlations, the image": lambda maps: evaluation.source_correlations(IMAGES, maps),
    "insertion": lambda maps: evaluation.insertion(UNIT, IMAGES, maps),
    "insertion, the image": lambda maps: evaluation.insertion(UNIT, maps, MAPS),
    "deletion": lambda maps: evaluation.deletion(UNIT, IMAGES, maps),
    "occlusion_drops": lambda maps: evaluation.occlusion_drops(UNIT, maps, 4),
    "occlusion_agreement": lambda maps: evaluation.occlusion_agreement(maps, noise(2, 5, 5), 4),
    "grid_scores": lambda maps: evaluation.grid_scores(maps, 0),
    "cosine_similarity": lambda maps: evaluation.cosine_similarity(maps, maps),
    "rank_similarity": lambda maps: evaluation.rank_similarity(maps, maps),
    "structural_similarity": lambda maps: evaluation.structural_similarity(maps, maps),
    "signal_convergence": lambda maps: evaluation.signal_convergence(maps[:, None].repeat(1, 2, 1, 1, 1)),
    "sobel_maps": evaluation.sobel_maps,
    "random_maps": evaluation.random_maps,
    "centred_gaussian_maps": evaluation.centred_gaussian_maps,
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
        (lambda: evaluation.magnitude(MAPS[0]), "maps are N x C x H x W, not of shape (3, 12, 12); write maps["),
        (lambda: evaluation.magnitude(MAPS[:0]), "not of shape (0, 3, 12, 12)"),
        (lambda: evaluation.image_dependence(MAPS[:1]), "compares the maps of several images; there is one"),
        (lambda: evaluation.found_sources(MAPS[:1], IMAGES), "1 maps and 2 images: say in sources="),
        (lambda: evaluation.found_sources(MAPS[..., :9], IMAGES), "maps of 12 x 9 do not fit images of 12 x 12"),
        (lambda: evaluation.found_sources(MAPS, IMAGES, torch.tensor([0, 2])), "numbers of images, 0 to 1"),
        (lambda: evaluation.found_sources(MAPS, IMAGES, torch.tensor([0, -1])), "numbers of images, 0 to 1"),
        (lambda: evaluation.found_sources(MAPS, IMAGES, torch.tensor([0])), "2 numbers of images, one a map"),
        (lambda: evaluation.found_sources(MAPS, IMAGES, torch.tensor([0.0, 1.0])), "not torch.float32 of (2,)"),
        (lambda: evaluation.insertion(UNIT, IMAGES, MAPS[:1]), "1 maps of 12 x 12 do not fit 2 images of 12 x 12"),
        (lambda: evaluation.insertion(UNIT, IMAGES, MAPS[:, :, :4]), "2 maps of 4 x 12 do not fit 2 images"),
        (lambda: evaluation.insertion(UNIT, IMAGES, MAPS, steps=145), "144 pixels can change in 1 to 144 steps"),
        (lambda: evaluation.insertion(UNIT, IMAGES, MAPS, steps=0), "1 to 144 steps, not in 0"),
        (lambda: evaluation.insertion(UNIT, IMAGES, MAPS, fill="grey"), "fill is 'zero', 'blur' or a tensor"),  # type: ignore[arg-type]
        (lambda: evaluation.insertion(UNIT, IMAGES, MAPS, fill=MAPS[:1]), "a fill of shape (1, 3, 12, 12)"),
        (lambda: evaluation.insertion([UNIT], IMAGES, MAPS), "1 functions do not fit 2 images"),
        (lambda: evaluation.deletion(lambda x: x.mean(), IMAGES, MAPS), "respond gave shape () for 33 images"),
        (lambda: evaluation.deletion(lambda x: x[:, 0, 0], IMAGES, MAPS), "shape (33, 12) for 33 images"),
        (lambda: evaluation.deletion(lambda x: UNIT(x) / 0, IMAGES, MAPS), "respond gave NaN or infinity"),
        (lambda: evaluation.occlusion_drops(UNIT, IMAGES, 5), "a square of 5 that moves by 2 does not end"),
        (lambda: evaluation.occlusion_drops(UNIT, IMAGES, 13), "does not end at the edges of 12 x 12"),
        (lambda: evaluation.occlusion_drops(UNIT, IMAGES, 0), "a square of 0 that moves by 1"),
        (lambda: evaluation.occlusion_drops(UNIT, IMAGES, 4, stride=0), "a square of 4 that moves by 0"),
        (lambda: evaluation.occlusion_agreement(MAPS, noise(2, 6, 5), 4), "drops of shape (2, 6, 5) do not come"),
        (lambda: evaluation.occlusion_agreement(MAPS, noise(2, 1, 5), 4), "square of 4 on images of 12 x 12"),
        (lambda: evaluation.occlusion_agreement(MAPS, noise(2, 2, 2), 12), "square of 12 on images of 12 x 12"),
        (lambda: evaluation.occlusion_agreement(MAPS, noise(2, 1, 1), 13), "square of 13 on images of 12 x 12"),
        (lambda: evaluation.occlusion_agreement(MAPS, noise(2, 5), 4), "drops of shape (2, 5) do not come"),
        (lambda: evaluation.occlusion_agreement(MAPS, noise(1, 5, 5), 4), "2 maps do not fit the drops of 1 images"),
        (lambda: evaluation.occlusion_agreement(MAPS, noise(2, 5, 5) / 0, 4), "2 of 2 drops hold NaN"),
        (lambda: evaluation.occlusion_ceiling(noise(2, 5, 5) / 0, 4, noise(2, 5, 5), 4, IMAGES), "2 of 2 drops hold"),
        (lambda: evaluation.mosaics(noise(1, 8, 3, 4, 4)), "not of shape (1, 8, 3, 4, 4)"),
        (lambda: evaluation.mosaics(MAPS), "a mosaic is made of N x 9 x C x H x W"),
        (lambda: evaluation.grid_scores(MAPS[..., :11], 0), "maps of 12 x 11 cannot be cut into 3 x 3 equal cells"),
        (lambda: evaluation.grid_scores(MAPS, 9), "the cells of 3 x 3 are 0 to 8"),
        (lambda: evaluation.grid_scores(MAPS, [0, 1, 2]), "one for all or one for each of 2 maps"),
        (lambda: evaluation.grid_scores(MAPS, torch.tensor([0.0, 1.0])), "cells are whole numbers"),
        (lambda: evaluation.with_upper_layers_random(nn.Linear(1, 1), 0), "share is above 0 and at most 1, not 0"),
        (lambda: evaluation.cosine_similarity(MAPS, MAPS[:1]), "do not fit others of shape (1, 3, 12, 12)"),
        (lambda: evaluation.cosine_similarity(MAPS, MAPS / 0), "2 of 2 others hold NaN or infinity"),
        (lambda: evaluation.structural_similarity(MAPS[..., :10], MAPS[..., :10]), "which maps of 12 x 10"),
        (lambda: evaluation.maps_of_random_signals(nn.Identity(), MAPS, 0), "there are no maps of 0 signals"),
        (lambda: evaluation.signal_convergence(MAPS[:, None]), "at least two signals, not of shape (2, 1, 3, 12, 12)"),
        (lambda: evaluation.signal_convergence(MAPS), "maps are N x signals x C x H x W"),
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
    with pytest.raises(TypeError, match=r"maps are a float tensor of N x C x H x W, not (ndarray|torch.uint8)"):
        evaluation.magnitude(wrong)


def test_nothing_that_is_given_is_changed() -> None:
    """Maps and images are as before, and no graph hangs on a result, also when they carry one."""
    maps, images = MAPS.clone().requires_grad_(), IMAGES.clone().requires_grad_()
    for name, measure in OF_MAPS.items():
        found = measure(maps)
        assert isinstance(found, Tensor), name
        assert not found.requires_grad, name
    evaluation.insertion(UNIT, images, maps)
    assert torch.equal(maps, MAPS)
    assert torch.equal(images, IMAGES)
