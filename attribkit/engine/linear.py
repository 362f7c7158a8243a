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
from torch import Tensor, nn

from attribkit.engine.autograd import Quick, hooked


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
        stride, padding, dilation = _each(stride, rank), _each(padding, rank), _each(dilation, rank)
        # What the last windows of a stride left over.
        spare = [
            (size + 2 * p - d * (kernel - 1) - 1) % s
            for size, kernel, s, p, d in zip(ctx.size, weight.shape[2:], stride, padding, dilation, strict=True)
        ]
        weight = weight.to(signal.dtype)
        below = torch.convolution(signal, weight, None, stride, padding, dilation, True, spare, groups)
        return below.to(ctx.dtype), None, None, None, None, None, None, None


def _each(setting: int | tuple[int, ...], rank: int) -> tuple[int, ...]:
    if isinstance(setting, int):
        return (setting,) * rank
    return setting if len(setting) == rank else setting * rank


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
        return signal * scale.to(signal.dtype).reshape(ctx.shape), None, None, None, None, None


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
    for tensor in (running_mean, running_var, weight, bias):
        if tensor is not None and tensor.requires_grad:
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


# ------------------------------------------------------------- torch's own modules, which need no lift to be caught


class _LeanConv:
    """Before `nn.Conv1d`, 2d or 3d in a class's bases."""

    function: Any

    def _conv_forward(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        lean = None
        if not torch.compiler.is_compiling() and self.padding_mode == "zeros":
            settings = (self.stride, self.padding, self.dilation, self.groups)
            with torch._C.DisableTorchFunction():
                lean = without_input(self.function, (input, weight, bias, *settings), {})
        return super()._conv_forward(input, weight, bias) if lean is None else lean  # type: ignore[misc]


class LeanConv1d(_LeanConv, nn.Conv1d):
    function = torch.conv1d


class LeanConv2d(_LeanConv, nn.Conv2d):
    function = torch.conv2d


class LeanConv3d(_LeanConv, nn.Conv3d):
    function = torch.conv3d


class _LeanBatchNorm:
    """Before `nn.BatchNorm1d`, 2d or 3d in a class's bases."""

    def forward(self: Any, input: Tensor) -> Tensor:
        lean = None
        if not torch.compiler.is_compiling() and not self.training:
            self._check_input_dim(input)
            statistics = (self.running_mean, self.running_var, self.weight, self.bias)
            with torch._C.DisableTorchFunction():
                lean = without_input(F.batch_norm, (input, *statistics), {"eps": self.eps})
        return super().forward(input) if lean is None else lean  # type: ignore[misc]


class LeanBatchNorm1d(_LeanBatchNorm, nn.BatchNorm1d):
    pass


class LeanBatchNorm2d(_LeanBatchNorm, nn.BatchNorm2d):
    pass


class LeanBatchNorm3d(_LeanBatchNorm, nn.BatchNorm3d):
    pass


# Only torch's very own: a subclass may do anything, and is caught by the lift where it calls the function.
MODULES: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: LeanConv1d,
    nn.Conv2d: LeanConv2d,
    nn.Conv3d: LeanConv3d,
    nn.BatchNorm1d: LeanBatchNorm1d,
    nn.BatchNorm2d: LeanBatchNorm2d,
    nn.BatchNorm3d: LeanBatchNorm3d,
}
