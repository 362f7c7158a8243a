"""What all our `autograd.Function`s share."""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch

FunctionType = TypeVar("FunctionType", bound=type[torch.autograd.Function])


def signed(function: FunctionType) -> FunctionType:
    """Give `forward` its signature once: torch asks for it at every call, and working it out takes 50 microseconds."""
    function.forward.__signature__ = inspect.signature(function.forward)  # type: ignore[attr-defined]
    return function


def transformed() -> bool:
    """Whether vmap, jacrev or the like is at work, under which a `Function` may not write in place."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def hooked() -> bool:
    """Whether somebody watches what is saved for the backward pass, as checkpointing does, who counts on all of it."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
