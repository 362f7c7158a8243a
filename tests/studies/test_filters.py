"""Faults that are planted in a first layer are found, and nothing in one that has none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import usual_filters
from commands import Command
from torch import nn

import attribkit
from attribkit.adapters import packaged
from attribkit.studies.filters import Filters
from attribkit.studies.filters_page import page
from attribkit.studies.filters_picture import FAULTS
from attribkit.studies.filters_usual import USUAL


def net(stride: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 12, 7, stride=stride), nn.ReLU(), nn.Conv2d(12, 4, 3)).eval()


def test_planted_faults_are_found() -> None:
    """A dead filter, one that dominates, one that is another's double and one that is another's negative."""
    model = net()
    with torch.no_grad():
        weight = model[0].weight
        weight[2] = 0
        weight[5] *= 9
        weight[7] = weight[4] * 0.5
        weight[9] = -weight[1]
    found = attribkit.filters(model)
    assert (found.dead, found.dominating) == ([2], [5])
    assert sorted((int(a), int(b), round(c)) for a, b, c in found.duplicates) == [(1, 9, -1), (4, 7, 1)]


def test_a_sound_layer_has_none() -> None:
    found = attribkit.filters(net())
    assert (found.dead, found.dominating, len(found.duplicates)) == ([], [], 0)
    assert math.isnan(found.aliasing)


def test_energy_lies_where_the_waves_do() -> None:
    """A flat filter is low, a checkerboard high, a wave of a quarter of a cycle per pixel in the middle."""
    model = net()
    at = torch.arange(7.0)
    with torch.no_grad():
        model[0].weight[0] = 1
        model[0].weight[1] = torch.cos(torch.pi * (at[:, None] + at))
        model[0].weight[2] = torch.cos(torch.pi / 2 * at)
    bands = attribkit.filters(model).bands
    assert bands[:3].argmax(1).tolist() == [0, 2, 1]
    np.testing.assert_allclose(bands.sum(1), 1)


def test_aliasing_is_told_from_none() -> None:
    """A first layer that averages over its stride passes little that is too fine; one that picks pixels passes all."""
    answers = {}
    for name in ("averages", "picks"):
        model = net(stride=4)
        with torch.no_grad():
            at = torch.arange(7.0) - 3
            blur = torch.exp(-(at[:, None] ** 2 + at**2) / 8)
            model[0].weight.zero_()
            model[0].bias.zero_()
            model[0].weight[:, :] = blur / blur.sum() if name == "averages" else (blur == 1).float()
        answers[name] = attribkit.filters(model)
    assert answers["picks"].second == "2"
    assert answers["averages"].aliasing < 0.7
    assert answers["picks"].aliasing > 0.9


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    found = attribkit.filters(net(stride=2))
    found.save(tmp_path / "a.npz")
    again = Filters.load(tmp_path / "a.npz")
    for name, value in found.__dict__.items():
        np.testing.assert_equal(getattr(again, name), value)


def test_what_has_no_filters_is_refused() -> None:
    with pytest.raises(attribkit.AttribkitError, match="no convolution"):
        attribkit.filters(nn.Linear(2, 2))


def test_what_is_shown_as_usual_is_what_the_networks_have() -> None:
    """Measured again, where the packages that bring them are installed."""
    if not all(map(packaged.is_here, ("squeezenet1_1", "efficientnet_lite0"))):
        pytest.skip("the extra packaged is not installed")
    assert usual_filters.measured() == USUAL
    assert all(of.keys() == FAULTS.keys() for of in USUAL.values())


def test_the_page_has_the_faults_beside_what_is_usual() -> None:
    """Which filters they are of, too; and the same bytes again."""
    model = net()
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].weight[5] *= 9
        model[0].weight[9] = -model[0].weight[1]
    found = attribkit.filters(model)
    html = page("<b>net</b>", found, {"command": "attribkit filters"})
    assert html == page("<b>net</b>", found, {"command": "attribkit filters"})
    text = html.decode()
    assert "<b>net</b>" not in text
    for words in ("1 of 12", "dominating", "like 9 (-1.000)", "1, 1 mirrored", "dead: 2", "not tested"):
        assert words in text
    for usual in USUAL.values():
        assert all(words in text for words in usual.values())


def test_the_command_gives_the_same(run: Command, tmp_path: Path) -> None:
    """A picture, a page, a table and one document; the same bytes again."""
    words = ("filters", "all_cnn_c", "--format", "png,html,csv,npz", "--device", "cpu")
    done = run(*words, "--json")
    document = json.loads(done.out)
    assert document["filters"] == 96
    before = [Path(tmp_path / name).read_bytes() for name in document["files"]]
    again = run(*words, "--json")
    assert json.loads(again.out)["usual"] == USUAL
    assert "[0 of 64; 4 of 32]" in run(*words, "--out", "elsewhere").out
    assert [Path(tmp_path / name).read_bytes() for name in document["files"]] == before
