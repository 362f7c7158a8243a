"""What is private in torch and used here all the same: in this file only, with what is done where it is missing."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.overrides
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

disable_torch_function = torch._C.DisableTorchFunction
"""A context in which neither modes nor classes of tensors see a function call."""

function_mode_stack = torch.overrides._get_current_function_mode_stack
"""The torch function modes of this thread, the innermost last."""

NN = torch._C._nn
"""The functions below those of torch.nn.functional; some models call them directly."""


def transforms_active() -> bool:
    """Whether vmap, jacrev or the like is at work."""
    return torch._C._are_functorch_transforms_active()


def saved_tensors_hooked() -> bool:
    """Whether somebody watches what is saved for the backward pass."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def outside_transforms() -> AbstractContextManager[object]:
    """A context in which what is done is no part of a vmap, jacrev or the like that is at work."""
    return temporarily_clear_interpreter_stack()
