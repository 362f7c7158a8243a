"""A tensor that passes for a batch and holds one item that all share, and for each the window where it differs.

A model's own forward pass runs on it: each operator is done once for what is shared and once for the windows, by the
rules of `incremental_functions`. What has no rule, and what has spread over the whole plane, becomes a plain tensor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from attribkit.engine.torch_private import disguised, no_torch_function
from attribkit.studies.incremental_windows import Place, grown
from attribkit.studies.nested import leaves, mapped


class CannotFollow(Exception):
    """A forward pass does what windows cannot follow; the message says what."""


@dataclass
class Shared:
    """What is computed once for all windows: the results on the item that they share, kept from pass to pass.

    Attributes:
        follow: Runs an operator of which an argument is windowed.
        steps: Function, inputs and result of each.
        left: Operators from which on windows were no longer followed, and how often.
    """

    follow: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
    steps: list[tuple[Any, list[Any], Any]] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)
    at: int = 0

    def begin(self) -> None:
        """A pass begins, which is expected to do what the one before did."""
        self.at = 0

    def computed(self, func: Any, args: Any, kwargs: Any, compute: Callable[[], Any]) -> Any:
        """The result of a step, which was done before if the step before last time was the same one."""
        inputs = leaves((args, kwargs))
        known = self.steps[self.at] if self.at < len(self.steps) else None
        if known is None or known[0] is not func or not _same(known[1], inputs):
            del self.steps[self.at :]
            self.steps.append((func, inputs, compute()))
        self.at += 1
        return self.steps[self.at - 1][2]


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        x is y if isinstance(x, Tensor) or isinstance(y, Tensor) else x == y for x, y in zip(a, b, strict=True)
    )


class Windowed(Tensor):
    """A batch of which item i is `base` everywhere but in its window, which is `windows[i]`."""

    base: Tensor
    windows: Tensor
    place: Place
    shared: Shared
    plain: Tensor | None  # all of it, once it has become a plain tensor
    has_views: bool  # or is one
    is_lost: bool  # nobody may look into it

    @staticmethod
    def __new__(cls, base: Tensor, windows: Tensor, place: Place, shared: Shared) -> Windowed:
        self: Windowed = disguised(cls, base, len(windows))
        self.base, self.windows, self.place, self.shared = base, windows, place, shared
        self.plain, self.has_views, self.is_lost = None, False, False
        return self

    __torch_function__ = no_torch_function

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return windowed_in((args, kwargs))[0].shared.follow(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Windowed({tuple(self.shape)}, {self.place})"

    def at(self, place: Place) -> Tensor:
        """Its values in wider windows."""
        return grown(self.base, self.windows, self.place, place)

    def whole(self) -> Tensor:
        """All of it."""
        if self.plain is not None:
            return self.plain
        values = self.base.repeat(len(self.windows), *(1,) * (self.base.dim() - 1))
        everywhere = Place(self.place.rows.everywhere(), self.place.columns.everywhere())
        everywhere.put(values, self.windows, self.place)
        return values

    def become_plain(self) -> None:
        """From here on it is a plain tensor, which others may look at and write into."""
        if self.plain is None:
            if self.has_views:
                raise CannotFollow("it writes into a view")
            self.plain = self.whole()

    def becomes(self, base: Tensor, windows: Tensor, place: Place) -> None:
        """It was written into."""
        if self.has_views:
            raise CannotFollow("it writes into a view")
        self.base, self.windows, self.place = base, windows, place
        if place.is_everywhere:
            self.plain = windows


def wrapped(base: Tensor, windows: Tensor, place: Place, shared: Shared) -> Tensor:
    """A batch of one item and windows; a plain tensor where these are everywhere."""
    return windows if place.is_everywhere else Windowed(base, windows, place, shared)


def unwrapped(value: Any) -> Any:
    """What has become plain as it is; anything else unchanged."""
    return mapped(lambda x: x.plain if isinstance(x, Windowed) and x.plain is not None else x, value)


def made_whole(value: Any) -> Any:
    """Every windowed tensor in it as a plain one."""
    return mapped(lambda x: x.whole() if isinstance(x, Windowed) else x, value)


def windowed_in(value: Any) -> list[Windowed]:
    return [x for x in leaves(value) if isinstance(x, Windowed)]
