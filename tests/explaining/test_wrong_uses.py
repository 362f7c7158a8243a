"""Wrong uses in Python, and what each gets: one of our errors, which says what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import attribkit
from attribkit.errors import BadType, BadValue, FileError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    below = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU()
    return nn.Sequential(*below, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


class Named(nn.Module):
    """A network that gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": self.inner(x)}


X = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))


def explain(*words: Any, **options: Any) -> Callable[[], object]:
    return lambda: attribkit.explain(net(), *words, **options)


WRONG: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "a name for a model": (
        lambda: attribkit.explain("all_cnn_c", X),  # type: ignore[call-overload]
        BadType,
        "the model is the str 'all_cnn_c': load it first, as in attribkit.load('all_cnn_c')",
    ),
    "a class for a network": (
        lambda: attribkit.explain(Named, X),
        BadType,
        "the model is the class Named: make a network of it first, as in Named(...)",
    ),
    "weights for a model": (lambda: attribkit.explain(net().state_dict(), X), BadType, "takes an nn.Module"),  # type: ignore[call-overload]
    "channels last": (explain(X.movedim(1, -1)), BadValue, "have their 3 channels last: write images.movedim(-1, 1)"),
    "one channel": (explain(X[:, :1]), BadValue, "do not have the 3 channels that the network takes"),
    "no batch": (explain(X[0]), BadValue, "images have no batch dimension; write images[None] for one image"),
    "half precision": (explain(X.half()), BadType, "write images.to(torch.float32)"),
    "double precision": (explain(X.double()), BadType, "write images.to(torch.float32)"),
    "another device": (
        explain(X.to("meta")),
        BadType,
        "images are on meta and the model is on cpu: write images.to('cpu')",
    ),
    "bytes": (explain((X * 255).byte()), BadType, "not torch.uint8; preprocess them first"),
    "an array": (explain(X.numpy()), BadType, "not ndarray; preprocess them first"),
    "a path": (explain("cat.jpg"), BadType, "not str; preprocess them first"),
    "a picture": (explain(Image.new("RGB", (20, 20))), BadType, "not Image; preprocess them first"),
    "an image too small": (explain(X[..., :4, :4]), BadValue, "images of 4x4 are too small for this network"),
    "a layer that is not there": (explain(X, layer="conv1"), BadValue, "no layer 'conv1' in Sequential; the nearest:"),
    "a layer by number": (explain(X, layer=3), BadType, "layer= takes a module's path or the module, not int"),
    "a module of another model": (explain(X, layer=nn.ReLU()), BadValue, "is no module of the model"),
    "a rule that is not there": (explain(X, "gbp"), BadValue, "choose one of backprop, deconvnet, guided"),
    "a rule by number": (explain(X, 3), BadType, "method is the name of a rule, a Rule, or a list of these, not int"),
    "a class for a layer": (explain(X, layer="3", target=2), BadValue, "with layer= write channel="),
    "a channel without a layer": (explain(X, channel=2), BadValue, "for a class of the output write target="),
    "a channel that is not there": (
        explain(X, layer="3", channel=8),
        BadValue,
        "has 8 channels, 0 to 7; there is no 8",
    ),
    "several for one": (explain(X, target=[1, 2, 3]), BadValue, "targets= takes several for every image"),
    "half a class": (explain(X, target=2.5), BadType, "target= takes whole numbers, not 2.5"),
    "a label that nobody knows": (explain(X, target="cat"), BadValue, "give the number of 'cat'"),
    "a position in one number": (
        explain(X, layer="3", at=3),
        BadType,
        "a position in whole numbers such as (4, 7), not 3",
    ),
    "half a position": (explain(X, layer="3", at=(1.5, 2)), BadType, "a position in whole numbers such as (4, 7)"),
    "a position outside": (explain(X, layer="3", at=(30, 2)), BadValue, "no position (30, 2) in a map of 7x7"),
    "switches by file": (explain(X, switches="cat.safetensors"), BadValue, "read a file with Switches.load(path)"),
    "activations by name": (explain(X, activations="relu"), BadValue, "activations is one of 'rectifiers', 'all'"),
    "an output of several": (lambda: attribkit.explain(Named(), X), BadType, "the output is a dict; pass output="),
    "a format that is not written": (lambda: attribkit.explain(net(), X).save("x.jpg"), BadValue, "x.jpg"),
    "a view that is not there": (lambda: attribkit.explain(net(), X).save("x.png", view="grey"), BadValue, "'classic'"),
    "a result that is not there": (lambda: attribkit.Attribution.load("no.npz"), FileError, "there is no file no.npz"),
    "a network to load": (lambda: attribkit.load(net()), BadType, "load takes a model's name, not Sequential"),  # type: ignore[arg-type]
    "a model that is not there": (lambda: attribkit.load("resnet51"), BadValue, "no model 'resnet51'; the nearest:"),
    "floats to preprocess": (
        lambda: attribkit.load("all_cnn_c", "none").preprocess(np.zeros((9, 9, 3))),
        BadValue,
        "an array of height x width x 3 uint8, not float64 of (9, 9, 3)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_use_is_answered_by_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call, kind, words = WRONG[name]
    with pytest.raises(kind) as caught:
        call()
    assert isinstance(caught.value, attribkit.AttribkitError)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_a_model_says_itself_is_passed_on() -> None:
    """Where images fit, an error is the model's own."""

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of cheese")

    with pytest.raises(RuntimeError, match=r"^out of cheese$"):
        attribkit.explain(Broken(), X)


def test_a_layer_may_be_the_module_itself() -> None:
    model = net()
    by_module, by_path = attribkit.explain(model, X, layer=model[3]), attribkit.explain(model, X, layer="3")
    assert by_module.units == by_path.units
    assert by_module.values.equal(by_path.values)


def test_a_result_is_a_sequence_of_maps() -> None:
    result = attribkit.explain(net(), X, layer="3", channels=[1, 2, 4])
    assert len(result) == 6
    assert [each.units[0] for each in result] == list(result.units)
    assert result[-1].values.equal(result.values[-1:])
    assert result[1:3].units == result.units[1:3]
    assert result[1:3].values.equal(result.values[1:3])
    assert np.array_equal(np.asarray(result), result.values.numpy())
    with pytest.raises(IndexError):
        result[6]


def test_a_list_of_pictures_becomes_a_batch() -> None:
    loaded = attribkit.load("all_cnn_c", "none")
    pictures = [np.full((40, 50, 3), shade, np.uint8) for shade in (0, 99)]
    batch = loaded.preprocess(pictures)
    assert batch.equal(torch.stack([loaded.preprocess(picture) for picture in pictures]))
    plain = attribkit.adapters.preprocessing.Plain()
    with pytest.raises(BadValue, match="inputs of one size, and these are of 40x50, 30x50: give size="):
        plain([pictures[0], pictures[1][:30]])
    with pytest.raises(BadValue, match="none"):
        plain([])


def test_a_loaded_model_is_named_in_a_line() -> None:
    assert repr(attribkit.load("all_cnn_c", "none")) == "LoadedModel(reference:all_cnn_c, Sequential, weights none)"
