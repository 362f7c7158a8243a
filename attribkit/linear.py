"""Linear steps that keep nothing of the image.

The weights of a rewritten network are constants, so the way down through a convolution or an eval-mode batch norm
needs the weights alone. torch keeps the input as well, for a gradient of the weights that nobody asks for, and that
is the larger part of a map's memory. The arithmetic is torch's own in both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attribkit.functions import Quick, hooked

aten = torch.ops.aten


class _Convolve(Quick):
    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        function: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ) -> Tensor:
        return function(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, _, *ctx.settings = inputs
        ctx.dtype, ctx.size = x.dtype, x.shape[2:]
        ctx.save_for_backward(weight)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        rank = len(ctx.size)
        stride, padding, dilation = (_each(setting, rank) for setting in (stride, padding, dilation))
        # What the last windows of a stride left over.
        spare = [
            size - (signal.shape[2 + d] - 1) * stride[d] + 2 * padding[d] - dilation[d] * (weight.shape[2 + d] - 1) - 1
            for d, size in enumerate(ctx.size)
        ]
        weight = weight.to(signal.dtype)
        below = aten.convolution.default(signal, weight, None, stride, padding, dilation, True, spare, groups)
        return below.to(ctx.dtype), *[None] * 7


def _each(setting: int | tuple[int, ...], rank: int) -> list[int]:
    return [setting] * rank if isinstance(setting, int) else list(setting) * (rank if len(setting) == 1 else 1)


class _Normalise(Quick):
    @staticmethod
    def forward(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, torch.backends.cudnn.enabled)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, var, weight, _, ctx.eps = inputs
        ctx.shape = (-1, *[1] * (x.dim() - 2))
        ctx.save_for_backward(var, weight)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor | None, ...]:
        var, weight = ctx.saved_tensors
        scale = torch.rsqrt(var + ctx.eps)
        scale = scale if weight is None else scale * weight
        return signal * scale.to(signal.dtype).reshape(ctx.shape), *[None] * 5


def _convolution(function: Any) -> Callable[..., Tensor | None]:
    def run(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor | None:
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        if trained or isinstance(padding, str) or input.dim() != weight.dim():
            return None
        return _Convolve.run(input, weight, bias, function, stride, padding, dilation, groups)

    return run


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if training or running_mean is None or running_var is None:
        return None
    if any(t is not None and t.requires_grad for t in (running_mean, running_var, weight, bias)):
        return None
    return _Normalise.run(input, running_mean, running_var, weight, bias, eps)


FUNCTIONS: dict[Any, Callable[..., Tensor | None]] = {
    **{function: _convolution(function) for function in (torch.conv1d, torch.conv2d, torch.conv3d)},
    F.batch_norm: _batch_norm,
}


def without_input(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The result of a linear step, keeping nothing of its input; None for what has to be left to torch."""
    run = FUNCTIONS.get(function)
    return None if run is None or hooked() else run(*args, **kwargs)
