"""Where a result comes from: versions, and the commit of the code."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

from attribkit import __version__


def versions() -> dict[str, str]:
    return {"attribkit": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def commit() -> str | None:
    """The commit that the code comes from, when it runs from a checkout."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}{' with changes' if changes.strip() else ''}"
