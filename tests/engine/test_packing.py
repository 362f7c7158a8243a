"""Layers whose weights are laid out beforehand give torch's own values and gradients, whatever comes at them."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attribkit
from attribkit.engine.packing import Packings, pack
from attribkit.engine.torch_private import packs

needs_packing = pytest.mark.skipif(not packs(torch.float32), reason="this torch packs no weights")


def packed(model: nn.Module, packings: Packings | None = None) -> attribkit.Rewritten:
    net = attribkit.rewrite(model, "backprop")
    pack(net, {} if packings is None else packings)
    return net


def assert_same(net: nn.Module, model: nn.Module, x: Tensor, tolerance: float = 1e-5) -> None:
    """Up and down."""
    ways = []
    for each in (net, model):
        image = x.clone().requires_grad_()
        output = each(image)
        signal = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
        ways.append((output, *torch.autograd.grad(output, image, signal)))
    for ours, theirs in zip(*ways, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def conv(*shape: Any, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(*shape, **settings).requires_grad_(False)


def laid_out(packings: Packings) -> list[Any]:
    return [packing for packing in packings.values() if packing.laid is not None]


KERNELS = [1, 3, (3, 5), 4]
MARGINS = [0, 1, (2, 1), 5]


@needs_packing
@pytest.mark.parametrize("stride", [1, 2, (1, 3)], ids=str)
@pytest.mark.parametrize(("kernel", "padding", "dilation"), list(itertools.product(KERNELS, MARGINS, [1, 2])), ids=str)
def test_every_kind_of_convolution(kernel: Any, padding: Any, dilation: int, stride: Any) -> None:
    """Margins that are wider than the kernel, too."""
    model = conv(8, 5, kernel, stride=stride, padding=padding, dilation=dilation)
    packings: Packings = {}
    net = packed(model, packings)
    for layout in (torch.channels_last, torch.contiguous_format, torch.channels_last):
        assert_same(net, model, noise(2, 8, 13, 17).contiguous(memory_format=layout))
    assert len(laid_out(packings)) == 1


@needs_packing
def test_weights_are_laid_out_for_the_first_size_and_maps_do_not_hang_on_what_came_between() -> None:
    model = nn.Sequential(conv(8, 6, 3), nn.ReLU(), conv(6, 6, 1, bias=False))
    packings: Packings = {}
    net = packed(model, packings)
    net(noise(1, 8, 14, 14))  # of which no gradient is wanted
    assert not laid_out(packings)
    for side in (9, 12, 9):
        assert_same(net, model, noise(2, 8, side, side))
        assert all(packing.laid.key[2] == of for packing, of in zip(laid_out(packings), [(9, 9), (7, 7)], strict=True))
    x = noise(1, 8, 9, 9).requires_grad_()
    maps = [torch.autograd.grad(net(x).sum(), x)[0] for _ in range(3)]
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])


@needs_packing
def test_nets_of_one_model_share_them() -> None:
    model, packings = nn.Sequential(conv(8, 6, 3), nn.ReLU()), {}
    one, other = packed(model, packings), packed(model, packings)
    assert_same(one, model, noise(1, 8, 9, 9))
    laid = packings["0"].laid
    assert laid is not None
    assert_same(other, model, noise(1, 8, 9, 9))
    assert packings["0"].laid is laid


@needs_packing
@pytest.mark.parametrize(
    "model",
    [
        conv(8, 8, 3, groups=4),
        conv(3, 8, 7, stride=2),
        conv(8, 8, 3, padding="same"),
        conv(8, 8, 3, padding=1, padding_mode="reflect"),
        conv(8, 8, 3).double(),
        nn.utils.parametrizations.weight_norm(conv(8, 8, 3)),
        type("Doubled", (nn.Conv2d,), {"_conv_forward": lambda self, x, w, b: torch.conv2d(x, 2 * w, b)})(8, 8, 3),
    ],
    ids=["groups", "image", "same", "reflect", "double", "parametrized", "subclass"],
)
def test_what_is_left_as_it_is(model: nn.Module) -> None:
    model.requires_grad_(False)
    packings: Packings = {}
    net = packed(model, packings)
    dtype = next(model.parameters()).dtype
    for _ in range(3):
        assert_same(net, model, noise(1, 3 if model.in_channels == 3 else 8, 20, 20, dtype=dtype))
    assert not laid_out(packings)


@needs_packing
@pytest.mark.parametrize("images", [noise(8, 9, 9), noise(0, 8, 9, 9)], ids=["no batch", "no image"])
def test_unusual_inputs(images: Tensor) -> None:
    model = conv(8, 8, 3, padding=1)
    net = packed(model)
    for _ in range(3):
        image = images.clone().requires_grad_()
        output = net(image)
        assert output.shape == model(images).shape
        assert torch.autograd.grad(output.sum(), image)[0].shape == images.shape


@needs_packing
def test_signals_of_any_layout() -> None:
    model = conv(8, 8, 3, padding=1)
    net = packed(model)
    for signal in (noise(1, 8, 1, 1).expand(1, 8, 9, 9), noise(1, 8, 18, 9)[:, :, ::2], noise(1, 16, 9, 9)[:, 4:12]):
        ways = []
        for each in (net, net, model):
            image = noise(1, 8, 9, 9).requires_grad_()
            ways.append(torch.autograd.grad(each(image), image, signal)[0])
        torch.testing.assert_close(ways[1], ways[2])


@needs_packing
def test_a_second_derivative_is_torchs() -> None:
    model = nn.Sequential(conv(8, 8, 3), nn.Tanh(), conv(8, 8, 3, stride=2), nn.ReLU()).requires_grad_(False)
    net = packed(model)
    seconds = []
    for each in (net, net, model):
        image = noise(1, 8, 9, 9).requires_grad_()
        (first,) = torch.autograd.grad(each(image).square().sum(), image, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), image)[0])
    torch.testing.assert_close(seconds[1], seconds[2])


@needs_packing
def test_under_vmap_torch_computes() -> None:
    model = nn.Sequential(conv(8, 8, 3), nn.ReLU())
    net = packed(model)
    for _ in range(2):
        net(noise(1, 8, 9, 9))
    x = noise(3, 1, 8, 9, 9)
    torch.testing.assert_close(torch.vmap(net)(x), torch.vmap(model)(x))


@needs_packing
def test_bfloat16() -> None:
    """The weights are rounded once, to what autocast rounds them to at each call."""
    model = nn.Sequential(conv(8, 8, 3), nn.ReLU(), conv(8, 8, 3, stride=2), nn.Flatten(), nn.Linear(72, 4)).eval()
    model.requires_grad_(False)
    packings: Packings = {}
    net = packed(model, packings)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            assert_same(net, model, noise(2, 8, 9, 9), tolerance=1e-2)
    assert len(laid_out(packings)) == 3
    for _ in range(2):  # and once more in single precision
        assert_same(net, model, noise(2, 8, 9, 9))


def test_the_model_stays_as_it_is() -> None:
    model = nn.Sequential(conv(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(392, 4)).requires_grad_(False)
    before, kept = copy.deepcopy(model.state_dict()), [set(vars(module)) for module in model.modules()]
    net = packed(model)
    for _ in range(3):
        net(noise(1, 8, 9, 9))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [set(vars(module)) for module in model.modules()] == kept
