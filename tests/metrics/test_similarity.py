"""Likeness of maps is that of slow loops: of two, and of each to those of other images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_metrics import noise, slow_cosine, slow_magnitude, slow_spearman, slow_ssim, undefined
from torch import Tensor, nn

import attribkit
from attribkit import metrics


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
        rule: metrics.image_dependence(attribkit.explain(net, noise(5, 3, 12, 12), rule, **unit).values)
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
        torch.testing.assert_close(metrics.image_dependence(maps * scales).tolist(), expected)


def test_image_dependence_of_opposite_and_of_random_maps() -> None:
    """Random maps: 1, which is chance. A map and its negative: 2."""
    one = noise(1, 3, 4, 4)
    assert metrics.image_dependence(torch.cat([one, -one])).tolist() == pytest.approx([2, 2])
    assert float(metrics.image_dependence(noise(20, 3, 32, 32)).mean()) == pytest.approx(1, abs=0.01)


def test_distances_are_those_of_a_loop() -> None:
    """And image dependence is their mean with others; a map that is zero has none."""
    maps = noise(5, 2, 6, 5)
    maps[3] = 0
    found = metrics.map_distances(maps)
    for i, j in ((0, 1), (4, 2), (2, 2)):
        assert found[i, j].item() == pytest.approx(1 - slow_cosine(maps[i].numpy(), maps[j].numpy()))
    assert undefined(found[3]) == [True] * 5
    assert found[0, [1, 2, 4]].mean() == pytest.approx(metrics.image_dependence(maps)[0])


def test_a_zero_map_has_no_image_dependence_and_spoils_no_other() -> None:
    """It is NaN, and the others have the values that they have without it."""
    maps = noise(4, 3, 5, 5)
    maps[1] = 0
    values = metrics.image_dependence(maps)
    assert undefined(values) == [False, True, False, False]
    torch.testing.assert_close(values[[0, 2, 3]], metrics.image_dependence(maps[[0, 2, 3]]))
    maps[[0, 2]] = 0
    assert undefined(metrics.image_dependence(maps)) == [True] * 4


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.integers(1, 50), colours=st.integers(1, 3))
def test_similarities_are_those_of_loops(seed: int, levels: int, colours: int) -> None:
    """Cosine of maps, Spearman and SSIM of magnitudes, with few levels and thus many ties, too."""
    maps, others = ((noise(2, colours, 12, 13, seed=s) * levels).round() / levels for s in (seed, seed + 1))
    one, other = maps.numpy(), others.numpy()
    cosine, rank = metrics.cosine_similarity(maps, others), metrics.rank_similarity(maps, others)
    structure = metrics.structural_similarity(maps, others)
    for n in range(2):
        assert float(cosine[n]) == pytest.approx(slow_cosine(one[n], other[n]), abs=1e-9)
        a, b = slow_magnitude(one[n]), slow_magnitude(other[n])
        assert float(rank[n]) == pytest.approx(slow_spearman(a, b), abs=1e-9)
        assert float(structure[n]) == pytest.approx(slow_ssim(a, b), abs=1e-6)


def test_a_map_is_like_itself_and_noise_is_like_nothing() -> None:
    """1 for the same map at any scale, by all three, about 0 for noise, and -1 by the cosine for the negative one."""
    maps = noise(10, 3, 32, 32)
    for alike in (metrics.cosine_similarity, metrics.rank_similarity, metrics.structural_similarity):
        assert alike(maps, 7 * maps).tolist() == pytest.approx([1.0] * 10)
        assert float(alike(maps, noise(10, 3, 32, 32, seed=1)).mean()) == pytest.approx(0, abs=0.05)
    assert metrics.cosine_similarity(maps, -maps).tolist() == pytest.approx([-1.0] * 10)
    assert metrics.rank_similarity(maps, -maps).tolist() == pytest.approx([1.0] * 10)


def test_a_zero_map_is_like_nothing_and_a_constant_one_has_no_ranks() -> None:
    """Undefined, each alone."""
    maps, others = noise(3, 2, 12, 12), noise(3, 2, 12, 12, seed=1)
    maps[0] = 0
    others[2] = 0.1
    assert undefined(metrics.cosine_similarity(maps, others)) == [True, False, False]
    assert undefined(metrics.rank_similarity(maps, others)) == [True, False, True]
    assert undefined(metrics.structural_similarity(maps, others)) == [True, False, False]


def test_rounding_has_no_ranks() -> None:
    """What differs by less than a millionth of the largest value is a tie."""
    steps = torch.linspace(0, 1, 144, dtype=torch.float64).view(1, 1, 12, 12)
    trembling = (steps > 0.5).double() + 1e-8 * noise(1, 1, 12, 12)
    still = (steps > 0.5).double()
    assert float(metrics.rank_similarity(trembling, steps)) == float(metrics.rank_similarity(still, steps))
