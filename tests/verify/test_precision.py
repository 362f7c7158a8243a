"""Maps are compared in full precision, and what was set before is set again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attribkit.cli.comparison import compare
from attribkit.verify.checking import check
from attribkit.verify.precision import SETTINGS


class Noting(nn.Module):
    """Notes how a GPU would multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        SEEN.append(now())
        return self.conv(x).relu().mean((2, 3))


SEEN: list[list[object]] = []


def now() -> list[object]:
    return [getattr(place, name) for place, name, _ in SETTINGS]


@pytest.mark.parametrize("what", ["check", "compare"])
def test_it_lasts_as_long_as_a_comparison(what: str) -> None:
    torch.manual_seed(0)
    model, images, before = Noting(), torch.randn(1, 3, 8, 8), now()
    SEEN.clear()
    if what == "check":
        assert check(model, images).right
    else:
        assert compare("it", model, images, 1, "guided", rounds=2).right
    assert SEEN
    assert all(seen == [value for _, _, value in SETTINGS] for seen in SEEN)
    assert now() == before != SEEN[0]
