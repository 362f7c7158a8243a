"""`attribkit invariance` as a person uses it: files, one document, parts from a table, and a run that goes on."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Command

import attribkit
from attribkit.studies import moves

EXAMPLES = Path(__file__).parents[2] / "examples"
WORDS = ("--model", "all_cnn_c", "--layers", "conv1,conv9", "--device", "cpu")
BOXES = "image,part,x0,y0,x1,y1\nphotos/cat.jpg,middle,90,40,190,140\ncoffee.jpg,middle,150,100,250,200\n"


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two photographs in a folder, and few moves."""
    (tmp_path / "photos").mkdir()
    for name in ("cat.jpg", "coffee.jpg"):
        shutil.copy(EXAMPLES / name, tmp_path / "photos")
    monkeypatch.setitem(moves.USUAL, "rotation", (0.0, 180.0))  # type: ignore[index]
    for kind in ("down", "right", "scale"):
        monkeypatch.setitem(moves.USUAL, kind, moves.USUAL[kind][3:5])  # type: ignore[index]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_gives_the_same_as_the_library(run: Command, tmp_path: Path) -> None:
    """A folder's images, in a table and in one document; the same bytes again."""
    words = ("invariance", "photos", *WORDS, "--class", "cat", "--format", "csv,npz,png,html")
    document = json.loads(run(*words, "--json").out)
    paths = [tmp_path / "photos" / name for name in ("cat.jpg", "coffee.jpg")]
    found = attribkit.invariance(attribkit.load("all_cnn_c"), paths, ["conv1", "conv9"], target=3)
    saved = attribkit.Invariance.load(tmp_path / "attribkit-out" / "invariance.npz")
    np.testing.assert_array_equal(saved.distance, found.distance)
    assert saved.names == ("cat.jpg", "coffee.jpg")
    with open(tmp_path / "attribkit-out" / "invariance.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["distance conv9"]) for row in rows] == found.distance[:, 1].ravel().tolist()
    assert [float(row["probability"]) for row in rows] == found.probability.ravel().tolist()
    assert document["images"][1]["probability"] == found.probability[1].tolist()
    assert document["images"][0]["target"] == 3
    before = files(tmp_path / "attribkit-out")
    assert "2 images, 10 moves each" in run(*words).out
    after = files(tmp_path / "attribkit-out")
    assert {name for name in before if before[name] != after[name]} <= {"invariance.html", "invariance.png"}


def test_parts_come_from_a_table(run: Command, tmp_path: Path) -> None:
    """By an image's name or its path; the table of distances has random boxes beside them."""
    (tmp_path / "boxes.csv").write_text(BOXES)
    done = run("invariance", "photos", *WORDS, "--parts", "boxes.csv", "--format", "csv,html", "--json")
    (part,) = json.loads(done.out)["parts"]
    boxes: list[dict[str, Any]] = [{"middle": (90, 40, 190, 140)}, {"middle": (150, 100, 250, 200)}]
    paths = [tmp_path / "photos" / name for name in ("cat.jpg", "coffee.jpg")]
    found = attribkit.correspondence(attribkit.load("all_cnn_c"), paths, boxes, ["conv1", "conv9"])
    assert part["distance"] == found.distance[0].tolist()
    assert part["random"] == found.control[0].tolist()
    assert "Parts" in (tmp_path / "attribkit-out" / "invariance.html").read_text()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("image,part\n", "no column 'x0'"),
        (BOXES.replace("90", "ninety"), "line 2: x0, y0"),
        (BOXES.replace("coffee.jpg", "tea.jpg"), "none of the images"),
        (BOXES + "coffee.jpg,middle,1,2,3,4\n", "line 4: coffee.jpg has the part 'middle' twice"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(run: Command, tmp_path: Path, table: str, words: str) -> None:
    (tmp_path / "boxes.csv").write_text(table)
    done = run("invariance", "photos", *WORDS, "--parts", "boxes.csv")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert words in done.err


def test_one_that_cannot_be_read_is_named(run: Command, tmp_path: Path) -> None:
    """And the others go on; alone it is an error, too."""
    (tmp_path / "none.jpg").write_bytes(b"")
    done = run("invariance", "none.jpg", "photos/cat.jpg", *WORDS)
    assert done.code == 1
    assert "none.jpg" in done.err
    assert "1 image, 10 moves" in done.out
    assert "none.jpg is empty" in run("invariance", "none.jpg", *WORDS).err
