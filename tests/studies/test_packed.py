"""A packed file stays on the disk: its pictures are those that went in, whether it is compressed or not."""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from studied import pictures

from attribkit.errors import BadValue
from attribkit.studies.packed import Packed


@pytest.fixture(params=[np.savez, np.savez_compressed], ids=["stored", "compressed"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[bytes]]:
    files = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures(7)]
    save: Callable[..., Any] = request.param
    save(
        tmp_path / "a.npz",
        labels=np.arange(7) % 2,
        jpeg=np.frombuffer(b"".join(files), np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        classes=np.array(["even", "odd"]),
    )
    return tmp_path / "a.npz", files


def test_pictures_are_those_that_went_in(written: tuple[Path, list[bytes]]) -> None:
    """In another process, too, which opens the file again."""
    path, files = written
    for packed in (Packed.read(path), pickle.loads(pickle.dumps(Packed.read(path)))):
        for number in (6, 0, 3):
            expected = cv2.cvtColor(cv2.imdecode(np.frombuffer(files[number], np.uint8), 1), cv2.COLOR_BGR2RGB)
            np.testing.assert_array_equal(packed.picture(number), expected)
        assert packed.jpeg.size == sum(map(len, files))
        np.testing.assert_array_equal(packed.jpeg.every(5), np.frombuffer(b"".join(files), np.uint8)[::5])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12 says so
def test_processes_that_were_forked_read_side_by_side(written: tuple[Path, list[bytes]]) -> None:
    """They share the open file, and so its place, with whoever else reads: here between any two of their reads."""
    path, files = written
    jpegs = Packed.read(path).jpeg
    ends = list(itertools.pairwise(np.cumsum([0, *map(len, files)]).tolist()))

    def wrong() -> int:
        return sum(
            jpegs.between(*at).tobytes() != file for _ in range(300) for at, file in zip(ends, files, strict=True)
        )

    child = os.fork()
    if child == 0:
        os._exit(min(wrong(), 1))
    assert wrong() == 0
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_byte_that_changed_is_noticed(written: tuple[Path, list[bytes]]) -> None:
    path, _ = written
    data = bytearray(path.read_bytes())
    place = data.find(b"jpeg.npy") + 400
    data[place] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(BadValue, match="is not a packed file of images, or is cut short"):
        Packed.read(path)


def test_pictures_that_are_no_row_of_bytes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", jpeg=np.zeros((2, 3)), offsets=np.array([0, 3]))
    with pytest.raises(BadValue, match=r"not a row of bytes"):
        Packed.read(tmp_path / "a.npz")
