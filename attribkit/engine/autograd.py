"""What our `autograd.Function`s share: how they are called, and what is going on around the call."""

from __future__ import annotations

import types
from typing import Any, ClassVar, NoReturn

import torch

from attribkit.engine.torch_private import disable_torch_function, transforms_active, transforms_without_functions
from attribkit.errors import NotSupported


class Quick(torch.autograd.Function):
    """A Function of the new kind (`setup_context`), called in the old way wherever that is enough.

    The new kind is what vmap and torch.compile need; but at each call torch works out the signature of `forward`
    again, which takes longer than the rest of the call.
    """

    generate_vmap_rule = True
    names: ClassVar[set[str]] = set()  # of all of ours, as graphs show them
    _old: type[torch.autograd.Function]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()

        def forward(ctx: Any, *args: Any) -> Any:
            output = cls.forward(*args)
            cls.setup_context(ctx, args, output)
            return output

        def backward(ctx: Any, *signals: Any) -> Any:
            with disable_torch_function():  # a lift may be at work, where a model takes a gradient of its own
                return cls.backward(ctx, *signals)

        Quick.names |= {cls.__name__, f"{cls.__name__}Old"}
        parts = {"forward": staticmethod(forward), "backward": staticmethod(backward), "jvp": staticmethod(_refuse)}
        cls._old = types.new_class(
            f"{cls.__name__}Old", (torch.autograd.Function,), exec_body=lambda body: body.update(parts)
        )

    @classmethod
    def run(cls, *args: Any) -> Any:
        """`apply`, by the shorter way where there is one."""
        if eager():
            return cls._old.apply(*args)
        if not torch.compiler.is_compiling() and transforms_without_functions():
            _refuse()
        return cls.apply(*args)


def _refuse(*args: Any) -> NoReturn:
    raise NotSupported("a rule leads backwards only: use backward, vjp or jacrev, and neither jvp nor functionalize")


def eager() -> bool:
    """Whether plain torch runs this, which alone lets a Function write in place: no compiler, no vmap and its like."""
    return not (torch.compiler.is_compiling() or transforms_active())
