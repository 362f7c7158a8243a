"""`attribkit train` as a person calls it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import Command

from attribkit.cli.progress import TrainingProgress


@pytest.fixture
def few(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    files = [cv2.imencode(".png", generator.integers(256, size=(32, 32, 3), dtype=np.uint8))[1] for _ in range(40)]
    path = tmp_path / "few.npz"
    np.savez(
        path,
        jpeg=np.concatenate(files),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=np.arange(40) % 10,
        is_train=np.arange(40) < 30,
        classes=np.array(list("abcdefghij")),
    )
    return path


def test_a_run_tells_its_epochs_and_its_file_and_makes_a_page(few: Path, tmp_path: Path, run: Command) -> None:
    done = run("train", "strided_cnn_c", "--data", few, "--epochs", 2, "--precision", "float32", "--json")
    assert (done.code, done.err) == (0, "")
    (told,) = json.loads(done.out)
    assert told["file"] == "runs/strided_cnn_c-quick-0/strided_cnn_c.safetensors"
    assert 0 <= told["error"] <= 100
    again = run("train", "strided_cnn_c", "--data", few, "--epochs", 2, "--precision", "float32")
    assert (again.code, again.out) == (0, "")
    assert re.search(r"strided_cnn_c.safetensors: \d+\.\d\d% error on the test images", again.err)
    page = run("train", "--report", "runs/strided_cnn_c-quick-0")
    assert page.out == "runs/strided_cnn_c-quick-0/report.html\n"
    html = (tmp_path / page.out.strip()).read_text()
    assert html.count("<polyline") == 3
    assert "http" not in html


def test_several_seeds_side_by_side_go_into_a_folder_each(few: Path, tmp_path: Path) -> None:
    words = ("strided_cnn_c", "--data", few, "--epochs", 1, "--seed", "0,1", "--side-by-side", 2, "--out", "all")
    command = [sys.executable, "-m", "attribkit.cli.main", "train", *map(str, words)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = sorted(path.parent.name for path in tmp_path.glob("all/*/strided_cnn_c.safetensors"))
    assert found == ["strided_cnn_c-quick-0", "strided_cnn_c-quick-1"]
    assert "strided_cnn_c seed 1  epoch 1/1" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["all_cnn", "--data", "few.npz"], 1, "no reference model 'all_cnn'; try all_cnn_"),
        (["all_cnn_c"], 2, "give at least one MODEL and --data PATH"),
        (["all_cnn_c", "--data", "none.npz"], 1, "none.npz does not exist"),
        (["all_cnn_c", "--data", "few.npz", "--recipe", "fast"], 2, "there is no recipe 'fast'"),
        (["all_cnn_c", "--data", "few.npz", "--seed", "x"], 2, "--seed takes whole numbers"),
        (["all_cnn_c", "--data", "few.npz", "--device", "toaster"], 2, "--device 'toaster'"),
        (["zfnet", "--data", "few.npz"], 1, "zfnet needs images of at least 224 pixels, these have 32"),
        (["--report", "nowhere"], 1, "nowhere is not the folder of a run"),
    ],
)
def test_what_was_asked_wrongly_is_told_in_a_line(
    few: Path, tmp_path: Path, run: Command, words: list[str], code: int, told: str
) -> None:
    done = run("train", *words)
    assert done.code == code
    assert told in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_says_how_to_go_on_and_does(
    few: Path, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals
) -> None:
    step = TrainingProgress.step
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it

    def stopped_in_the_second_epoch(self: TrainingProgress, images: int) -> None:
        step(self, images)
        if (tmp_path / "one" / "checkpoint.pt").is_file():
            os.kill(os.getpid(), sent)

    words = ("train", "strided_cnn_c", "--data", few, "--epochs", 2, "--precision", "float32", "--out", "one")
    with monkeypatch.context() as patched:
        patched.setattr(TrainingProgress, "step", stopped_in_the_second_epoch)
        stopped = run(*words)
    signal.signal(signal.SIGINT, before)
    assert stopped.code == 1
    assert (
        stopped.err.splitlines()[-1]
        == "attribkit: stopped; run the same command again to continue from the last epoch in one"
    )
    rest = run(*words)
    assert rest.code == 0
    assert "epoch 1/2" not in rest.err
    assert "epoch 2/2" in rest.err
