"""Probes: a planted answer is found by one layer, classifiers are those of a plain loop, and a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from studied import folder, inputs, net, packed
from torch import Tensor, nn

import attribkit
from attribkit.studies import featured, linear, probes
from attribkit.studies.altered import CannotAlter


class Labelled(torch.utils.data.Dataset[Tensor]):
    """Inputs with labels."""

    classes = ("first", "second")

    def __init__(self, images: Tensor, targets: list[int]) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> Tensor:
        return self.images[number]


class Sign(nn.Module):
    """Of the product of two channels, which no straight cut through the channels themselves can say."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1] * x[:, 1:2], x[:, 2:]], 1)


class Lost(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


def planted() -> tuple[nn.Module, Labelled]:
    """The class is the sign of a product: it is in the second layer, not yet in the first, no more in the third."""
    random = torch.Generator().manual_seed(0)
    values = torch.randn(240, 4, 1, 1, generator=random)
    images = values + 0.01 * torch.randn(240, 4, 4, 4, generator=random)
    targets = (values[:, 0] * values[:, 1] > 0).long().flatten().tolist()
    return nn.Sequential(nn.Identity(), Sign(), Lost()).eval(), Labelled(images, targets)


def test_exactly_one_layer_is_separable() -> None:
    """And the classifiers on the others are no better than chance."""
    model, data = planted()
    found = attribkit.probe(model, data, ["0", "1", "2"])
    assert found.accuracy[1] > 0.93
    assert found.low[1] > found.high[[0, 2]].max()
    assert (found.low[[0, 2]] < found.chance).all()
    assert (len(found.train), len(found.test)) == (168, 72)


def test_it_is_the_classifier_of_a_plain_loop() -> None:
    """Gradient descent in double floats, feature by feature, ends at the same weights."""
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(30, 4)), random.integers(0, 3, 30)
    weights, bias = np.zeros((4, 3)), np.zeros(3)
    for _ in range(500):
        slope, shift = 0.05 * weights, np.zeros(3)
        for row, label in zip(features, labels, strict=True):
            scores = np.exp(row @ weights + bias)
            away = scores / scores.sum() - np.eye(3)[label]
            slope, shift = slope + np.outer(row, away) / 30, shift + away / 30
        weights, bias = weights - slope, bias - shift
    held, ended = linear.regression(torch.from_numpy(features), torch.from_numpy(labels), 3, 0.05)
    np.testing.assert_allclose(held[:-1].numpy(), weights, atol=1e-3)
    np.testing.assert_allclose((held[-1] - held[-1].mean()).numpy(), bias - bias.mean(), atol=1e-3)
    assert ended


def test_features_are_averages_over_a_grid() -> None:
    """As many cells as fit, a plain mean over each; a vector stays one; what is too large for a half is scaled."""
    assert featured.grid_of(8, (12, 6), 100) == (3, 3)
    assert featured.grid_of(8, (12, 6), 8 * 9 * 6) == (9, 6)
    assert featured.grid_of(300, (7, 7), 100) == (1, 1)
    assert featured.grid_of(300, (), 100) == ()
    maps = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    pooled = featured.pooled(maps, (2, 3))
    cells = [maps[:, c, 3 * y : 3 * y + 3, 2 * x : 2 * x + 2] for c in range(3) for y in range(2) for x in range(3)]
    np.testing.assert_allclose(pooled, np.stack([cell.mean((1, 2)).numpy() for cell in cells], 1), rtol=1e-5)
    scale, half = featured.halved(np.array([[1e6, -3.0]]), "layer")
    assert half.dtype == np.float16
    np.testing.assert_allclose(half.astype(float) * scale, [[1e6, -3.0]], rtol=2e-3)
    with pytest.raises(attribkit.AttribkitError, match="layer"):
        featured.halved(np.array([[np.inf]]), "layer")


def test_wilson_is_as_published() -> None:
    """Newcombe 1998, table I: 81 of 263, and 0 of 20."""
    assert linear.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert linear.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_images_are_split_by_class() -> None:
    """The same share of each class is tested on, and the folds hold each class."""
    labels = np.array([0] * 20 + [1] * 10)
    train, test = probes.split(labels, ("a", "b"))
    assert np.bincount(labels[test]).tolist() == [6, 3]
    assert sorted([*train, *test]) == list(range(30))
    fold = linear._folds(torch.from_numpy(labels[train])).numpy()
    for number in range(linear.FOLDS):
        assert set(labels[train][fold == number]) == {0, 1}
    with pytest.raises(attribkit.AttribkitError, match="'b' has 3 images"):
        probes.split(np.array([0] * 9 + [1] * 3), ("a", "b"))


@pytest.mark.parametrize("stop_at", ["shards", "fits"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: str
) -> None:
    """In the pass over the data or among the classifiers; nothing is done twice."""
    monkeypatch.setattr("attribkit.studies.survey.SHARD", 16)
    data = Labelled(inputs(48), [number % 2 for number in range(48)])
    probe: Any = lambda place: attribkit.probe(net(), data, ["conv1", "conv2"], out=tmp_path / place)  # noqa: E731
    probe("whole").save(tmp_path / "whole.npz")
    write, calls = probes.RunFolder.write, [0]

    def stopped(self: Any, kind: str, number: int, content: bytes) -> None:
        calls[0] += kind == stop_at
        if kind == stop_at and calls[0] == 2:
            raise KeyboardInterrupt
        write(self, kind, number, content)

    monkeypatch.setattr(probes.RunFolder, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        probe("run")
    probe("run").save(tmp_path / "run.npz")
    assert calls[0] == (4 if stop_at == "shards" else 3)
    for name in ("", "shards/00001.npz", "fits/00001.npz"):
        whole, run = ((tmp_path / f"{place}{'/' if name else '.npz'}{name}") for place in ("whole", "run"))
        assert whole.read_bytes() == run.read_bytes()
    again = attribkit.Probes.load(tmp_path / "run.npz")
    for name, value in vars(probe("run")).items():
        np.testing.assert_equal(getattr(again, name), value)
    with pytest.raises(attribkit.AttribkitError, match="holds a set of probes of layers"):
        attribkit.probe(net(), data, ["conv1"], out=tmp_path / "run")


def test_a_removed_layer_passes_on_what_it_gets() -> None:
    """The accuracy after it is that of a network that never had it; the model itself stays as it is."""
    torch.manual_seed(0)
    whole = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4, 3)
    ).eval()
    data = Labelled(inputs(60), [number % 2 for number in range(60)])
    found = attribkit.probe(whole, data, ["0", "3"], remove=["2"])
    expected = attribkit.probe(nn.Sequential(whole[0], whole[1], nn.Identity(), whole[3]), data, ["0", "3"])
    np.testing.assert_array_equal(found.right, expected.right)
    assert found.changed == "without 2"
    cut = attribkit.probe(whole, data, ["2"], keep={"2": 2})
    weight = whole[2].weight.detach().flatten(1).norm(dim=1).numpy()
    rows = [row for row in range(6) if row not in np.argsort(-weight)[:2]]
    copied = nn.Sequential(whole[0], whole[1], nn.Conv2d(6, 6, 3, padding=1))
    copied[2].load_state_dict({k: v.index_fill(0, torch.tensor(rows), 0) for k, v in whole[2].state_dict().items()})
    np.testing.assert_array_equal(cut.right, attribkit.probe(copied.eval(), data, ["2"]).right)
    assert cut.changed == "2 cut to 2 channels"


def test_what_cannot_be_left_out_is_refused() -> None:
    """With the shapes, and what can be."""
    data = Labelled(inputs(20), [number % 2 for number in range(20)])
    for change, words in (
        ({"remove": ["conv2"]}, r"'conv2' cannot be left out: it gets 6x11x11 and gives 8x9x9"),
        ({"keep": {"pool": 2}}, "MaxPool2d: channels are cut in a convolution"),
        ({"keep": {"conv1": 7}}, "has 6 channels"),
    ):
        with pytest.raises(CannotAlter, match=words):
            attribkit.probe(net(), data, ["head"], **change)
    attribkit.probe(net(), data, ["head"], remove=["relu1"])


def test_labels_come_from_folders_or_a_packed_file(tmp_path: Path) -> None:
    """Without any, the error says where they may come from; an image that cannot be read is passed over and said."""
    loaded = attribkit.load("convpool_cnn_c", "none")
    photos = folder(tmp_path / "photos", 12)
    (photos / "odd" / "bad.jpg").write_bytes(b"")
    found = attribkit.probe(loaded, photos, ["conv1"], features=96)
    assert (found.classes, found.features.tolist()) == (("even", "odd"), [96])
    assert [name for name, _ in found.unreadable] == [12]
    assert attribkit.probe(loaded, packed(tmp_path / "a.npz", 12), ["conv1"]).classes == ("even", "odd")
    with pytest.raises(attribkit.AttribkitError, match="no labels"):
        attribkit.probe(loaded, photos / "odd", ["conv1"])
