"""A rewritten max-pool finds what torch's finds, and in the same places: of equal values the same, and NaN."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attribkit
from attribkit.engine.pooling import MaxPool


def planes() -> Tensor:
    """Planes of noise, of few different values, of one, of zeros of both signs, of infinities, and with a NaN."""
    x = torch.randn(2, 6, 9, 11, generator=torch.Generator().manual_seed(0))
    x[0, 1] = x[0, 1].round()
    x[0, 2] = -1.0
    x[0, 3] = torch.where(x[0, 3] > 0, 0.0, -0.0)
    x[0, 4] = -torch.inf
    x[0, 5, 3, 4] = torch.nan
    return x


SETTINGS = [
    *itertools.product([(2, 2), (3, 2)], [(1, 1), (2, 2), (3, 1)], [(0, 0), (1, 1)], [(1, 1), (2, 3)], [False, True])
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_and_indices_are_those_of_torch(dtype: torch.dtype, settings: tuple[Any, ...]) -> None:
    """For a kernel, a stride, a padding, a dilation and a ceil mode."""
    x = planes().to(dtype)
    values, indices = F.max_pool2d(x, *settings, return_indices=True)
    ours, places = MaxPool(2, False, *settings).forward(x)
    assert torch.equal(places, indices)
    assert torch.equal(ours.nan_to_num(7.0), values.nan_to_num(7.0))
    assert torch.equal(ours.signbit(), values.signbit())
    assert ours.is_contiguous()
    assert places.is_contiguous()


@pytest.mark.parametrize("shape", [(2, 1, 6, 6), (1, 3, 2, 2), (3, 6, 6), (0, 3, 6, 6), (2, 3, 6, 1)], ids=str)
def test_planes_of_any_shape(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    window = (2, 1)
    values, indices = F.max_pool2d(x, window, return_indices=True)
    ours, places = MaxPool(2, False, window, window, (0, 0), (1, 1)).forward(x)
    assert torch.equal(ours, values)
    assert torch.equal(places, indices)


def test_channels_that_come_last_stay_there() -> None:
    x = planes()[:1, :4].contiguous(memory_format=torch.channels_last)
    values, indices = F.max_pool2d(x, 2, return_indices=True)
    ours, places = MaxPool(2, False, (2, 2), (2, 2), (0, 0), (1, 1)).forward(x)
    assert torch.equal(ours, values)
    assert torch.equal(places, indices)
    assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("switches", ["own", "uniform", "center", "corner", "recorded"])
@pytest.mark.parametrize("rule", ["backprop", "deconvnet", "guided"])
def test_a_batch_without_images_goes_down(rule: str, switches: str) -> None:
    """As it does in torch: through a convolution with steps, and pools that overlap."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.AdaptiveMaxPool2d(2)).eval()
    recorded = attribkit.record_switches(model, torch.rand(1, 3, 16, 16))
    for overlap in ("add", "overwrite"):
        ways = recorded if switches == "recorded" else switches
        net = attribkit.rewrite(model, rule, switches=ways, overlap=overlap)  # type: ignore[arg-type]
        x = torch.rand(0, 3, 16, 16).requires_grad_()
        assert torch.autograd.grad(net(x).sum(), x)[0].shape == x.shape
