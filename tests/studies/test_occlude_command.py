"""`attribkit occlude` as a person uses it: files, one document, and a run that goes on where it was stopped."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Command
from PIL import Image

import attribkit
from attribkit.studies import occlusion
from attribkit.studies.occlusion_picture import Covered

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
WORDS = ("--model", "all_cnn_c", "--layer", "conv3", "--window", "16", "--stride", "16", "--device", "cpu")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    shutil.copy(CAT, tmp_path / "a.jpg")
    Image.open(CAT).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b.png")
    return "a.jpg", "b.png"


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    run: Command, two: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And covers nothing twice."""
    words = ("occlude", *two, *WORDS, "--format", "png,html,npz,csv", "--out", "run")
    assert run(*words).code == 0
    expected = files(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    add, calls = occlusion._Study.add, [0]

    def stopped(*args: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        add(*args)

    monkeypatch.setattr(occlusion._Study, "add", stopped)
    assert run(*words).code == 130
    assert run(*words).code == 0
    assert calls[0] == 3
    assert files(tmp_path / "run") == expected


def test_the_command_gives_the_same_as_the_library(run: Command, two: tuple[str, str], tmp_path: Path) -> None:
    done = run("occlude", two[0], *WORDS, "--format", "csv", "--class", "cat", "--fill", "mean", "--json")
    (document,) = json.loads(done.out)["occluded"]
    loaded = attribkit.load("all_cnn_c")
    image = loaded.preprocess(tmp_path / two[0])[None]
    result = attribkit.occlude(loaded, image, 16, 16, "mean", "conv3", 3)
    (path,) = document["files"]
    with open(tmp_path / path) as file:
        rows = list(csv.DictReader(file))
    assert [float(row["probability"]) for row in rows] == result.probability.ravel().tolist()
    assert [(int(row["top"]), int(row["left"])) for row in rows] == [(0, 0), (0, 16), (16, 0), (16, 16)]
    assert document["target"] == {"number": 3, "label": "cat"}
    assert document["uncovered"]["activity"] == result.clean[0, 1]


def test_one_that_cannot_be_read_is_named(run: Command, two: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "none.jpg").write_bytes(b"")
    done = run("occlude", "none.jpg", two[0], *WORDS)
    assert done.code == 1
    assert "none.jpg" in done.err
    assert "a.jpg" in done.out


def test_the_correlation_is_that_of_what_is_covered() -> None:
    """1 where the activity drops by what the window covers of the projection; none where nothing drops."""
    projection = np.zeros((3, 8, 8))
    projection[:, 1, 2], projection[:, 6, 6] = -1, 2
    covered = np.array([[[3.0, 0.0], [0.0, 6.0]]])

    def of(activity: Any) -> Covered:
        result = attribkit.Occlusion(
            probability=covered / 10, activity=activity, best=np.array([[[0, 1], [1, 9]]]), rows=(0, 4), columns=(0, 4),
            window=(4, 4), stride=(4, 4), edge="inside", target=(0,), channel=(0,), layer="a",
            clean=np.array([[0.5, 10.0, 0]]), computed="",
        )  # fmt: skip
        return Covered("x", np.zeros((8, 8, 3), np.uint8), result, ("first", "second"), projection, "guided")

    assert of(10 - covered).correlation == pytest.approx(1)
    assert of(10 + 0 * covered).correlation is None
    assert [(name, share) for _, name, share in of(covered).legend] == [
        ("second", 0.5),
        ("first", 0.25),
        ("class 9", 0.25),
    ]
