"""Which of the known classes a module's class is."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn


def nearest(kind: type[nn.Module], known: Collection[type[nn.Module]]) -> type[nn.Module] | None:
    """The class of `known` that a class of modules is, also when it is a subclass that keeps its `forward`."""
    for ancestor in kind.__mro__:  # no `next(..., None)`, which torch.compile cannot read in every release
        if ancestor in known:
            return ancestor if kind.forward is ancestor.forward else None  # type: ignore[attr-defined]
    return None
