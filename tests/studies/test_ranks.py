"""The processes of torchrun share the shards of a gallery, and leave the bytes of one alone.

This process is one of two, or the only one; the other is made by hand, in the environment that torchrun would give it.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from studied import Inputs, inputs, net
from torch import Tensor

import attribkit
from attribkit.adapters import ranks

SHARDS = 3
IMAGES = 2 * 512 + 76


class Noted(Inputs):
    """Data that knows which of its shards were read as a whole."""

    def __init__(self) -> None:
        super().__init__(inputs(IMAGES))
        self.read: set[int] = set()

    def __getitem__(self, number: int) -> Tensor:
        self.read.add(number)
        return self.images[number]

    @property
    def shards(self) -> list[int]:
        return [n for n in range(SHARDS) if self.read >= set(range(512 * n, min(512 * n + 512, IMAGES)))]


def asked(data: Inputs, out: Path, **other: Any) -> dict[str, Any]:
    """What `attribkit.gallery` is asked."""
    needed = {"layer": "relu2", "top": 2, "score": "max", "size": None, "precision": None}
    return {"data": data, "out": out, **needed, **other}


def made(rank: int, port: int, count: int) -> dict[str, str]:
    """The environment of one of several processes."""
    return {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def work(data: Inputs, out: Path) -> bool:
    """One process' part of a gallery; whether it was the first."""
    options = asked(data, out)
    with ranks.among_ranks(net(), **options) as engine:
        if engine is not None:
            attribkit.gallery(net(), engine=engine, **options)
    return engine is not None


def other(environment: dict[str, str], threads: int, out: Path) -> None:
    """What the other process does."""
    os.environ.update(environment)
    torch.set_num_threads(threads)  # of which the last bits of numbers may depend
    ranks._PATIENCE = timedelta(minutes=2)
    work(Noted(), out)


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], int]:
    """Makes this process one of several, who meet at the port that comes out; they do not wait for days."""
    monkeypatch.setattr(ranks, "_PATIENCE", timedelta(minutes=2))

    def join(rank: int, count: int) -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        for name, value in made(rank, port, count).items():
            monkeypatch.setenv(name, value)
        return port

    return join


@contextmanager
def beside(rank: int, port: int, out: Path) -> Iterator[None]:
    """While another process has that rank of two; it has to come to a good end, and does not outlive this one."""
    context = get_context("forkserver")  # which imports torch once for all of them
    context.set_forkserver_preload(["studied", "attribkit.studies.gallery"])
    process = context.Process(target=other, args=(made(rank, port, 2), torch.get_num_threads(), out), daemon=True)
    process.start()
    try:
        yield
        process.join(120)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a gallery that one process has made."""
    out = tmp_path_factory.mktemp("alone")
    attribkit.gallery(net(), **asked(Noted(), out))
    return out


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_torchrun_says_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert ranks.ranks() == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert ranks.ranks() == 4


def test_a_world_of_one_does_everything(join: Callable[[int, int], int], alone: Path, tmp_path: Path) -> None:
    join(0, 1)
    data = Noted()
    assert work(data, tmp_path)
    assert data.shards == [0, 1, 2]
    assert files(tmp_path) == files(alone)


@pytest.mark.parametrize(("rank", "shards"), [(0, [0, 2]), (1, [1])])
def test_two_share_the_shards(
    join: Callable[[int, int], int], alone: Path, tmp_path: Path, rank: int, shards: list[int]
) -> None:
    """Each reads its own, and only the first makes a gallery of all of them."""
    port, data = join(rank, 2), Noted()
    with beside(1 - rank, port, tmp_path):
        assert work(data, tmp_path) == (rank == 0)
    assert data.shards == shards
    assert files(tmp_path) == files(alone)
    assert not dist.is_initialized()


@pytest.mark.parametrize(("rank", "shards"), [(0, [0]), (1, [])])
def test_two_go_on_where_another_run_was_stopped(
    join: Callable[[int, int], int], alone: Path, tmp_path: Path, rank: int, shards: list[int]
) -> None:
    """What is there is nobody's work, and what is whose does not change."""
    out = tmp_path / "out"
    shutil.copytree(alone, out)
    (out / "shards" / "00000.npz").unlink()
    port, data = join(rank, 2), Noted()
    with beside(1 - rank, port, out):
        work(data, out)
    assert data.shards == shards
    assert files(out) == files(alone)


def test_each_shard_comes_once(join: Callable[[int, int], int], alone: Path, tmp_path: Path) -> None:
    """The first gives its own, then those of the others, as they were written."""
    port, options = join(0, 2), asked(Noted(), tmp_path)
    came: list[tuple[int, bytes]] = []

    def seen(survey: Any, missing: Any) -> Iterator[tuple[int, bytes]]:
        for number, data in engine(survey, missing):
            came.append((number, data))
            yield number, data

    with beside(1, port, tmp_path), ranks.among_ranks(net(), **options) as engine:
        attribkit.gallery(net(), engine=seen, **options)
    assert came == [(number, (alone / "shards" / f"0000{number}.npz").read_bytes()) for number in (0, 2, 1)]


def test_a_second_gallery_is_made_by_the_first_alone(join: Callable[[int, int], int], tmp_path: Path) -> None:
    """The others have left by then: of another way through pools nothing is missing, of another score everything."""
    out, data = tmp_path / "out", Noted()
    port, options = join(0, 2), asked(data, tmp_path / "out")
    with beside(1, port, out), ranks.among_ranks(net(), **options) as engine:
        attribkit.gallery(net(), engine=engine, **options)
        data.read.clear()
        attribkit.gallery(net(), engine=engine, **options, switches="uniform")
        assert data.shards == []
        attribkit.gallery(net(), engine=engine, **(options | {"score": "mean", "force": True}))
    assert data.shards == [0, 1, 2]
    attribkit.gallery(net(), **asked(data, tmp_path / "mean", score="mean"))
    assert files(out) == files(tmp_path / "mean")


def test_an_error_leaves_no_process_group_behind(join: Callable[[int, int], int], tmp_path: Path) -> None:
    """So that another gallery can follow."""
    join(0, 1)
    engine = ranks.among_ranks(net(), **asked(Noted(), tmp_path))
    with pytest.raises(KeyboardInterrupt), engine:
        raise KeyboardInterrupt
    assert not dist.is_initialized()
