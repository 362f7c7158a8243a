"""Moved pictures: planted invariances are found, every number is that of a plain loop, and files are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from studied import inputs, net, pictures
from torch import Tensor, nn

import attribkit
from attribkit.studies import moves, seen

LAYERS = ["conv1", "relu2", "head"]


class Mirrored(nn.Module):
    """The same for a picture and its mirror image from the pooled features on, and not before."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.both = nn.Identity()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        one, other = (torch.relu(self.conv(y)).amax((2, 3)) for y in (x, x.flip(3)))
        return self.head(self.both(one + other))


class Inside(nn.Module):
    """Looks at blocks of four by four pixels, and pools over all of them: a shift by four changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Conv2d(3, 8, 4, stride=4, bias=False)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(x).relu()).flatten(1))


def test_a_planted_invariance_to_flips_is_found() -> None:
    """Distance 0 for the flip that is planted, exactly; not for the other flip, nor in the layer before."""
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = attribkit.invariance(Mirrored(), x, ["conv", "both", "head"], moves={"flip": [0, 1]})
    assert (found.distance[:, 1:, 0] == 0).all()
    assert (found.probability[:, 0] == found.clean[:, 0]).all()
    assert (found.distance[:, 0] > 0.1).all()
    assert (found.distance[:, 1:, 1] > 1e-3).all()


def test_a_planted_invariance_to_shifts_by_the_stride_is_found() -> None:
    """An object on grey may move by the stride, and by nothing in between."""
    x = torch.zeros(3, 3, 32, 32)
    x[:, :, 12:20, 12:20] = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    shifts = [step / 32 for step in (-8, -4, -2, 2, 4, 8)]
    found = attribkit.invariance(Inside(), x, ["blocks", "pool"], moves={"down": shifts, "right": shifts})
    by_stride = [0, 1, 4, 5, 6, 7, 10, 11]
    between = [2, 3, 8, 9]
    assert np.abs(found.distance[:, 1, by_stride]).max() < 1e-6
    assert (found.distance[:, 1, between] > 1e-2).all()
    assert (found.distance[:, 0] > 0.1).all()


def test_every_number_is_that_of_a_plain_loop() -> None:
    """One input after the other, moved by hand, through the untouched model."""
    model, x = net(), inputs(3)
    given = {"right": [3 / 24], "rotation": [90.0, 180.0], "flip": [1]}
    found = attribkit.invariance(model, x, LAYERS, target=[0, 1, 2], moves=given)
    by_hand = [
        lambda image: np.concatenate([np.zeros((3, 24, 3), np.float32), image[:, :, :-3]], 2),
        lambda image: np.rot90(image, 1, (1, 2)),
        lambda image: np.rot90(image, 2, (1, 2)),
        lambda image: image[:, ::-1],
    ]
    for number, image in enumerate(x.numpy()):
        clean, logits = _run(model, image)
        next_one, _ = _run(model, x[(number + 1, 1)[number == 2]].numpy())
        for column, move in enumerate(by_hand):
            features, answer = _run(model, move(image))
            for row in range(3):
                _same(found.distance[number, row, column], _far(features[row], clean[row]))
                _same(found.other[number, row], _far(next_one[row], clean[row]))
            chances = np.exp(answer) / np.exp(answer).sum()
            _same(found.probability[number, column], chances[number])
            assert found.best[number, column] == answer.argmax()
        assert found.clean[number, 1] == logits.argmax()
    np.testing.assert_allclose(found.border[:, :2], [[0.125, 0.0]] * 3, atol=1e-6)
    assert found.target == (0, 1, 2)


def _run(model: nn.Module, image: Any) -> tuple[list[Any], Any]:
    """What the layers give for one image, by hooks; and the logits."""
    kept: list[Any] = []
    layers = [model.get_submodule(layer) for layer in LAYERS]
    handles = [
        layer.register_forward_hook(lambda m, a, out: kept.append(out.double().numpy().ravel())) for layer in layers
    ]
    with torch.no_grad():
        answer = model(torch.from_numpy(np.ascontiguousarray(image))[None])
    for handle in handles:
        handle.remove()
    return kept, answer[0].double().numpy()


def _far(features: Any, clean: Any) -> float:
    total = sum((float(a) - float(b)) ** 2 for a, b in zip(features, clean, strict=True))
    return float(total**0.5 / sum(float(b) ** 2 for b in clean) ** 0.5)


def _same(one: float, other: float) -> None:
    assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_a_picture_is_moved_before_its_preprocessing() -> None:
    """What the model's crop leaves out comes in; what lies beyond the picture is grey, and its share is said."""
    picture = np.zeros((60, 100, 3), np.uint8)
    picture[:, :20] = 255
    asked: list[Any] = []

    class Preprocess:
        def picture(self, given: Any) -> Any:
            return given

        def __call__(self, given: Any, size: Any = None) -> Tensor:
            asked.append(given)
            return torch.from_numpy(given[:, 20:80].copy()).permute(2, 0, 1).float() / 255

        def undo(self, x: Tensor) -> Any:
            return (x * 255).byte().permute(1, 2, 0).numpy()

    class Loaded:
        model, output, labels, preprocess = (
            nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()).eval(),
            None,
            (),
            Preprocess(),
        )

    found = attribkit.invariance(Loaded(), [picture], ["0"], moves={"right": [0.25, -0.5], "scale": [0.5]})
    by_quarter, by_half = asked[1:3]
    assert (by_quarter[:, :15] == 128).all()
    assert (by_quarter[:, 15:35] == 255).all()
    assert (by_half[:, 70:] == 128).all()
    np.testing.assert_allclose(found.border[0], [0, 10 / 60, 1 - 50 * 30 / 60**2], atol=0.02)
    assert np.isnan(found.other).all()


def test_moves_are_those_of_numpy() -> None:
    """Shifts, quarter turns and flips of bytes and of floats are exact."""
    (picture,) = pictures(1, 24)
    turned = moves.moved(picture, moves.Move("rotation", 90.0), [128] * 3)
    assert (turned == np.rot90(picture)).all()
    shifted = moves.moved(picture.astype(np.float32), moves.Move("down", -6 / 24), [0.5] * 3)
    assert (shifted[:18] == picture[6:]).all()
    assert (shifted[18:] == 0.5).all()
    larger = moves.moved(picture, moves.Move("scale", 2.0), [128] * 3)
    expected = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)[12:36, 12:36]
    assert np.abs(larger.astype(int)[2:-2, 2:-2] - expected[2:-2, 2:-2]).max() <= 2


def test_a_run_that_was_stopped_goes_on_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found of an image is kept, and not found again; another question does not take it."""
    x, given = inputs(3), {"down": [0.125, 0.25]}
    expected = attribkit.invariance(net(), x, LAYERS, moves=given)
    compared, calls = seen.Seen.compared, [0]

    def stopped(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return compared(*args)

    monkeypatch.setattr(seen.Seen, "compared", stopped)
    with pytest.raises(KeyboardInterrupt):
        attribkit.invariance(net(), x, LAYERS, moves=given, out=tmp_path)
    found = attribkit.invariance(net(), x, LAYERS, moves=given, out=tmp_path)
    assert calls[0] == 4
    expected.save(tmp_path / "expected.npz")
    found.save(tmp_path / "found.npz")
    assert (tmp_path / "expected.npz").read_bytes() == (tmp_path / "found.npz").read_bytes()
    again = attribkit.Invariance.load(tmp_path / "found.npz")
    for name, value in vars(found).items():
        np.testing.assert_equal(getattr(again, name), value)
    attribkit.invariance(net(), x, LAYERS, target=1, moves=given, out=tmp_path)
    assert calls[0] == 7


def test_layers_are_spread_where_none_is_named() -> None:
    """Those with weights, the first and the last among them."""
    found = attribkit.invariance(net(), inputs(1), moves={"flip": [0]})
    assert found.layers == ("conv1", "conv2", "head")


def test_what_makes_no_sense_is_refused() -> None:
    x = inputs(2)
    for wrong, words in (
        ({"layers": ["conv9"]}, "nearest"),
        ({"moves": {"twist": [1]}}, "not by 'twist'"),
        ({"moves": {"scale": [0]}}, "makes no sense"),
        ({"moves": {"flip": [2]}}, "a flip is 0"),
        ({"moves": {}}, "no move was named"),
        ({"target": 7}, "5 outputs"),
        ({"target": [1]}, "one per image"),
    ):
        with pytest.raises(attribkit.AttribkitError, match=words):
            attribkit.invariance(net(), x, **wrong)
    with pytest.raises(attribkit.AttribkitError, match="no images"):
        attribkit.invariance(net(), x[:0])
    with pytest.raises(attribkit.AttribkitError, match="preprocessing"):
        attribkit.invariance(net(), ["cat.jpg"])
