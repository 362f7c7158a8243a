"""Layers by their names, and the calls of one layer."""

from __future__ import annotations

import pytest
from torch import nn

from attribkit.explaining.calls import address


def a_model() -> nn.Module:
    names = {
        "features": nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()),
        "conv_head": nn.Conv2d(1, 1, 1),
        "fc": nn.Flatten(),
    }
    model = nn.Module()
    for name, module in names.items():
        model.add_module(name, module)
    return model


@pytest.mark.parametrize("layer", ["features", "features.0", "features.1", "conv_head", "fc"])
def test_layers_that_are_there(layer: str) -> None:
    """Every module path is a layer, a container's too."""
    assert address(a_model(), layer) == (layer, None)
    assert address(a_model(), f"{layer}:3") == (layer, 3)


@pytest.mark.parametrize(
    ("layer", "near"),
    [("feature.0", "features.0"), ("convhead", "conv_head"), ("features.7", "features.1"), ("conv_head ", "conv_head")],
)
def test_layers_that_are_not_there(layer: str, near: str) -> None:
    """An unknown path is told with the nearest ones."""
    with pytest.raises(ValueError, match=rf"no layer '{layer}' in Module; the nearest: .*{near}"):
        address(a_model(), layer)


def test_a_layer_like_no_other() -> None:
    """Where nothing is near some layer is named, so that the way they are written is seen."""
    with pytest.raises(ValueError, match=r"no layer 'xyzzy'.*fc"):
        address(a_model(), "xyzzy")


def test_a_module_with_a_colon_in_its_name() -> None:
    """What is a module's own name is no address of a call."""
    model = nn.Module()
    model.add_module("conv:1", nn.Conv2d(1, 1, 1))
    model.add_module("conv", nn.Conv2d(1, 1, 1))
    assert address(model, "conv:1") == ("conv:1", None)
    assert address(model, "conv:1:1") == ("conv:1", 1)
    assert address(model, "conv:2") == ("conv", 2)
