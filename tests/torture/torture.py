"""How much is tried: all of it by `make torture`, a tenth in every other run of the tests."""

from __future__ import annotations

import os
from collections.abc import Callable

SHARE = float(os.environ.get("TORTURE", "0.1"))

Tried = Callable[[str, int], None]
"""Says what was tried, and how often."""


def times(full: int) -> int:
    """How often, of what `make torture` does."""
    return max(1, round(full * SHARE))
