"""Results of studies as files: the same bytes at any time of day, and nothing foreign out of a damaged one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attribkit.errors import FileError
from attribkit.studies import stored


@dataclass
class Made:
    numbers: Any
    layer: str


def test_the_same_result_is_the_same_bytes_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive holds times of day, where nobody keeps them out."""
    made = Made(np.arange(6.0).reshape(2, 3), "conv1")
    stored.save(tmp_path / "one.npz", made, ("layer",))
    later = time.localtime(time.time() + 100_000)
    monkeypatch.setattr(time, "localtime", lambda *_: later)
    stored.save(tmp_path / "two.npz", made, ("layer",))
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    read = stored.restored(tmp_path / "one.npz", "thing", lambda arrays, facts: Made(**arrays, **facts))
    assert (read.layer, read.numbers.tolist()) == ("conv1", made.numbers.tolist())


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"hello", None], ids=["empty", "a zip's start", "text", "missing"]
)
def test_a_file_that_save_did_not_write_is_refused(data: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(FileError, match=r"a\.npz holds no thing that attribkit saved"):
        stored.restored(path, "thing", lambda arrays, facts: None)
