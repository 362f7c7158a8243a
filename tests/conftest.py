"""What all tests say at first, and what those of commands share."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from commands import Command, Done

from attribkit.cli.main import main


def pytest_report_header() -> str:
    """The versions that are tested: of the oldest and of the newest, it matters which they were."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "captum"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, as a shell would call it in `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def called(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["attribkit", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Done(code, *capsys.readouterr())

    return called
