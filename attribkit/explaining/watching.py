"""What a network's modules are called with and what they give, seen for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

from torch import nn

Look: TypeAlias = Callable[[str, Any, Any], None]


@contextmanager
def watched(modules: Iterable[tuple[str, nn.Module]], look: Look) -> Iterator[None]:
    """Show every call of these modules while it lasts.

    Args:
        modules: Each with its name.
        look: Is given a module's name, its inputs and its output, as a call ends.
    """
    with ExitStack() as hooks:
        for name, module in modules:
            hooks.enter_context(module.register_forward_hook(_hook(name, look)))
        yield


def inside(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """A network's modules with their names, but for the network itself."""
    return [(name, module) for name, module in net.named_modules() if name]


def _hook(name: str, look: Look) -> Callable[[nn.Module, Any, Any], None]:
    def called(module: nn.Module, inputs: Any, output: Any) -> None:
        look(name, inputs, output)

    return called
