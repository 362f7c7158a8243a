"""What a killed process was writing is swept away, and nothing that somebody is still writing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attribkit import files

KILLED = """
import os, signal, sys
from attribkit.files import written_whole
with written_whole(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def parts(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


def test_what_a_killed_process_was_writing_is_swept_away(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.npz"
    done = subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(parts(tmp_path)) == 1
    files.swept(tmp_path)
    assert parts(tmp_path) == []
    assert not target.exists()


def test_what_is_being_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By this process, or by one of another machine, of whose numbers nothing is known here."""
    monkeypatch.setattr(files.socket, "gethostname", lambda: "another")
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "b.npz")], check=False)
    with files.written_whole(tmp_path / "a.npz") as file:
        file.write(b"whole")
        before = parts(tmp_path)
        files.swept(tmp_path)
        assert sorted(parts(tmp_path)) == sorted(before)
    assert (tmp_path / "a.npz").read_bytes() == b"whole"
    assert len(parts(tmp_path)) == 1
