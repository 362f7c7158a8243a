"""On a GPU everything says what it says on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import studied
import torch
import torchvision
from studied import Inputs
from torch import Tensor, nn

import attribkit

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS:UserWarning"),  # torch's, of its own first thread
]

METHODS = ["backprop", "deconvnet", "guided"]


@pytest.fixture(autouse=True)
def no_tf32() -> Iterator[None]:
    """Convolutions in float32 on both: by default a GPU rounds what they multiply to ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """The same network twice, on the CPU and on the GPU; the weights are random."""
    torch.manual_seed(0)
    kwargs = {"init_weights": True} if name == "googlenet" else {}
    own = getattr(torchvision.models, name)(weights=None, **kwargs).eval()
    other = getattr(torchvision.models, name)(weights=None, **kwargs).eval()
    other.load_state_dict(own.state_dict())
    return own, other.cuda()


def photographs(count: int, side: int) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other.cpu()).norm() / one.norm())


@pytest.mark.parametrize(
    ("name", "switches"),
    [
        ("vgg11", "own"),
        ("vgg11", "uniform"),
        ("resnet18", "center"),
        ("googlenet", "corner"),
        ("mobilenet_v2", "own"),
        ("squeezenet1_1", "uniform"),
    ],
)
def test_maps_of_a_class_are_those_of_the_cpu(name: str, switches: Any) -> None:
    """Few values may differ: where a unit is within rounding of zero, its gate is open on one of them only."""
    own, other = pair(name)
    images = photographs(2, 128)
    here = attribkit.explain(own, images, method=METHODS, target=[3, 5], switches=switches)
    there = attribkit.explain(other, images.cuda(), method=METHODS, target=[3, 5], switches=switches)
    for method in METHODS:
        assert there[method].values.device.type == "cuda"
        assert apart(here[method].values, there[method].values) < 1e-2
    assert [site.name for site in here["guided"].sites] == [site.name for site in there["guided"].sites]
    assert next(other.parameters()).device.type == "cuda"


@pytest.mark.parametrize("at", ["max", (4, 5)])
def test_maps_of_a_unit_are_those_of_the_cpu(at: Any) -> None:
    """A unit that sees less than the image is explained on the part that it sees."""
    own, other = pair("vgg11")
    images = photographs(3, 160)
    here = attribkit.explain(own, images, method="guided", layer="features.8", channel=[1, 2, 3], at=at)
    there = attribkit.explain(other, images.cuda(), method="guided", layer="features.8", channel=[1, 2, 3], at=at)
    assert apart(here.values, there.values) < 1e-3
    for unit, other_unit in zip(here.units, there.units, strict=True):
        assert other_unit.activation == pytest.approx(unit.activation, rel=1e-3, abs=1e-4)


def test_switches_of_one_serve_on_the_other() -> None:
    own, other = pair("vgg11")
    images = photographs(1, 64)
    recorded = attribkit.record_switches(other, images.cuda())
    here = attribkit.explain(own, images, method="deconvnet", switches=attribkit.record_switches(own, images))
    there = attribkit.explain(other, images.cuda(), method="deconvnet", switches=recorded)
    assert apart(here.values, there.values) < 1e-3


def test_a_gallery_has_the_winners_of_the_cpu() -> None:
    images = studied.inputs(30)
    here = attribkit.gallery(studied.net(), Inputs(images), layer="relu2", top=4)
    there = attribkit.gallery(studied.net().cuda(), Inputs(images), layer="relu2", top=4)
    np.testing.assert_array_equal(here.image, there.image)
    np.testing.assert_allclose(here.value, there.value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(here.maps(1), there.maps(1), rtol=1e-2, atol=1e-4)


def test_occlusion_finds_what_it_finds_on_the_cpu() -> None:
    own, other = pair("resnet18")
    images = photographs(1, 96)
    here = attribkit.occlude(own, images, window=16, stride=16, fill=0)
    there = attribkit.occlude(other, images.cuda(), window=16, stride=16, fill=0)
    np.testing.assert_allclose(here.probability, there.probability, rtol=1e-3, atol=1e-5)
