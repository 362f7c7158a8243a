"""A process of a pool ends when the one that started it was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

POOL = """
import os, signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from attribkit.reference_models.process import end_with_parent

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("spawn"), end_with_parent)
    pool.submit(os.getpid).result()
    pool.submit(signal.pause)
    print("at work", flush=True)
    signal.pause()
"""


def test_a_killed_command_leaves_no_process(tmp_path: Path) -> None:
    """What it started holds its output open, which ends when the last of them does."""
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"at work\n"
        command.kill()
        assert command.communicate(timeout=60)[0] == b""
