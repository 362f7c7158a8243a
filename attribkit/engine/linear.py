"""Linear steps that keep nothing of the image.

The weights of a rewritten network are constants, so the way down through a convolution or an eval-mode batch norm
needs the weights alone. torch keeps the input as well, for a gradient of the weights that nobody asks for, and that
is the larger part of a map's memory. The arithmetic is torch's own in both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribkit.engine.autograd import Quick
from attribkit.engine.torch_private import disable_torch_function, saved_tensors_hooked


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
        if trained or isinstance(padding, str) or input.dim() != weight.dim() or input.is_complex():
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
    run = FUNCTIONS.get(function) if args and type(args[0]) is Tensor else None
    return None if run is None or saved_tensors_hooked() else run(*args, **kwargs)


# ------------------------------------------------------------- torch's own modules, which need no lift to be caught


def make_lean(module: nn.Module) -> None:
    """Have a convolution or batch norm of torch's own keep nothing of its input; a subclass may do anything."""
    replacement = MODULES.get(type(module))
    if replacement is not None and not vars(module).keys() & {"forward", "_conv_forward"}:
        method, function = replacement
        module.__dict__[method] = partial(function, module)


def _convolve(module: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The `_conv_forward` of a convolution."""
    lean = None
    if not torch.compiler.is_compiling() and module.padding_mode == "zeros" and type(input) is Tensor:
        settings = (module.stride, module.padding, module.dilation, module.groups)
        with disable_torch_function():
            lean = without_input(CONVOLUTIONS[type(module)], (input, weight, bias, *settings), {})
    return type(module)._conv_forward(module, input, weight, bias) if lean is None else lean


def _normalise(module: Any, input: Tensor) -> Tensor:
    """The `forward` of a batch norm."""
    lean = None
    if not torch.compiler.is_compiling() and not module.training and type(input) is Tensor:
        module._check_input_dim(input)
        statistics = (module.running_mean, module.running_var, module.weight, module.bias)
        with disable_torch_function():
            lean = without_input(F.batch_norm, (input, *statistics), {"eps": module.eps})
    return type(module).forward(module, input) if lean is None else lean


CONVOLUTIONS = {nn.Conv1d: torch.conv1d, nn.Conv2d: torch.conv2d, nn.Conv3d: torch.conv3d}
MODULES: dict[type[nn.Module], tuple[str, Callable[..., Tensor]]] = {
    **dict.fromkeys(CONVOLUTIONS, ("_conv_forward", _convolve)),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), ("forward", _normalise)),
}
