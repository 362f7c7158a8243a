"""Multiplication in full, where maps are compared digit by digit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
# What torch calls it since 2.9, and what it called it before.
SETTINGS: tuple[tuple[Any, str, object], ...] = (
    ((cudnn.conv, "fp32_precision", "ieee"), (matmul, "fp32_precision", "ieee"))
    if hasattr(cudnn, "conv")
    else ((cudnn, "allow_tf32", False), (matmul, "allow_tf32", False))
)


@contextmanager
def full_precision() -> Iterator[None]:
    """While it lasts, a GPU does not round what it multiplies to ten bits, as its convolutions do by default (TF32)."""
    before = [getattr(place, name) for place, name, _ in SETTINGS]
    for place, name, value in SETTINGS:
        setattr(place, name, value)
    try:
        yield
    finally:
        for (place, name, _), value in zip(SETTINGS, before, strict=True):
            setattr(place, name, value)
