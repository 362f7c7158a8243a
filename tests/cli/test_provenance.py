"""A saved file says where it comes from: the image, the model, its weights, the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import Command
from PIL import Image

import attribkit
from attribkit.report.pictures import encode_png

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"


def test_files_say_where_they_come_from(run: Command, tmp_path: Path) -> None:
    """Every format, in its own way."""
    words = (
        "explain",
        CAT,
        "--model",
        "all_cnn_c",
        "--method",
        "guided",
        "-f",
        "png,npz,json,safetensors",
        "-o",
        "out",
    )
    assert run(*words).code == 0
    expected = {
        "image": str(CAT),
        "model": "reference:all_cnn_c",
        "weights": f"default, sha256 {attribkit.load('all_cnn_c').digest}",
        "command": " ".join(["attribkit", *map(str, words)]),
    }
    out = tmp_path / "out"
    found = [
        attribkit.Attribution.load(out / "cat.guided.npz").about,
        attribkit.Attribution.load(out / "cat.guided.safetensors").about,
        json.loads((out / "cat.guided.json").read_text())["about"],
        Image.open(out / "cat.png").text,
    ]
    for about in found:
        assert {key: about[key] for key in expected} == expected


def test_other_weights_have_another_digest() -> None:
    """And the same ones the same, whatever their device's order of bytes in memory."""
    loaded, again = attribkit.load("all_cnn_c"), attribkit.load("all_cnn_c")
    assert loaded.digest == again.digest
    changed = attribkit.load("all_cnn_c")
    with torch.no_grad():
        changed.model.conv1.bias[0] += 1
    assert changed.digest != loaded.digest


@pytest.mark.parametrize("text", ["plain", "größer → 猫", "half \udc80 a pair", ""])
def test_texts_of_a_picture_are_read_back(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(torch.zeros(2, 3, 3, dtype=torch.uint8).numpy(), {"image": text, "model": "m"}))
    with Image.open(path) as image:
        assert image.text == {"image": text.replace("\udc80", r"\udc80"), "model": "m"}
        assert image.size == (3, 2)


def test_what_is_there_is_not_overwritten_by_something_else(run: Command, tmp_path: Path) -> None:
    """A file of another model or image gets a number; the same again is not written twice."""
    words = ("explain", CAT, "--method", "guided", "--format", "png,npz,html", "--out", "out", "--model")
    first = run(*words, "all_cnn_c")
    names = ["cat.guided.npz", "cat.png", "explain.html"]
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == names
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names}
    assert run(*words, "strided_cnn_c").code == 0
    again = run(*words, "all_cnn_c").out.splitlines()
    assert [line for line in again if "done before" not in line] == [
        line for line in first.out.splitlines() if " s  " not in line
    ]
    numbered = ["cat-2.png", "cat.guided-2.npz", "cat.guided.npz", "cat.png", "explain-2.html", "explain.html"]
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == numbered
    assert {name: (tmp_path / "out" / name).read_bytes() for name in names} == before
    assert run(*words, "strided_cnn_c", "--force").code == 0
    assert (tmp_path / "out" / "cat.png").read_bytes() != before["cat.png"]
    assert len(list((tmp_path / "out").glob("[!.]*"))) == 6


def test_a_file_that_was_named_is_not_overwritten_by_something_else(run: Command, tmp_path: Path) -> None:
    words = ("explain", CAT, "--model", "all_cnn_c", "--out", "mine.png")
    assert run(*words).code == run(*words).code == 0
    before = (tmp_path / "mine.png").read_bytes()
    refused = run(*words, "--layer", "conv3")
    assert (refused.code, "mine.png is there already and holds something else: --force" in refused.err) == (1, True)
    assert (tmp_path / "mine.png").read_bytes() == before
    assert run(*words, "--layer", "conv3", "--force").code == 0


def test_units_of_one_layer_have_files_of_their_own(run: Command, tmp_path: Path) -> None:
    """And so have classes; what is usual stays short."""
    layer = ("--layer", "conv3")
    for asked in (
        (),
        layer,
        (*layer, "--channel", "7"),
        (*layer, "--channel", "7,9", "--at", "2,3"),
        ("--class", "cat"),
    ):
        assert run("explain", CAT, "--model", "all_cnn_c", "--out", "out", *asked).code == 0
    names = ["cat.class-3.png", "cat.conv3-7,9.at-2,3.png", "cat.conv3-7.png", "cat.conv3.png", "cat.png"]
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == names
