"""Local response normalisation, and steps that a signal may pass by on its way down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from attribkit.engine.autograd import Quick

if TYPE_CHECKING:
    from attribkit.engine.plan import Passage


@dataclass(frozen=True)
class Norm:
    """A local response normalisation."""

    op = "local_response_norm"
    kind = "norm"

    def apply(self, x: Tensor, original: Callable[[], Tensor], here: Passage) -> Tensor:
        """The normalised x; the deconvnet's signal goes past it."""
        return pass_by(x, original(), here)


def pass_by(x: Tensor, y: Tensor, here: Passage) -> Tensor:
    """y, a step away from x, which a signal passes or passes by as the plan wants it."""
    return _Fork.run(x, y, here)


class _Fork(Quick):
    @staticmethod
    def forward(x: Tensor, y: Tensor, here: Passage) -> Tensor:
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.here = inputs[2]

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        norms, here = ctx.here.plan.norms, ctx.here
        bypass = here.rule_now.bypasses_norms if norms == "rule" else norms == "bypass" and not here.within_forward
        return (signal, None, None) if bypass else (None, signal, None)


FUNCTIONS = {F.local_response_norm}


def from_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Norm] | None:
    """The tensor and the norm of a function call; None where the call is no norm."""
    if function is not F.local_response_norm:
        return None
    return (args[0] if args else kwargs["input"]), Norm()


def from_module(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Norm] | None:
    """The tensor and the norm of a call of a module; None for other modules."""
    return None if describe(module) is None else (args[0] if args else kwargs["input"], Norm())


def describe(module: nn.Module) -> tuple[str, str] | None:
    """Op and kind of a module that is a norm; None for others."""
    return (Norm.op, Norm.kind) if type(module).forward is nn.LocalResponseNorm.forward else None
