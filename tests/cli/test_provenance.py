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
