"""Ways that are not right yet: each line of `open.txt` names one, and its test may fail until it is gone from there."""

from __future__ import annotations

from pathlib import Path

import pytest

OPEN = frozenset(Path(__file__).with_name("open.txt").read_text(encoding="utf-8").splitlines())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if f"{item.path.name}::{item.name}" in OPEN:
            item.add_marker(pytest.mark.xfail(strict=False, reason="a way of writing a network that is still open"))
