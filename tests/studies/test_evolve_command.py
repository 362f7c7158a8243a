"""`attribkit evolve` as a person uses it: a run of `attribkit train`, files, one document, one clear line."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from commands import Command
from PIL import Image
from studied import packed

import attribkit
from attribkit.studies import folder

NET = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 5, 3), nn.ReLU())
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a network, three checkpoints of it, and images."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "run").mkdir()
    torch.manual_seed(0)
    scope: dict[str, Any] = {}
    exec(NET, scope)
    net = scope["build"]()
    for number in (1, 5, 20):
        with torch.no_grad():
            net[0].weight += 0.1 * torch.randn(net[0].weight.shape)
        torch.save(net.state_dict(), tmp_path / "run" / f"epoch-{number}.pt")
    packed(tmp_path / "data.npz", 16)
    return tmp_path


WORDS = ("evolve", "run", "--model", "./net.py:build", "--data", "data.npz", "--layer", "1,3", "--device", "cpu")


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_every_format(run: Command, here: Path) -> None:
    """The same numbers in each; the same bytes when the command is given again."""
    words = (*WORDS, "--format", "html,png,webp,npz,csv", "--out", "out")
    done = run(*words)
    assert done.code == 0, done.err
    assert "3 checkpoints, 1 to 20, over 16 images; maps by guided" in done.out
    out, stem = here / "out", "1,3.guided.own"
    assert done.out.splitlines()[-5:] == [f"out/{stem}.{ending}" for ending in ("html", "png", "webp", "npz", "csv")]
    rows = list(csv.DictReader((out / f"{stem}.csv").read_text().splitlines()))
    assert len(rows) == (16 + 5) * 3  # of the first layer the first sixteen channels
    arrays = np.load(out / f"{stem}.npz")
    images = [*arrays["1/image"].ravel(), *arrays["3/image"].ravel()]
    assert [int(row["image"] or -1) for row in rows] == images
    assert next(row["name"] for row in rows if row["image"] == "3") == "data-03"
    assert {row["label"] for row in rows} <= {"", "even", "odd"}
    assert cv2.imread(str(out / f"{stem}.png")).shape[2] == 3
    with Image.open(out / f"{stem}.webp") as animation:
        assert animation.n_frames == 3
    html = (out / f"{stem}.html").read_text()
    assert html.count('class="changed"') == sum(int(row["changed"]) for row in rows)
    assert html.count("<polyline") == 6
    before = files(out)
    assert run(*words).code == 0
    assert files(out) == before


def test_the_document_is_the_librarys_answer(run: Command, here: Path) -> None:
    done = run(*WORDS, "--channels", "4,0-1", "--json", "--method", "deconvnet")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    e = attribkit.evolve(
        attribkit.checkpoints("run", "./net.py:build"), "data.npz", layer=["1", "3"], channels=[4, 0, 1],
        method="deconvnet",
    )  # fmt: skip
    assert [each["number"] for each in document["checkpoints"]] == [1, 5, 20]
    for told, film in zip(document["layers"], e.films.values(), strict=True):
        assert told["layer"] == film.layer
        assert [channel["channel"] for channel in told["channels"]] == [4, 0, 1]
        assert [channel["changed"] for channel in told["channels"]] == film.changed.tolist()
        assert told["settling"]["cosine"] == [None, *film.settling.medians()["cosine"]]
    assert document["files"] == ["attribkit-out/evolve/1,3-4,0-1.deconvnet.own.html"]


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    run: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*WORDS, "--format", "html,png,webp,npz,csv", "--out", "out")
    assert run(*words).code == 0
    expected = files(here / "out")
    shutil.rmtree(here / "out")
    write, written = folder.RunFolder.write, [0]

    def stopping(*args: Any) -> None:
        written[0] += 1
        if written[0] == 4:
            raise KeyboardInterrupt
        write(*args)

    with monkeypatch.context() as patched:
        patched.setattr(folder.RunFolder, "write", stopping)
        done = run(*words)
    assert done.code == 130
    assert "run the same command again to do the rest, in out/parts/1,3" in done.err
    assert run(*words).code == 0
    assert files(here / "out") == expected


def test_a_run_of_train(run: Command, tmp_path: Path) -> None:
    """Its kept epochs and the last one, without a word about the model."""
    data = packed(tmp_path / "few.npz", 40)
    held = dict(np.load(data))
    np.savez(data, **(held | {"is_train": np.arange(40) < 30}))
    trained = run("train", "strided_cnn_a", "--data", data, "--epochs", 3, "--precision", "float32",
                  "--keep-epochs", "1,2", "--out", "run")  # fmt: skip
    assert trained.code == 0, trained.err
    done = run("evolve", "run", "--data", data, "--layer", "conv1", "--channels", "0-1", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["model"] == "reference:strided_cnn_a"
    assert [(each["number"], each["file"]) for each in document["checkpoints"]] == [
        (1, "epoch-001.safetensors"),
        (2, "epoch-002.safetensors"),
        (3, "strided_cnn_a.safetensors"),
    ]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("evolve", "run", "--layer", "1"), 2, "--data is missing"),
        ((*WORDS, "--data", "none.npz"), 1, "none.npz does not exist"),
        ((*WORDS, "--model", "./net.py:none"), 1, "net.py"),
        ((*WORDS, "--layer", "9"), 1, "no layer '9'"),
        ((*WORDS, "--layer", ","), 2, "--layer names one layer, or several"),
        ((*WORDS, "--format", "gif"), 2, "--format takes html, png, webp, npz, csv, not 'gif'"),
        ((*WORDS, "--channels", "3-1"), 2, "--channels takes numbers and spans"),
        (("evolve", "nowhere", "--data", "data.npz", "--layer", "1", "--model", "all_cnn_c"), 1, "does not exist"),
        (("evolve", "run", "--data", "data.npz", "--layer", "1"), 1, "name it with model (--model)"),
    ],
)
def test_what_was_asked_wrongly_is_one_clear_line(
    run: Command, here: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    done = run(*words)
    assert (done.code, told in done.err) == (code, True), done.err
    assert "Traceback" not in done.err
