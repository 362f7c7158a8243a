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
