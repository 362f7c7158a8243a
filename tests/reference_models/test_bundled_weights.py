"""The weights that come with the package are what they say they are."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import attribkit
from attribkit.reference_models import data, trained
from attribkit.reference_models.architectures import NAMES

CIFAR = Path(__file__).parents[2] / ".." / "shared" / "data" / "cifar10_jpeg.npz"
CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
BUNDLED = [name for name in NAMES if trained.bundled(name) is not None]


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_net_knows_the_cat_and_has_the_papers_layers(name: str) -> None:
    loaded = attribkit.load(name)
    with torch.no_grad():
        logits = loaded.model(loaded.preprocess(CAT)[None])
    assert loaded.labels[int(logits.argmax())] == "cat"
    assert not any(isinstance(module, nn.BatchNorm2d | nn.Dropout) for module in loaded.model.modules())
    assert not loaded.model.training


@cache
def some_test_images() -> tuple[torch.Tensor, torch.Tensor]:
    test = data.read(CIFAR).test
    return test.images[:1000].permute(0, 3, 1, 2) / 255, test.labels[:1000].clone()


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.skipif(not CIFAR.is_file(), reason="the packed CIFAR-10 is not beside the checkout")
def test_a_bundled_net_errs_as_often_as_its_file_says(name: str) -> None:
    """On a thousand of the test images, so within about three standard deviations."""
    made = trained.load(trained.bundled(name))  # type: ignore[arg-type]
    images, labels = some_test_images()
    with torch.no_grad():
        wrong = (made.net(made.normalisation(images)).argmax(1) != labels).float().mean()
    assert abs(100 * float(wrong) - made.facts["error"]) < 3.5
