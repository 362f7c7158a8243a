"""`attribkit validate` keeps what is done and says what is missing; its document is JSON. Scores are stood in for."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Command
from PIL import Image

import attribkit
from attribkit.reference_models.switch_study import figures, parts, testset, validation
from attribkit.reference_models.switch_study.subjects import RANDOM_SHARE, WITH, Subject
from attribkit.reference_models.switch_study.validation import MARGINS, OF_LOGITS, RULES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder of ten classes with three test images each."""
    random = np.random.default_rng(0)
    for part, count in (("train", 1), ("test", 3)):
        for index in range(10):
            at = tmp_path / "cifar" / part / f"class{index}"
            at.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(at / f"{number}.png")
    return tmp_path / "cifar"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Made-up scores on which the claim holds; says for what weights and metrics they were asked."""
    asked: list[tuple[str, str]] = []

    def scores(one: Subject, metric: str, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        asked.append((one.weights, metric))
        count = len(one.images)
        keeps, loses = [1.0] * count, [0.0] * (count - 1) + [float("nan")]
        cells = {
            WITH: dict.fromkeys(RULES, keeps),
            one.without: {rule: loses if rule == "deconvnet" else keeps for rule in RULES},
        }
        kinds = ("class",) if metric in OF_LOGITS else ("middle", "last", "class")
        return dict.fromkeys(kinds, cells), {kind: {"random map": loses} for kind in kinds}

    def failures(one: Subject, **options: Any) -> dict[str, Any]:
        alike = {condition: {rule: [0.5] for rule in RULES} for condition in (WITH, one.without)}
        return {"class sensitivity": alike, "signal convergence": alike}

    def cascade(one: Subject, **options: Any) -> list[tuple[str, dict[str, list[float]], dict[str, list[float]]]]:
        alike = {rule: [0.25] for rule in RULES}
        return [("conv7", alike, alike)]

    monkeypatch.setattr(validation, "scores", scores)
    monkeypatch.setattr(validation, "failures", failures)
    monkeypatch.setattr(validation, "cascade", cascade)
    monkeypatch.setattr(figures, "figures", lambda one: {"lower": (np.zeros((4, 4, 3), np.uint8), "Rows are black.")})
    return asked


def words(folder: Path, *more: str) -> tuple[str, ...]:
    names = "strided_cnn_c,model_a"
    return ("validate", "--data", str(folder), "--models", names, "--images", "30", "--workers", "1", "--json", *more)


def test_what_is_done_is_kept_and_the_same_bytes_come_again(
    run: Command, folder: Path, made: list[tuple[str, str]]
) -> None:
    """A part or a picture that was lost is made again, alone; other settings make all of them again."""
    out = folder.parent / "attribkit-out/validation"
    first = run(*words(folder))
    every = [(weights, metric) for weights in RANDOM_SHARE for metric in MARGINS]
    assert (first.code, first.err, made) == (0, "", every)
    assert run(*words(folder)).out == first.out
    assert made == every
    (out / "parts/strided_cnn_c-upper-third-random-grid.json").unlink()
    (out / "figures/strided_cnn_c-lower.png").unlink()
    assert run(*words(folder)).out == first.out
    assert made == [*every, ("upper third random", "grid")]
    assert (out / "figures/strided_cnn_c-lower.png").is_file()
    run(*words(folder, "--seed", "1"))
    assert len(made) == 2 * len(every) + 1


def test_the_document(run: Command, folder: Path, made: list[tuple[str, str]]) -> None:
    """A verdict for each trained network; the weights that are missing; by what code; nothing that is not JSON."""
    document = json.loads(run(*words(folder)).out, parse_constant=pytest.fail)
    assert document["versions"]["attribkit"] == attribkit.__version__
    assert document["commit"] is None or re.fullmatch(r"[0-9a-f]{40}( with changes)?", document["commit"])
    network = document["networks"]["strided_cnn_c"]
    assert network["verdict"] == dict.fromkeys(MARGINS, "supported")
    measurement = network["trained"]["measurements"][0]
    assert measurement["losses"]["deconvnet"] == {"mean": 1, "low": 1, "high": 1, "images": 29, "undefined": 1}
    assert {each["verdict"] for each in network["untrained"]["measurements"]} == {None}
    assert set(network["trained"]["errors"]) == {"as it is", "after strides_to_pools"}
    assert network["trained"]["errors"]["as it is"]["changed"] == 0
    assert network["layers"] == {"middle": "conv3", "last": "conv5"}
    assert network["trained"]["bounds"][0]["means"]["random map"]["undefined"] == 1
    failures = network["trained"]["failures"]
    assert failures["cascade"]["guided"][0]["layer"] == "conv7"
    assert failures["cascade"]["guided"][0]["rank"]["mean"] == 0.25
    assert failures["class sensitivity"][WITH]["guided"]["mean"] == 0.5
    assert document["pictures"] == [
        {"file": "figures/strided_cnn_c-lower.png", "caption": "strided_cnn_c. Rows are black."}
    ]
    assert "model_a" in document["missing"]["model_a"]
    assert json.loads((folder.parent / "attribkit-out/validation/results.json").read_text()) == document


def test_in_words(run: Command, folder: Path, made: list[tuple[str, str]]) -> None:
    printed = run(*words(folder)[:-1]).out
    assert "    deconvnet own switches 1.000, as it is 0.000; loses 1.000 (1.000 to 1.000)" in printed
    assert "model_a: missing: " in printed


def test_bad_calls_are_one_line(run: Command, folder: Path) -> None:
    """Too few images, an unknown network, no data."""
    few = run(*words(folder)[:5], "--images", "50", "--workers", "1")
    assert (few.code, few.err) == (
        1, "attribkit: there are 3 test images of a class, and 5 of each are asked for\n",
    )  # fmt: skip
    unknown = run("validate", "--data", str(folder), "--models", "all_cnn_d")
    assert (unknown.code, "all_cnn_c" in unknown.err) == (1, True)
    assert run("validate", "--data", "nowhere", "--models", "strided_cnn_c").code == 1
    missing = run("validate", "--data", str(folder), "--models", "model_a,model_b")
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    assert all(name in missing.err for name in ("model_a", "model_b", "train it and pass weights=FILE"))
    assert run("validate", "--data", str(folder), "--models", ",").err == "attribkit: --models names no network\n"


def test_what_is_stopped_says_how_to_go_on(run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "run", stopped)
    done = run(*words(folder))
    assert (done.code, done.err) == (1, "attribkit: stopped; run the same command again to do the rest\n")


def test_processes_give_what_one_gives(folder: Path, tmp_path: Path) -> None:
    """The scores themselves, of few images: part by part, whoever makes them."""
    from attribkit.cli.validate import _run

    settings = parts.Settings(images=10, asked=2, compared=2, steps=2, resamples=10)
    tests = testset.read(folder).drawn(10, seed=0)
    every = parts.parts(["strided_cnn_c"], tests, settings)
    few = [part for part in every if part.task in ("facts", "occlusion")][:2]
    for workers in (1, 2):
        _run(few, tests, settings, tmp_path / str(workers), workers, quiet=True)
    for part in few:
        alone, together = ((tmp_path / str(workers) / "parts" / part.file).read_bytes() for workers in (1, 2))
        assert alone == together


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_every_part_on_a_gpu_as_on_the_cpu(folder: Path, tmp_path: Path) -> None:
    settings = parts.Settings(images=10, asked=10, compared=2, steps=2, resamples=10)
    tests = testset.read(folder).drawn(10, seed=0)
    documents = {}
    for device in ("cpu", "cuda"):
        every = parts.parts(["strided_cnn_c"], tests, replace(settings, device=device))
        for part in every:
            parts.run(part, tests, replace(settings, device=device), tmp_path / device)
        found = [parts.kept(part, tmp_path / device) for part in every if part.task == "occlusion"]
        documents[device] = [document["scores"]["class"] for document in found if document is not None]
    for one, other in zip(documents["cpu"], documents["cuda"], strict=True):
        for condition, rows in one.items():
            for rule, row in rows.items():
                assert row == pytest.approx(other[condition][rule], abs=0.1)


def test_photographs_have_no_errors_but_changes(run: Command, tmp_path: Path) -> None:
    """Labels are asked only of a set whose classes are the network's."""
    random = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / f"{number}.png")
    tests = testset.read(tmp_path).drawn(500, seed=0)
    settings = parts.Settings(images=500, asked=2, compared=2, steps=2, resamples=10)
    part = parts.parts(["strided_cnn_c"], tests, settings)[0]
    parts.run(part, tests, settings, tmp_path)
    errors = json.loads((tmp_path / "parts" / part.file).read_text())["errors"]
    assert errors["as it is"] == {"error": None, "changed": 0}
