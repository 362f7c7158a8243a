"""The pass over the data in bfloat16 gives the winners of float32: as many are kept and looked at again as it takes."""

from __future__ import annotations

import numpy as np
import pytest
from studied import Inputs, inputs, net

import attribkit
from attribkit.studies.rescoring import candidates
from attribkit.studies.winners import Winners


@pytest.mark.parametrize("layer", ["conv1", "relu2"])
def test_winners_are_those_of_float32(layer: str) -> None:
    data = Inputs(inputs(700))
    exact = attribkit.gallery(net(), data, layer=layer, top=5)
    coarse = attribkit.gallery(net(), data, layer=layer, top=5, precision="bfloat16")
    sure = [channel for channel in range(len(exact.channels)) if channel not in coarse.unsure]
    assert len(sure) >= len(exact.channels) - 1
    for name in ("image", "value", "position"):
        assert (getattr(coarse, name)[sure] == getattr(exact, name)[sure]).all()


@pytest.mark.parametrize("seed", range(20))
def test_no_winner_is_missed_that_rounding_may_have_moved(seed: int) -> None:
    """Scores that are moved by up to the bound: the best are among the candidates all the same."""
    random = np.random.default_rng(seed)
    exact = random.normal(size=60).round(1)
    moved = exact + random.uniform(-0.2, 0.2, 60)
    kept = Winners.of(np.arange(60), moved[:, None], np.zeros((60, 1, 2))).best(60)
    chosen = set(kept.image[0][candidates(kept, 7, 0.2)[0]].tolist())
    assert set(np.lexsort((np.arange(60), -exact))[:7].tolist()) <= chosen
    assert len(chosen) < 60
