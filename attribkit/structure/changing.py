"""What every change of structure needs: a model that may be changed, modules replaced in it, layers tried on noise."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attribkit.engine.rewriting import Rewritten
from attribkit.engine.shadow import unwrapped
from attribkit.engine.torch_private import AnyConvolution
from attribkit.errors import BadType


def changeable(model: nn.Module) -> nn.Module:
    """The model inside its wrappers, unless its structure is fixed."""
    if isinstance(model, Rewritten):
        raise BadType("this net is rewritten already: change the model's structure first, then rewrite it")
    model = unwrapped(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise BadType("a ScriptModule's structure is compiled and cannot be changed: pass the Python model")
    return model


def replaced(model: nn.Module, swaps: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """`model` with each key of `swaps` replaced by its value, under every name that it has."""
    if model in swaps:
        return swaps[model]
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in swaps:
                parent._modules[name] = swaps[child]
    return model


def held_aside(model: nn.Module) -> set[nn.Module]:
    """Modules also held in lists and the like, where a replacement would not reach them."""
    aside: set[nn.Module] = set()
    for parent in model.modules():
        for name, value in vars(parent).items():
            held: Any = value.values() if isinstance(value, dict) else value
            if name != "_modules":
                items = [held] if isinstance(held, nn.Module) else held
                aside.update(item for item in _each(items) if isinstance(item, nn.Module))
    return aside


def _each(items: object) -> Iterable[object]:
    return items if isinstance(items, Collection) and not isinstance(items, str | Tensor) else ()


class Failed(Exception):
    """Somebody's layer raised when it was tried out; the message is its own."""


@contextmanager
def trying() -> Iterator[None]:
    """Nothing but somebody's layers is to run in here: a mistake of ours would pass for one of theirs."""
    try:
        yield
    except Exception as error:  # a forward may raise anything
        raise Failed(str(error)) from error


def rehearsal(module: Any) -> Any:
    """A copy to try things on, in double precision so that only true differences show."""
    return copy.deepcopy(module).cpu().double().eval().requires_grad_(False)


def noise(layer: Any, extra: int = 0) -> Tensor:
    """A small input for a convolution or linear layer."""
    generator = torch.Generator().manual_seed(0)
    shape: tuple[int, ...] = (2, getattr(layer, "in_features", 0))
    if isinstance(layer, AnyConvolution):
        reach = [d * (k - 1) + 1 + s for k, d, s in zip(layer.kernel_size, layer.dilation, layer.stride, strict=True)]
        shape = (2, layer.in_channels, *(side + extra for side in reach))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def equal(values: Tensor, expected: Tensor) -> bool:
    """Whether they are equal to double rounding, as a share of the largest value."""
    if values.shape != expected.shape:
        return False
    size = float(expected.abs().max()) if expected.numel() else 0.0
    return torch.allclose(values, expected, rtol=0, atol=1e-10 * size, equal_nan=True)
