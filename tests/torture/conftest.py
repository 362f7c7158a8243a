"""How much is tried, and the table at the end: `make torture` tries all of it, every other run of the tests a tenth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torture import Tried


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Tried:
    """Say what was tried, and how often; a test that fails says what was lost."""

    def said(what: str, count: int) -> None:
        record_property("tried", (what, count))

    return said


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """What is compared bit for bit is added up in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each thing that was tried; tests of one thing are added up."""
    counts: dict[tuple[str, str], int] = {}
    lost: dict[str, int] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            group = report.nodeid.partition("::")[0].rpartition("test_")[2].removesuffix(".py").replace("_", " ")
            lost[group] = lost.get(group, 0) + (outcome == "failed")
            for name, value in report.user_properties:
                if name == "tried":
                    counts[group, value[0]] = counts.get((group, value[0]), 0) + value[1]
    lines = [f"| {group} | {what} | {count:,} | 0 |" for (group, what), count in sorted(counts.items())]
    lines += [f"| {group} | tests that failed | | {count} |" for group, count in lost.items() if count]
    terminalreporter.write_line("\n".join(["", "| what | tried | times | lost |", "|---|---|---|---|", *lines]))
