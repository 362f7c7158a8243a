"""`attribkit gallery`: files for a person, a document for a machine, and one clear line where it cannot be done."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from commands import Command
from studies.studied import folder, packed

COMMON = ("--model", "all_cnn_c", "--weights", "none", "--layer", "conv2")


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_every_format(run: Command, tmp_path: Path) -> None:
    """A page with its sheets, the paper's sheet, a table and arrays; the same command gives the same bytes."""
    data = packed(tmp_path / "small.npz", 20)
    words = ("gallery", data, *COMMON, "--channels", "0-3,7", "--top", 4, "--format", "html,png,csv,npz", "-o", "out")
    done = run(*words)
    assert done.code == 0, done.err
    out = tmp_path / "out"
    assert "conv2: 5 channels over 20 images" in done.out
    stem = "conv2.guided.own"
    named = [f"out/{stem}/index.html", *(f"out/{stem}.{ending}" for ending in ("png", "csv", "npz"))]
    assert set(named) <= set(done.out.splitlines())
    rows = list(csv.DictReader((out / f"{stem}.csv").read_text().splitlines()))
    assert [row["kind"] for row in rows if row["channel"] == "7"] == ["top"] * 4 + ["p99"] * 3 + ["p90"] * 3 + [
        "p50"
    ] * 3
    arrays = np.load(out / f"{stem}.npz")
    assert arrays["channels"].tolist() == [0, 1, 2, 3, 7]
    assert [int(row["image"]) for row in rows if row["kind"] == "top"] == arrays["image"].ravel().tolist()
    top, left, bottom, right = arrays["box.7"][0]
    assert arrays["map.7.0"].shape == (3, bottom - top, right - left)
    assert cv2.imread(str(out / f"{stem}.png")).shape[2] == 3
    script = (out / stem / "index.js").read_text()
    index = json.loads(script.removeprefix("window.GALLERY = ").removesuffix(";\n"))
    assert [channel["c"] for channel in index["channels"]] == [0, 1, 2, 3, 7]
    assert index["labels"]["3"] == "odd"
    sheet = cv2.imread(str(out / stem / "sheets" / "000-map.webp"))
    assert sheet.shape[:2] == (5 * index["side"], 4 * index["side"])
    before = files(out)
    assert run(*words).code == 0
    assert files(out) == before


def test_a_document_for_machines(run: Command, tmp_path: Path) -> None:
    """And nothing else on standard output; a broken image is in it."""
    data = folder(tmp_path / "data", 6)
    (data / "odd" / "zero.jpg").write_bytes(b"")
    done = run("gallery", data, *COMMON, "--channels", "5", "--top", 2, "--switches", "own,uniform", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert [(each["layer"], each["switches"]) for each in document["galleries"]] == [
        ("conv2", "own"),
        ("conv2", "uniform"),
    ]
    (channel,) = document["galleries"][0]["channels"]
    assert channel["channel"] == 5
    assert len(channel["winners"]) == 2
    (unreadable,) = document["galleries"][0]["unreadable"]
    assert unreadable["image"] == "odd/zero.jpg"
    assert len(document["files"]) == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("absent",), 1, "absent does not exist"),
        (("empty",), 1, "is a folder without images"),
        (("small.npz", "--channels", "96"), 1, "has 96 channels, 0 to 95; there is no 96"),
        (("small.npz", "--channels", "5-2"), 2, "--channels takes numbers and spans"),
        (("small.npz", "--channels", "x"), 2, "--channels takes numbers and spans"),
        (("small.npz", "--format", "gif"), 2, "--format takes html, png, csv, npz, not 'gif'"),
        (("small.npz", "--switches", "none"), 2, "--switches takes own"),
        (("small.npz", "--layer", "conv99"), 1, "no layer 'conv99'"),
        (("small.npz", "--layer", ","), 2, "--layer, --format and --switches name one thing each"),
        (("small.npz", "-o", "small.npz"), 1, "is a file: a gallery is a folder"),
        (("small.npz", "-o", "empty/.."), 1, "holds something else than a gallery"),
    ],
)
def test_bad_input_is_one_clear_line(
    run: Command, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    packed(tmp_path / "small.npz", 4)
    (tmp_path / "empty").mkdir()
    done = run("gallery", words[0], *COMMON, *words[1:])
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert code == 2 or len(done.err.splitlines()) == 1


def test_another_gallery_in_the_folder_needs_force(run: Command, tmp_path: Path) -> None:
    data = packed(tmp_path / "small.npz", 6)
    words = ("gallery", data, *COMMON, "--channels", "0", "--format", "csv", "-o", "out")
    assert run(*words).code == 0
    done = run(*words, "--score", "mean")
    assert done.code == 1
    assert "holds a gallery of score max, not mean" in done.err
    assert run(*words, "--score", "mean", "--force").code == 0


def test_processes_of_torchrun_share_the_work(run: Command, tmp_path: Path) -> None:
    """And give the bytes of one process."""
    data = packed(tmp_path / "small.npz", 1100, side=8)
    words = ["gallery", str(data), "--model", "all_cnn_c", "--weights", "none", "--layer", "conv1", "--channels", "0,1"]
    words += ["--format", "csv", "--top", "3", "--quiet", "--out"]
    assert run(*words, "alone").code == 0
    shared = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    shared += ["attribkit.cli.main", *words, "shared"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # of which the last bits of numbers may depend
    done = subprocess.run(shared, capture_output=True, text=True, check=False, env=os.environ | threads, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "shared") == files(tmp_path / "alone")
