"""Covered parts: a planted detector's parts correspond, random boxes do not, and numbers are those of a plain loop."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attribkit
from attribkit.studies import correspondence as study

SIDE, PART = 32, 6


def planted() -> tuple[nn.Module, Tensor, list[dict[str, study.Box]]]:
    """Images that share a part at other places; half of the channels fire for it only, half for anything."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, SIDE, SIDE, generator=random) - 0.5
    part = torch.rand(3, PART, PART, generator=random) * 2 - 1
    boxes = []
    for number, image in enumerate(images):
        top, left = 6 + 3 * number, 20 - 3 * number
        image[:, top : top + PART, left : left + PART] = part
        boxes.append({"part": (left, top, left + PART, top + PART)})
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 12, PART), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)
    ).eval()
    with torch.no_grad():
        net[0].weight[:6] = torch.linspace(0.5, 1, 6)[:, None, None, None] * part
        net[0].bias[:6] = -0.5 * (net[0].weight[:6] * part).sum((1, 2, 3))
        net[0].bias[6:] = 50
    return net, images, boxes


def test_a_planted_part_corresponds() -> None:
    """Where a detector of the part is, all images change alike when it is covered, and less alike with random boxes."""
    net, images, boxes = planted()
    found = attribkit.correspondence(net, images, boxes, ["2", "4"])
    assert found.distance.max() < 0.05
    assert (found.distance < 0.5 * np.nanmean(found.control, 2)).all()
    assert found.below.max() <= 0.05
    assert found.pairs.tolist() == [10]


def test_every_number_is_that_of_a_plain_loop() -> None:
    """Signs of differences, pair by pair, over what changes in either image; NaN counts for nothing."""
    net, images, boxes = planted()
    covered: list[Any] = []
    for image, of_image in zip(images, boxes, strict=True):
        left, top, right, bottom = of_image["part"]
        hidden = image.clone()
        hidden[:, top:bottom, left:right] = 0
        with torch.no_grad():
            change = (net[:2](image[None]) - net[:2](hidden[None])).double().numpy().ravel()
        covered.append([0 if abs(c) < 1e-6 else (1 if c > 0 else -1) for c in change])
    shares = []
    for one, other in itertools.combinations(covered, 2):
        either = [(a, b) for a, b in zip(one, other, strict=True) if a or b]
        shares.append(sum(a != b for a, b in either) / len(either))
    found = attribkit.correspondence(net, images, boxes, ["1"])
    assert found.distance[0, 0] == pytest.approx(np.mean(shares), abs=1e-3)
    assert found.spread[0, 0] == pytest.approx(np.std(shares), abs=1e-3)
    assert found.changed[0, 0] == pytest.approx(np.mean([[c != 0 for c in each] for each in covered]), abs=1e-4)
    assert found.control.shape == (1, 1, study.DRAWS)


def test_what_neither_changes_does_not_count() -> None:
    signs = [np.array([[1, 0, -1], [0, 0, 0]], np.int8), np.array([[1, 0, 0], [0, 0, 0]], np.int8)]
    own, spread, control, changed, _ = study._of_layer(signs, "a")
    assert (own, spread, changed) == (0.5, 0, pytest.approx(0.5))
    assert np.isnan(control).all()


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    net, images, boxes = planted()
    found = attribkit.correspondence(net, images[:2], boxes[:2])
    found.save(tmp_path / "a.npz")
    again = attribkit.Correspondence.load(tmp_path / "a.npz")
    for name, value in vars(found).items():
        np.testing.assert_equal(getattr(again, name), value)


def test_what_makes_no_sense_is_refused() -> None:
    net, images, boxes = planted()
    for wrong, words in (
        (boxes[:2], "as many sets"),
        ([*boxes[:4], {"nose": (0, 0, 4, 4)}], "one image only"),
        ([{}] * 5, "no part has a box"),
        ([{"part": (0, 0, 40, 4)}] * 5, "is none in a picture"),
        ([{"part": (4, 4, 4, 8)}] * 5, "is none in a picture"),
    ):
        with pytest.raises(attribkit.AttribkitError, match=words):
            attribkit.correspondence(net, images, wrong)
    with pytest.raises(attribkit.AttribkitError, match="sees nothing"):
        attribkit.correspondence(net, torch.zeros_like(images), boxes)
