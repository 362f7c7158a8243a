"""What is private in torch and used here all the same: in this file only, with what is done where it is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from types import FunctionType
from typing import Any

import torch
import torch.fx
import torch.overrides
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm
from torch.nn.modules.batchnorm import _NormBase as AnyNorm  # batch norms and instance norms
from torch.nn.modules.conv import _ConvNd as AnyConvolution  # transposed ones too
from torch.overrides import TorchFunctionMode

__all__ = [
    "NN",
    "AnyBatchNorm",
    "AnyConvolution",
    "AnyNorm",
    "convolve_packed",
    "disable_torch_function",
    "disguised",
    "function_mode_stack",
    "is_exporting",
    "is_traced",
    "no_torch_function",
    "outside_transforms",
    "packed",
    "packs",
    "saved_tensors_hooked",
    "storage_of",
    "transforms_active",
    "transforms_without_functions",
    "uncompiled",
]

disable_torch_function = torch._C.DisableTorchFunction
"""A context in which neither modes nor classes of tensors see a function call."""

no_torch_function: Any = torch._C._disabled_torch_function_impl
"""The `__torch_function__` of a class of tensors that is seen by operators only."""


def disguised(kind: type[Tensor], like: Tensor, items: int) -> Any:
    """A tensor of a class of ours that holds nothing itself and passes for `items` of `like`, which is one."""
    return Tensor._make_wrapper_subclass(kind, (items, *like.shape[1:]), dtype=like.dtype, device=like.device)


function_mode_stack: Callable[[], list[TorchFunctionMode]] = torch.overrides._get_current_function_mode_stack
"""The torch function modes of this thread, the innermost last."""

NN = torch._C._nn
"""The functions below those of torch.nn.functional; some models call them directly."""


def transforms_active() -> bool:
    """Whether vmap, jacrev or the like is at work."""
    return torch._C._are_functorch_transforms_active()


def transforms_without_functions() -> bool:
    """Whether a transform is at work in which an `autograd.Function` has no part: forward mode, functionalize."""
    without = (TransformType.Jvp, TransformType.Functionalize)
    return any(level.key() in without for level in get_interpreter_stack() or ())


def saved_tensors_hooked() -> bool:
    """Whether somebody watches what is saved for the backward pass, as checkpointing does, who counts on all of it."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def storage_of(tensor: torch.Tensor) -> int:
    """Which memory a tensor lies in; an address would not say: it is 0 for all that is empty or on the meta device."""
    return tensor.untyped_storage()._cdata


def outside_transforms() -> AbstractContextManager[object]:
    """A context in which what is done is no part of a vmap, jacrev or the like that is at work."""
    return temporarily_clear_interpreter_stack()


def packs(dtype: torch.dtype) -> bool:
    """Whether convolutions of this type can have weights that are laid out for them beforehand."""
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    found = hasattr(NN, "mkldnn_reorder_conv2d_weight") and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return found and dtype in (torch.float32, torch.bfloat16) and bool(torch._C._get_mkldnn_enabled())


def packed(
    weight: Tensor, padding: Sequence[int], stride: Sequence[int], dilation: Sequence[int], shape: Sequence[int]
) -> Tensor:
    """A convolution's weights, laid out for inputs of a shape."""
    settings = (list(padding), list(stride), list(dilation), 1, list(shape))
    lay_out: Callable[..., Tensor] = NN.mkldnn_reorder_conv2d_weight
    return lay_out(weight.to_mkldnn(), *settings)


def convolve_packed(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int], dilation: Any
) -> Tensor:
    """A convolution by such weights; of it there is no gradient."""
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, dilation, 1, "none", [], ""
    )
    return result


def uncompiled(function: Any) -> Any:
    """A function as it was before `torch.compile`; any other as it is."""
    return (
        vars(function).get("_torchdynamo_orig_callable", function) if isinstance(function, FunctionType) else function
    )


def is_exporting() -> bool:
    """Whether torch.export is at work; torch.compile does not trace this, but asks, and takes the answer for good."""
    tracer = getattr(getattr(sys.modules.get("torch._dynamo.symbolic_convert"), "tls", None), "current_tx", None)
    return bool(torch.compiler._is_exporting_flag or getattr(tracer, "export", False))


is_exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as torch._dynamo does, slow to import


def is_traced(args: Collection[Any]) -> bool:
    """Whether a graph of operators is being written down, in which backward passes have no part."""
    by_operators = get_proxy_mode() is not None
    by_proxy = isinstance(args, torch.fx.Proxy) or any(isinstance(arg, torch.fx.Proxy) for arg in args)
    return by_operators or by_proxy or bool(torch._C._get_tracing_state())
