"""What tests of commands get from running one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Done:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]
