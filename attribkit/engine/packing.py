"""Weights laid out once as a processor's kernels read them, which torch does at each call.

Which order is best hangs on the size of the planes. So weights are laid out for the first size of which a gradient is
wanted, and planes of other sizes go torch's way: a map does not hang on what was asked in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribkit.engine.autograd import Quick, eager
from attribkit.engine.linear import dense_strides, down_a_convolution, is_lean, is_of_an_image
from attribkit.engine.shadow import NAME
from attribkit.engine.torch_private import (
    convolve_packed,
    disable_torch_function,
    packed,
    packs,
    saved_tensors_hooked,
)

Pair = tuple[int, ...]


def pack(net: nn.Module, packings: Packings) -> None:
    """Have a rewritten network keep packed weights beside its own.

    Args:
        net: Its convolutions and linear layers, those of torch's own classes, are given another `forward`.
        packings: Of other networks of the same model, with whom they are shared; what is missing is added.
    """
    for module in net.modules():
        if type(module) is nn.Conv2d and is_lean(module) and _can_be_packed(module):
            packing = packings.setdefault(vars(module)[NAME], Packing())
            module.__dict__["_conv_forward"] = partial(_convolve, module, packing, module._conv_forward)
        elif type(module) is nn.Linear and "forward" not in vars(module) and _stays(module):
            packing = packings.setdefault(vars(module)[NAME], Packing())
            module.__dict__["forward"] = partial(_multiply, module, packing)


@dataclass(frozen=True, eq=False)
class Laid:
    """The weights of a layer, rounded and laid out.

    Attributes:
        key: What they are for: a type, and of a convolution the size of planes and the settings.
        weight: As torch has it.
        up: As the way up reads it.
        down: As the way down reads it, where that is a convolution without steps too.
    """

    key: tuple[Any, ...]
    weight: Tensor
    bias: Tensor | None
    up: Tensor | None = None
    down: Tensor | None = None


@dataclass(eq=False)
class Packing:
    """The weights of one layer, once they are laid out."""

    laid: Laid | None = None

    def of(self, key: tuple[Any, ...], wanted: bool, lay_out: Callable[[], Laid]) -> Laid | None:
        """Those for such a call; None where they are for another, or for none yet and not wanted."""
        if self.laid is None and wanted:
            self.laid = lay_out()
        return self.laid if self.laid is not None and self.laid.key == key else None


Packings = dict[str, Packing]
"""By the paths of the layers."""


def _stays(module: nn.Module) -> bool:
    """Whether a layer's weights are its own, and on this side of a GPU; nobody trains those of a rewritten network."""
    weight = module._parameters.get("weight")
    return weight is not None and weight.is_cpu and not weight.requires_grad


def _type_of(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """That in which a layer computes; None where that is not for packed weights."""
    if type(x) is not Tensor or not x.is_cpu or not x.numel() or not eager() or saved_tensors_hooked():
        return None
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return x.dtype if x.dtype == weight.dtype else None


def _wants_gradient(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


# ---------------------------------------------------------------------------------------------------- convolutions


def _can_be_packed(conv: nn.Conv2d) -> bool:
    if not _stays(conv) or isinstance(conv.padding, str) or conv.padding_mode != "zeros" or conv.groups != 1:
        return False
    return not is_of_an_image(conv.weight, conv.stride, conv.dilation, conv.groups)


def _convolve(conv: Any, packing: Packing, otherwise: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The `_conv_forward` of a convolution."""
    dtype = _type_of(x, weight)
    if x.dim() == 4 and dtype is not None and packs(dtype):
        settings = conv.stride, conv.padding, conv.dilation
        key = (dtype, weight._version, x.shape[2:], *settings)
        with disable_torch_function():
            laid = packing.of(
                key, _wants_gradient(x), lambda: _laid_out(key, x.shape, weight.to(dtype), bias, *settings)
            )
            if laid is not None:
                return _Packed.run(x.to(dtype), laid, *settings)
    return otherwise(x, weight, bias)


def _laid_out(
    key: Any, shape: torch.Size, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
) -> Laid:
    bias = None if bias is None else bias.to(weight.dtype)
    plain = weight.contiguous()
    up, down = packed(plain, padding, stride, dilation, shape), None
    margin = _margin(weight, padding, dilation)
    if max(stride) == 1 and min(margin) >= 0:
        turned = plain.transpose(0, 1).flip(2, 3).contiguous()
        above = (side + pad - more for side, pad, more in zip(shape[2:], padding, margin, strict=True))
        down = packed(turned, margin, stride, dilation, (shape[0], len(weight), *above))
    return Laid(key, weight, bias, up, down)


def _margin(weight: Tensor, padding: Pair, dilation: Pair) -> list[int]:
    """The padding of the convolution that leads down through one without steps."""
    return [far * (side - 1) - pad for far, side, pad in zip(dilation, weight.shape[2:], padding, strict=True)]


class _Packed(Quick):
    @staticmethod
    def forward(x: Tensor, laid: Laid, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
        assert laid.up is not None  # of a convolution
        return convolve_packed(x, laid.up, laid.bias, stride, padding, dilation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.laid, *ctx.settings = inputs
        ctx.shape, ctx.strides = x.shape, dense_strides(x)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor | None, ...]:
        laid, (stride, padding, dilation) = ctx.laid, ctx.settings
        if laid.down is None or signal.requires_grad:  # somebody asks for a second derivative, which packed ones lack
            below = down_a_convolution(signal, laid.weight, ctx.shape, ctx.strides, stride, padding, dilation, 1)
        else:
            margin = _margin(laid.weight, padding, dilation)
            below = convolve_packed(signal, laid.down, None, stride, margin, dilation)
        return below, None, None, None, None


# --------------------------------------------------------------------------------------------------- linear layers


def _multiply(layer: nn.Linear, packing: Packing, x: Tensor) -> Tensor:
    """The `forward` of a linear layer; in single precision torch's own, since its weights are read as they lie."""
    weight, bias = layer.weight, layer.bias
    dtype = _type_of(x, weight)
    if dtype is None or dtype == weight.dtype:
        return F.linear(x, weight, bias)
    key = dtype, weight._version
    laid = packing.of(
        key, _wants_gradient(x), lambda: Laid(key, weight.to(dtype), None if bias is None else bias.to(dtype))
    )
    return F.linear(x, weight, bias) if laid is None else F.linear(x, laid.weight, laid.bias)
