"""Killed at any moment, out of disk at any call: what is there is whole, and what goes on ends in the same bytes."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torture import Tried, times

import attribkit
from attribkit import files
from attribkit.reference_models.data import Data, Split
from attribkit.reference_models.switch_study import parts
from attribkit.reference_models.switch_study.testset import TestSet
from attribkit.reference_models.training import run
from attribkit.reference_models.training.loop import Job, train
from attribkit.reference_models.training.recipes import QUICK

FORKS = get_context("forkserver")  # which imports torch once for all of them
FORKS.set_forkserver_preload(
    ["torch", "attribkit", "attribkit.studies.gallery", "attribkit.reference_models.training.loop"]
)


def started(work: Callable[..., None], *given: Any) -> BaseProcess:
    process = FORKS.Process(target=work, args=given)
    process.start()
    return process


def killed_at_random(process: BaseProcess, draw: random.Random, longest: float) -> bool:
    """Whether it was killed, and had not come to its end before."""
    process.join(draw.uniform(0, longest))
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def contents(folder: Path) -> dict[str, bytes]:
    """But for what was being written by a process that is gone, which the next one sweeps away."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.suffix != ".part"}


# One file


PICTURE = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU())


def result(seed: int) -> attribkit.Attribution:
    images = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(seed))
    return attribkit.explain(net(), images, method="guided", layer="3", channel=1)


def save_for_ever(path: Path) -> None:
    torch.set_num_threads(1)
    results = [result(0), result(1)]
    for each in itertools.cycle(results):
        each.save(path, picture=PICTURE)


@pytest.mark.parametrize("ending", ["npz", "png", "html", "json"])
def test_a_file_is_the_old_one_or_the_new_one(ending: str, tmp_path: Path, tried: Tried) -> None:
    whole = []
    for seed in (0, 1):
        result(seed).save(tmp_path / f"whole.{ending}", picture=PICTURE)
        whole.append((tmp_path / f"whole.{ending}").read_bytes())
    path, draw, killed = tmp_path / f"x.{ending}", random.Random(0), 0
    while killed < times(50):
        process = started(save_for_ever, path)
        while not path.exists():
            process.join(0.002)
        killed += killed_at_random(process, draw, longest=0.05)
        assert path.read_bytes() in whole
    files.swept(tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {f"whole.{ending}", path.name}
    tried("SIGKILLs while a result was saved over another", killed)


SAVED: dict[str, Callable[[Path, int], object]] = {
    "npz": lambda path, seed: result(seed).save(path.with_suffix(".npz")),
    "png": lambda path, seed: result(seed).save(path.with_suffix(".png")),
    "html": lambda path, seed: result(seed).save(path.with_suffix(".html"), picture=PICTURE),
    "json": lambda path, seed: result(seed).save(path.with_suffix(".json")),
    "switches": lambda path, seed: attribkit.record_switches(net(), noise(seed)).save(path.with_suffix(".safetensors")),
    "checkpoint": lambda path, seed: run.save_checkpoint(path, {"net": noise(seed), "metrics": [{"loss": seed}]}),
}


def noise(seed: int) -> Tensor:
    return torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO, errno.EACCES])
def test_a_call_that_fails_leaves_the_old_file(
    kind: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Tried
) -> None:
    """At each of the calls by which a file comes about: opening, flushing to the disk, renaming."""
    (tmp_path / "folder").mkdir()
    SAVED[kind](tmp_path / "folder", 0)
    before = contents(tmp_path)
    assert before

    def fails(*given: Any, **more: Any) -> Any:
        raise OSError(number, os.strerror(number))

    count = 0
    for owner, name in ((os, "fsync"), (os, "replace"), (files, "open")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, fails, raising=False)
            with pytest.raises(attribkit.AttribkitError, match=os.strerror(number)) as caught:
                SAVED[kind](tmp_path / "folder", 1)
        assert "\n" not in str(caught.value)
        assert contents(tmp_path) == before
        assert not list(tmp_path.rglob("*.part"))
        count += 1
    tried("calls of saving that failed (disk full, quota, read-only, broken, forbidden)", count)


# Work that goes on


class Inputs(torch.utils.data.Dataset[Tensor]):
    """Noise that is slow to read."""

    classes = ("even", "odd")
    targets: list[int]

    def __len__(self) -> int:
        return 1600

    def __getitem__(self, number: int) -> Tensor:
        time.sleep(0.0002)
        return torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(number))


def make_gallery(out: Path) -> None:
    torch.set_num_threads(1)
    attribkit.gallery(net(), Inputs(), layer="3", top=3, out=out)


def make_training(out: Path) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (16, 32, 32, 3), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(16) % 10)
    recipe = replace(QUICK, epochs=4, batch=16, precision="float32", piece=0.75)
    job = Job("strided_cnn_c", recipe, 0, Data(split, split, tuple("abcdefghij"), "noise"), torch.device("cpu"))
    with run.opened(out, job.description):
        list(train(job, out))


def make_probe(out: Path) -> None:
    torch.set_num_threads(1)
    data = Inputs()
    data.targets = [number % 2 for number in range(len(data))]
    attribkit.probe(net(), data, ["0", "3"], features=8, out=out)


def make_invariance(out: Path) -> None:
    torch.set_num_threads(1)
    images = torch.stack([Inputs()[number] for number in range(60)])
    attribkit.invariance(net(), images, ["0", "3"], moves={"rotation": range(0, 90, 5)}, out=out)


def make_validation(out: Path) -> None:
    """The cheaper parts of the study on switches, as its command goes through them."""
    draw = np.random.default_rng(0)
    pictures = tuple(draw.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(6))
    tests = TestSet(pictures, "noise")
    settings = replace(parts.QUICK, images=6, asked=2, paired=4, compared=2, candidates=6, steps=2)
    for part in parts.parts(["strided_cnn_a"], tests, settings, ["image dependence", "grid"]):
        if part.task in ("facts", "image-dependence", "image dependence", "grid") and parts.kept(part, out) is None:
            parts.run(part, tests, settings, out)


@pytest.mark.parametrize(
    ("work", "kills", "longest"),
    [
        (make_gallery, 100, 0.6),
        (make_training, 50, 1.5),
        (make_probe, 50, 0.6),
        (make_invariance, 50, 0.6),
        (make_validation, 20, 2.0),
    ],
)
def test_work_goes_on_to_the_same_bytes(
    work: Callable[[Path], None], kills: int, longest: float, tmp_path: Path, tried: Tried
) -> None:
    """As often as it is killed; what was there is not lost, so that it comes to its end."""
    whole = started(work, tmp_path / "whole")
    whole.join()
    assert whole.exitcode == 0
    expected, draw, killed, rounds = comparable(tmp_path / "whole"), random.Random(0), 0, 0
    while killed < times(kills):
        out = tmp_path / f"killed-{rounds}"
        process = started(work, out)
        while killed_at_random(process, draw, longest) and killed < times(kills):
            killed += 1
            process = started(work, out)
        last = started(work, out)
        last.join()
        assert last.exitcode == 0
        assert comparable(out) == expected
        rounds += 1
    tried(f"SIGKILLs, then the same bytes: {work.__name__.removeprefix('make_')}", killed)


def comparable(folder: Path) -> dict[str, bytes]:
    """Of a training the weights: how long an epoch took differs."""
    found = contents(folder)
    weights = [name for name in found if name.endswith("strided_cnn_c.safetensors")]
    if not weights:
        return found
    from safetensors.torch import load

    return {key: tensor.numpy().tobytes() for key, tensor in load(found[weights[0]]).items()}
