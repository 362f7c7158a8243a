"""The grid game is won by the right cell."""

from __future__ import annotations

import pytest
import torch
from slow_metrics import noise, slow_share, undefined

from attribkit import metrics


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_mosaic_has_its_images_row_by_row(side: int) -> None:
    """Each cell of it is the image of that number, and a score is that of a loop."""
    images = noise(2, side * side, 3, 4, 5)
    found = metrics.mosaics(images)
    assert found.shape == (2, 3, 4 * side, 5 * side)
    maps = noise(2, 3, 4 * side, 5 * side, seed=1)
    for cell in range(side * side):
        y, x = cell // side, cell % side
        assert torch.equal(found[:, :, 4 * y : 4 * y + 4, 5 * x : 5 * x + 5], images[:, cell])
        expected = [slow_share(one, cell, side) for one in maps.numpy()]
        torch.testing.assert_close(metrics.grid_scores(maps, cell, side).tolist(), expected)


def test_the_grid_game_is_won_by_the_right_cell() -> None:
    """All in it: 1; all beside it: 0; a constant map or noise: 1/9; what is negative does not count."""
    maps = torch.zeros(9, 3, 18, 18, dtype=torch.float64)
    for cell in range(9):
        maps[cell, :, 6 * (cell // 3) : 6 * (cell // 3) + 6, 6 * (cell % 3) : 6 * (cell % 3) + 6] = 0.3
    assert metrics.grid_scores(maps, torch.arange(9)).tolist() == pytest.approx([1.0] * 9)
    assert metrics.grid_scores(maps - 0.2 * (maps == 0), list(range(9))).tolist() == pytest.approx([1.0] * 9)
    assert metrics.grid_scores(maps, (torch.arange(9) + 1) % 9).tolist() == [0.0] * 9
    assert metrics.grid_scores(torch.ones(2, 3, 9, 9), 4).tolist() == pytest.approx([1 / 9] * 2)
    assert float(metrics.grid_scores(noise(50, 3, 30, 30), 7).mean()) == pytest.approx(1 / 9, abs=0.01)
    assert undefined(metrics.grid_scores(-maps, 0)) == [True] * 9


def test_colours_are_added_before_the_sign_is_asked() -> None:
    """A pixel of +1 in one colour and -1 in another has nothing positive."""
    maps = torch.zeros(1, 3, 3, 3)
    maps[0, 0], maps[0, 1] = 1, -1
    maps[0, 2, 0, 0] = 2
    assert metrics.grid_scores(maps, 0).tolist() == [1]
