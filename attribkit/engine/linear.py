"""Linear steps that keep nothing of the image.

The weights of a rewritten network are constants, so the way down through a convolution or an eval-mode batch norm
needs the weights alone. torch keeps the input as well, for a gradient of the weights that nobody asks for, and that
is the larger part of a map's memory. The arithmetic is torch's own in both directions, but for one short cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribkit.engine.autograd import Quick, eager
from attribkit.engine.torch_private import disable_torch_function, saved_tensors_hooked

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
        x, weight, _, _, *settings, groups = inputs
        ctx.settings = *(_each(setting, x.dim() - 2) for setting in settings), groups
        ctx.dtype, ctx.shape, ctx.strides = x.dtype, x.shape, dense_strides(x)
        ctx.save_for_backward(weight)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        below = down_a_convolution(signal, weight.to(signal.dtype), ctx.shape, ctx.strides, *ctx.settings)
        return below.to(ctx.dtype), None, None, None, None, None, None, None


Strides = tuple[int, ...] | None


def down_a_convolution(
    signal: Tensor,
    weight: Tensor,
    shape: torch.Size,
    strides: Strides,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The signal below a convolution, whose input had this shape and lay in memory like this."""
    if is_of_an_image(weight, stride, dilation, groups) and signal.is_cpu:
        return _to_an_image(signal, weight, stride, padding, shape[2:])
    if groups > 1 and max(stride) > 1 and signal.is_cpu and signal.dtype == torch.bfloat16:  # much slower in it
        exact = (signal.float(), weight.float())
        return down_a_convolution(*exact, shape, strides, stride, padding, dilation, groups).to(signal.dtype)
    x, none = _placeholder(signal, shape, strides), (0,) * len(stride)
    settings = (stride, padding, dilation, False, none, groups)
    below: Tensor = aten.convolution_backward.default(signal, x, weight, None, *settings, (True, False, False))[0]
    return below


def _placeholder(signal: Tensor, shape: torch.Size, strides: Strides) -> Tensor:
    """Stands for an input, of which only the shape counts as long as no gradient of the weights is asked for."""
    if strides is None:
        return signal.new_empty(shape)
    if signal.is_contiguous() and signal.numel() >= shape.numel() and not signal.requires_grad and eager():
        return signal.as_strided(shape, strides)  # no memory of its own
    return torch.empty_strided(shape, strides, dtype=signal.dtype, device=signal.device)


def dense_strides(x: Tensor) -> Strides:
    """How a tensor lies in memory; None where it is a part of something larger."""
    dense = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
    return x.stride() if dense else None


COLOURS = 4
"""Fewer channels than a processor works on at once."""


def is_of_an_image(weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> bool:
    """Whether a convolution is the first of a network, with steps of two pixels or more."""
    steps = len(stride) == 2 and min(stride) > 1 and tuple(dilation) == (1, 1)
    return steps and groups == 1 and weight.shape[1] <= COLOURS


def _to_an_image(
    signal: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], size: Sequence[int]
) -> Tensor:
    """The way down through a strided convolution to few channels, which torch computes one channel at a time.

    Pixels that lie equally between the steps see the signal through the same part of the weights. Each such part is a
    convolution without steps; all of them together are one, to as many more channels.
    """
    (down, across), (_, colours, *kernel) = stride, weight.shape
    tall, wide = -(-kernel[0] // down), -(-kernel[1] // across)
    whole = F.pad(weight, (0, wide * across - kernel[1], 0, tall * down - kernel[0]))
    parts = whole.view(-1, colours, tall, down, wide, across).flip(2, 4).permute(1, 3, 5, 0, 2, 4)
    below = F.conv2d(signal, parts.reshape(-1, len(weight), tall, wide), padding=(tall - 1, wide - 1))
    rows, columns = below.shape[2:]
    below = below.view(-1, colours, down, across, rows, columns).permute(0, 1, 4, 2, 5, 3)
    below = below.reshape(-1, colours, rows * down, columns * across)
    top, left = padding
    missing = (max(0, left + size[1] - columns * across), max(0, top + size[0] - rows * down))  # which nothing saw
    below = F.pad(below, (0, missing[0], 0, missing[1])) if any(missing) else below
    return below[:, :, top : top + size[0], left : left + size[1]]


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


def is_lean(module: nn.Module) -> bool:
    """Whether a module keeps nothing of its input."""
    method, function = MODULES[type(module)]
    return getattr(vars(module).get(method), "func", None) is function


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
        statistics = (module.running_mean, module.running_var, module.weight, module.bias)
        with disable_torch_function():
            module._check_input_dim(input)
            lean = without_input(F.batch_norm, (input, *statistics), {"eps": module.eps})
    return type(module).forward(module, input) if lean is None else lean


CONVOLUTIONS = {nn.Conv1d: torch.conv1d, nn.Conv2d: torch.conv2d, nn.Conv3d: torch.conv3d}
MODULES: dict[type[nn.Module], tuple[str, Callable[..., Tensor]]] = {
    **dict.fromkeys(CONVOLUTIONS, ("_conv_forward", _convolve)),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), ("forward", _normalise)),
}
