"""A machine's eye names the detail that it has learnt, in whichever sign, and nothing of a map that is zero."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attribkit.errors import BadValue
from attribkit.reference_models.data import Split
from attribkit.reference_models.switch_study import eye


def striped(count: int, seed: int) -> Split:
    """Stripes down, stripes across or a checkerboard, on grounds of any colour, with some noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    along = (torch.arange(16) // 2 % 2 * 2 - 1).float()
    kinds = [along.expand(16, 16), along[:, None].expand(16, 16), along * along[:, None]]
    ground = torch.randint(60, 180, (count, 1, 1, 3), generator=generator).float()
    noise = torch.randn(count, 16, 16, 3, generator=generator) * 10
    images = ground + 30 * torch.stack([kinds[label] for label in labels])[..., None] + noise
    return Split(images.round().to(torch.uint8), labels)


@pytest.fixture(scope="module")
def learnt() -> nn.Sequential:
    return eye.trained(striped(240, 0), 3, images=240, epochs=6, seed=0)


def as_maps(split: Split) -> Tensor:
    return split.images.permute(0, 3, 1, 2).float()


def test_it_names_what_it_has_not_seen_before(learnt: nn.Sequential) -> None:
    """Pictures, their negatives, and maps of any strength and ground; of noise it names a third rightly."""
    new = striped(90, 1)
    maps = as_maps(new)
    for shown in (maps, -maps, 1e-6 * maps, maps + torch.arange(16) * 5):
        assert (eye.named(learnt, shown) == new.labels).float().mean() > 0.95
    noise = torch.randn(300, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    assert (eye.named(learnt, noise) == torch.arange(300) % 3).float().mean() == pytest.approx(1 / 3, abs=0.12)


def test_of_a_map_that_is_zero_it_names_nothing(learnt: nn.Sequential) -> None:
    assert eye.named(learnt, torch.zeros(2, 3, 16, 16)).tolist() == [-1, -1]
    assert eye.named(learnt, torch.full((1, 3, 16, 16), 7.0)).tolist() == [-1]


def test_the_same_seed_learns_the_same_and_a_folder_keeps_it(
    learnt: nn.Sequential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is learnt again only if it would come out differently."""
    split, asked = striped(240, 0), {"images": 240, "epochs": 6, "seed": 0}
    eye.prepared(tmp_path, split, 3, **asked)
    for one, other in zip(eye.read(tmp_path).parameters(), learnt.parameters(), strict=True):
        assert torch.equal(one, other)
    again: list[int] = []
    monkeypatch.setattr(eye, "trained", lambda *_, seed, **__: again.append(seed) or learnt)
    eye.prepared(tmp_path, split, 3, **asked)
    assert again == []
    eye.prepared(tmp_path, split, 3, **(asked | {"seed": 1}))
    assert again == [1]
    (tmp_path / eye.FILE).write_bytes(b"cut")
    with pytest.raises(BadValue, match="delete it"):
        eye.prepared(tmp_path, split, 3, **asked)
