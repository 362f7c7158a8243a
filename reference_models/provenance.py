"""Where a result comes from: versions, and the commit of the code."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Iterable
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


def digest_of_code(root: Path, places: Iterable[str]) -> str:
    """The same for the same sources in files and folders under `root`, wherever that lies."""
    hashed = hashlib.sha256()
    for place in places:
        path = root / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            source = file.read_bytes()
            hashed.update(f"{file.relative_to(root).as_posix()} {len(source)}\n".encode() + source)
    return hashed.hexdigest()
