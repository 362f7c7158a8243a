"""`attribkit probe` as a person uses it: files, one document, and a changed network beside the one that was given."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from commands import Command
from studied import folder

import attribkit

WORDS = ("--model", "all_cnn_c", "--layers", "conv1,conv9", "--features", "96", "--device", "cpu", "--data", "photos")


def test_the_command_gives_the_same_as_the_library(run: Command, tmp_path: Path) -> None:
    """In a table and in one document; the same bytes again, without a second pass over the data."""
    photos = folder(tmp_path / "photos", 16)
    words = ("probe", *WORDS, "--remove", "relu8", "--keep-channels", "conv2:48", "--format", "csv,npz,png,html")
    document = json.loads(run(*words, "--json").out)
    loaded = attribkit.load("all_cnn_c")
    every = [
        attribkit.probe(loaded, photos, ["conv1", "conv9"], features=96, **change)
        for change in ({}, {"remove": ["relu8"]}, {"keep": {"conv2": 48}})
    ]
    accuracies = [each.accuracy.tolist() for each in every]
    assert [[layer["accuracy"] for layer in probes["layers"]] for probes in document["probes"]] == accuracies
    assert [probes["changed"] for probes in document["probes"]] == ["", "without relu8", "conv2 cut to 48 channels"]
    out = tmp_path / "attribkit-out"
    with open(out / "probe.csv") as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == [each for row in accuracies for each in row]
    assert attribkit.Probes.load(out / "probe.without-relu8.npz").changed == "without relu8"
    before = {path: path.stat().st_mtime_ns for path in (out / "probes").rglob("*.npz")}
    csv_before = (out / "probe.csv").read_bytes()
    assert "8 images to fit to" not in run(*words).out
    assert (out / "probe.csv").read_bytes() == csv_before
    assert {path: path.stat().st_mtime_ns for path in (out / "probes").rglob("*.npz")} == before


def test_what_is_called_wrongly_is_said_in_a_line(run: Command, tmp_path: Path) -> None:
    folder(tmp_path / "photos", 16)
    for words, code, said in (
        (("--keep-channels", "conv2"), 2, "such as conv6:96"),
        (("--remove", "conv3"), 1, "it gets 96x32x32 and gives 96x16x16"),
        (("--remove", "conv99"), 1, "nearest"),
    ):
        done = run("probe", *WORDS, *words)
        assert done.code == code
        assert said in done.err
