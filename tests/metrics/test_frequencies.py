"""The share of a lattice in a map: that of a Fourier transform written out, and what is planted."""

from __future__ import annotations

import pytest
import torch
from slow_metrics import noise, slow_lattice

from attribkit import metrics


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_it_is_the_share_of_the_lattices_frequencies(stride: int) -> None:
    maps = noise(2, 3, 12, 12) + torch.arange(12).remainder(stride)
    found = metrics.lattice_energy(maps, stride)
    assert found.tolist() == pytest.approx([slow_lattice(one, stride) for one in maps.numpy()])


def test_a_pattern_that_repeats_is_all_lattice_and_noise_hardly() -> None:
    """Whatever the map's mean; a longer period than the lattice's is none of it."""
    tile = noise(1, 1, 4, 4)
    assert metrics.lattice_energy(tile.repeat(1, 1, 8, 8) + 7, 4).item() == pytest.approx(1)
    assert metrics.lattice_energy(noise(1, 1, 8, 8).repeat(1, 1, 4, 4), 4).item() < 0.5
    assert metrics.lattice_energy(noise(50, 1, 32, 32), 4).mean() == pytest.approx(15 / 1023, rel=0.2)


def test_edges_that_fill_no_period_are_left_out() -> None:
    maps = noise(2, 3, 14, 13)
    assert torch.equal(metrics.lattice_energy(maps, 4), metrics.lattice_energy(maps[:, :, :12, :12], 4))


def test_a_constant_map_has_no_share() -> None:
    for value in (0.0, 0.1, -3e7):
        assert metrics.lattice_energy(torch.full((2, 3, 8, 8), value), 4).isnan().all()


@pytest.mark.parametrize("stride", [0, 1, 9])
def test_a_lattice_has_a_period_that_fits(stride: int) -> None:
    with pytest.raises(ValueError, match=f"not {stride}"):
        metrics.lattice_energy(noise(1, 1, 8, 8), stride)
