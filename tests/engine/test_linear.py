"""Convolutions go down as torch's own gradient does, also where a quicker way is taken to the image."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attribkit


def downs(conv: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """A signal that has come down through a convolution: by ours, and by torch's."""
    ways = []
    for net in (attribkit.rewrite(conv, "backprop"), conv):
        image = x.clone().requires_grad_()
        output = net(image)
        signal = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(x)
        ways.append(torch.autograd.grad(output, image, signal)[0])
    return ways[0], ways[1]


def conv(rank: int, *shape: Any, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1](*shape, **settings, dtype=torch.float64)
    return module.requires_grad_(False)


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    "settings", [{"groups": 6}, {"groups": 6, "stride": 2}, {"groups": 3, "stride": (1, 2)}], ids=str
)
def test_grouped_convolutions_in_bfloat16(settings: dict[str, Any]) -> None:
    """As in double precision, but for the rounding of what goes in and comes out."""
    exact = conv(2, 6, 6, 3, padding=1, **settings)
    x = image(2, 6, 9, 9)
    for layout in (torch.contiguous_format, torch.channels_last):
        ours, _ = downs(copy.deepcopy(exact).bfloat16(), x.bfloat16().contiguous(memory_format=layout))
        _, theirs = downs(exact, x)
        assert ours.dtype == torch.bfloat16
        assert (ours - theirs).abs().max() <= 0.03 * theirs.abs().max()


KERNELS = [7, 4, 1, (3, 5), (2, 3)]
STEPS = [2, 3, (2, 5), (4, 3)]
MARGINS = [0, 1, (0, 3)]


@pytest.mark.parametrize(("kernel", "stride", "padding"), list(itertools.product(KERNELS, STEPS, MARGINS)), ids=str)
def test_a_convolution_with_steps_over_an_image(kernel: Any, stride: Any, padding: Any) -> None:
    """Whatever is left over at the right and the bottom, and where steps are longer than windows."""
    for colours, size in ((1, (19, 23)), (3, (11, 30)), (4, (12, 12))):
        ours, theirs = downs(conv(2, colours, 5, kernel, stride=stride, padding=padding), image(2, colours, *size))
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("rank", "shape", "settings"),
    [
        (2, (3, 6, 3), {"stride": 2, "dilation": 2}),
        (2, (3, 6, 3), {"stride": 2, "groups": 3}),
        (2, (3, 6, 3), {"stride": (1, 2)}),
        (2, (3, 6, 3), {"padding": 1}),
        (2, (5, 6, 3), {"stride": 2}),
        (1, (3, 6, 3), {"stride": 2}),
        (3, (3, 6, 3), {"stride": 2, "padding": 1}),
        (2, (3, 6, 3), {"padding": "same"}),
        (2, (3, 6, 3), {"stride": 2, "padding": 1, "padding_mode": "reflect"}),
    ],
    ids=str,
)
def test_other_convolutions(rank: int, shape: tuple[int, ...], settings: dict[str, Any]) -> None:
    ours, theirs = downs(conv(rank, *shape, **settings), image(2, shape[0], *[13] * rank))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("colours", [3, 8])
def test_channels_may_come_last(colours: int) -> None:
    x = image(2, colours, 13, 13).contiguous(memory_format=torch.channels_last)
    ours, theirs = downs(conv(2, colours, 6, 3, stride=2).to(memory_format=torch.channels_last), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_gradient_of_the_gradient() -> None:
    """What goes down through a strided convolution of an image can be differentiated by the signal again."""
    net = attribkit.rewrite(conv(2, 3, 4, 3, stride=2, padding=1), "backprop")
    x = image(1, 3, 8, 8).requires_grad_()
    output = net(x)
    signal = torch.ones_like(output, requires_grad=True)
    below = torch.autograd.grad(output, x, signal, create_graph=True)[0]
    # The way down is linear, so that the way down of what it gives is the way up, without the bias.
    (again,) = torch.autograd.grad(below, signal, x.detach())
    torch.testing.assert_close(again, output.detach() - net.model.bias.view(-1, 1, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels", [3, 8])
def test_an_input_may_lie_anyhow_in_memory(channels: int) -> None:
    """A part of a larger tensor, turned, or one row that stands for all."""
    whole = image(2, 2 * channels, 30, 30)
    row = whole[:, :channels, :1, ::2]
    for x in (whole[:, ::2, 1::2, 2::2], whole.mT[:, :channels, :13], row.expand(-1, -1, 15, -1)):
        net = attribkit.rewrite(conv(2, channels, 4, 3, padding=1), "backprop")
        plain = conv(2, channels, 4, 3, padding=1)
        gradients = []
        for run in (net, plain):
            signal = torch.ones((), dtype=x.dtype, requires_grad=True)
            gradients.append(torch.autograd.grad((run(x * 0 + x.detach() * signal) ** 2).sum(), signal)[0])
        torch.testing.assert_close(*gradients)
