"""Starved of memory and of disk, two at a time, on data that change: what comes out is right, or there is an error."""

from __future__ import annotations

import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_killed import Inputs, contents, make_gallery, make_invariance, make_probe, net, started
from torch import Tensor
from torture import Tried, times

import attribkit

Make = Callable[[Path], None]
STUDIES = [make_gallery, make_probe, make_invariance]


def starved_of_disk(make: Make, out: Path, most: int) -> None:
    """No file may grow beyond so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    try:
        make(out)
    except attribkit.AttribkitError:
        raise SystemExit(1) from None


def starved_of_memory(make: Make, out: Path, more: int) -> None:
    """So many bytes beyond what is held at the start; the system gives no more, and whoever asks has to stop."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + more, resource.RLIM_INFINITY))
    make(out)


@pytest.mark.parametrize("make", STUDIES)
@pytest.mark.parametrize("what", ["disk", "memory"])
def test_it_goes_on_when_there_is_enough_again(make: Make, what: str, tmp_path: Path, tried: Tried) -> None:
    """To the bytes of a run that had enough; without disk it stops by an error of ours, and not by a traceback."""
    make(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    largest, draw, stopped = max(map(len, expected.values())), random.Random(0), 0
    for number in range(times(20)):
        out = tmp_path / str(number)
        if what == "disk":
            process = started(starved_of_disk, make, out, draw.randrange(1, largest))
        else:
            process = started(starved_of_memory, make, out, draw.randrange(1 << 20, 1 << 28))
        process.join()
        if what == "disk":
            assert process.exitcode == 1
        stopped += process.exitcode != 0
        make(out)
        assert contents(out) == expected
    tried(f"studies that ran out of {what}, then went on to the same bytes", stopped)


@pytest.mark.parametrize("make", STUDIES)
def test_two_in_one_folder(make: Make, tmp_path: Path, tried: Tried) -> None:
    """One of them at least comes to its end, and what is there is what one alone would have left."""
    make(tmp_path / "whole")
    for number in range(times(20)):
        both = [started(starved_of_disk, make, tmp_path / str(number), 1 << 30) for _ in range(2)]
        for process in both:
            process.join()
        assert {process.exitcode for process in both} <= {0, 1}
        assert any(process.exitcode == 0 for process in both)
        assert contents(tmp_path / str(number)) == contents(tmp_path / "whole")
    tried("pairs of processes that worked in one folder", times(20))


class Changing(Inputs):
    """Other images from some read on."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __len__(self) -> int:
        return 200

    def __getitem__(self, number: int) -> Tensor:
        self.left -= 1
        return super().__getitem__(number if self.left >= 0 else number + 1000)


def test_images_that_change_while_a_gallery_is_made(tried: Tried) -> None:
    """It is refused, or shows what the images are now."""
    draw, right = random.Random(0), 0
    refusals: list[str] = []
    for _ in range(times(200)):
        data = Changing(draw.randrange(1, 260))
        try:
            found = attribkit.gallery(net(), data, layer="3", top=3)
        except attribkit.AttribkitError as error:
            refusals.append(str(error))
            continue
        moved = 1000 * (data.left < 0)
        images = torch.stack([Inputs()[number + moved] for number in range(len(data))])
        with torch.no_grad():
            now: Any = net()[:4](images).flatten(2).max(-1).values.numpy()
        rows = np.arange(len(found.value))[:, None]
        np.testing.assert_allclose(found.value, now[found.image, rows], rtol=1e-5)
        right += 1
    assert refusals
    assert all("changed" in refusal for refusal in refusals)
    tried("galleries of images that changed meanwhile: refused", len(refusals))
    tried("galleries of images that changed meanwhile: right", right)
