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
from attribkit.reference_models.switch_study import beside, eye, failures, figures, parts, testset, validation
from attribkit.reference_models.switch_study.subjects import RANDOM_SHARE, WITH, Subject
from attribkit.reference_models.switch_study.validation import MARGINS, OF_CLASS, RULES, TASKS

FEW = parts.Settings(images=10, asked=2, paired=2, compared=2, candidates=10, learnt=10, steps=2, resamples=10)


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

    def scores(one: Subject, task: str, *options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        asked.append((one.weights, task))
        count = len(one.images)
        keeps, loses = [1.0] * count, [0.0] * (count - 1) + [float("nan")]
        cells = {
            WITH: dict.fromkeys(RULES, keeps) | {"random map": loses, "centred Gaussian": [0.0] * count},
            **{name: {rule: loses if rule == "deconvnet" else keeps for rule in RULES} for name in one.compared},
        }
        kinds = ("class",) if task in OF_CLASS else ("middle", "last", "class")
        zeros = {kind: {condition: dict.fromkeys(RULES, 3) for condition in cells} for kind in kinds}
        return {metric: dict.fromkeys(kinds, cells) for metric in TASKS[task]}, zeros

    def alike(one: Subject, **options: Any) -> dict[str, Any]:
        each = {condition: {rule: [0.5] for rule in RULES} for condition in (WITH, one.without)}
        return {"class sensitivity": each, "signal convergence": each}

    def unjudged(one: Subject, *options: Any) -> dict[str, Any]:
        recognised = {WITH: {name: [0.5] for name in (*RULES, "random map", "the image itself")}}
        return {"donors": {}, "lattice": {"last": {WITH: {rule: [0.25] for rule in RULES}}}, "recognised": recognised}

    def steps(one: Subject, *options: Any) -> list[dict[str, Any]]:
        found = [{rule: [value] * 4 for rule in RULES} for value in (0.0, 1.0)]
        names = (None, "conv4")
        return [{"layer": name, "renamed": 2.5, "found": each} for name, each in zip(names, found, strict=True)]

    def cascade(one: Subject, **options: Any) -> list[tuple[str, dict[str, list[float]], dict[str, list[float]]]]:
        alike = {rule: [0.25] for rule in RULES}
        return [("conv7", alike, alike)]

    monkeypatch.setattr(validation, "scores", scores)
    monkeypatch.setattr(failures, "failures", alike)
    monkeypatch.setattr(failures, "cascade", cascade)
    monkeypatch.setattr(beside, "beside", unjudged)
    monkeypatch.setattr(beside, "one_after_another", steps)
    monkeypatch.setattr(eye, "prepared", lambda *arguments, **options: None)
    monkeypatch.setattr(parts.subjects, "candidates", lambda loaded, tests, subject: subject.pictures)
    facts = parts._facts
    monkeypatch.setattr(parts, "_facts", lambda *arguments: facts(*arguments) | {"renamed": 12.5})
    monkeypatch.setattr(figures, "figures", lambda *_: {"lower": (np.zeros((4, 4, 3), np.uint8), "Rows are black.")})
    return asked


def words(folder: Path, *more: str) -> tuple[str, ...]:
    names = "strided_cnn_c,zfnet"
    return ("validate", "--data", str(folder), "--models", names, "--images", "30", "--workers", "1", "--json", *more)


def test_what_is_done_is_kept_and_the_same_bytes_come_again(
    run: Command, folder: Path, made: list[tuple[str, str]]
) -> None:
    """A part or a picture that was lost is made again, alone; other settings make all of them again."""
    out = folder.parent / "attribkit-out/validation"
    first = run(*words(folder))
    every = [(weights, task) for weights in RANDOM_SHARE for task in TASKS]
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
    assert document["images"] == {"drawn": 30, "candidates": 30, "asked": 30, "paired": 30, "compared": 30}
    network = document["networks"]["strided_cnn_c"]
    assert network["primary"]["verdict"] == "supported"
    assert {key: network["primary"][key] for key in ("metric", "unit", "without")} == {
        "metric": "source retrieval",
        "unit": "last",
        "without": "as it is",
    }
    measured = network["trained"]["measurements"]
    assert {each["metric"]: each["verdict"] for each in measured} == dict.fromkeys(MARGINS, "supported")
    assert {each["without"] for each in measured} == {"as it is", "uniform"}
    assert network["primary"]["losses"]["deconvnet"] == {"mean": 1, "low": 1, "high": 1, "images": 29, "undefined": 1}
    assert network["primary"]["losses"]["guided"]["images"] == 29  # the same images
    assert network["primary"]["difference"]["mean"] == 1
    assert {each["verdict"] for each in network["untrained"]["measurements"]} == {None}
    assert set(network["trained"]["errors"]) == {"as it is", "after strides_to_pools"}
    assert network["trained"]["errors"]["as it is"]["changed"] == 0
    assert network["layers"] == {"middle": "conv3", "last": "conv5"}
    assert network["trained"]["means"][0]["means"][WITH]["random map"]["images"] == 29
    assert network["trained"]["zeros"]["grid"]["class"][WITH]["guided"] == 3
    assert network["trained"]["recognised"][WITH]["the image itself"]["mean"] == 0.5
    assert network["trained"]["strides"][0]["losses"]["guided"]["mean"] == 1
    assert "strides" not in network["untrained"]
    failures = network["trained"]["failures"]
    assert failures["cascade"]["guided"][0]["layer"] == "conv7"
    assert failures["cascade"]["guided"][0]["rank"]["mean"] == 0.25
    assert failures["class sensitivity"][WITH]["guided"]["mean"] == 0.5
    assert document["pictures"] == [
        {"file": "figures/strided_cnn_c-lower.png", "caption": "strided_cnn_c. Rows are black."}
        | {"network": "strided_cnn_c"}
    ]
    assert "zfnet" in document["missing"]["zfnet"]
    assert json.loads((folder.parent / "attribkit-out/validation/results.json").read_text()) == document


def test_in_words(run: Command, folder: Path, made: list[tuple[str, str]]) -> None:
    printed = run(*words(folder)[:-1]).out
    assert printed.startswith("Yes. By the source retrieval of the last layer's unit the claim is supported in 1 of 1")
    assert "    deconvnet loses 1.000 (1.000 to 1.000)" in printed
    assert "zfnet: missing: " in printed


def test_one_thing_changed(run: Command, folder: Path, made: list[tuple[str, str]]) -> None:
    """Some metrics only, and other margins: of all, or of one; what has been scored is not scored again."""
    few = json.loads(run(*words(folder, "--metrics", "grid,occlusion", "--margin", "1.5")).out)
    assert few["margins"] == {"occlusion": 1.5, "grid": 1.5}
    assert {each["verdict"] for each in few["networks"]["strided_cnn_c"]["trained"]["measurements"]} == {"cannot tell"}
    assert few["networks"]["strided_cnn_c"]["primary"] is None
    assert {task for _, task in made} == {"occlusion", "grid"}
    asked = len(made)
    again = json.loads(run(*words(folder, "--metrics", "grid,occlusion", "--margin", "grid=0.2")).out)
    assert again["margins"] == {"occlusion": 0.1, "grid": 0.2}
    assert len(made) == asked
    for wrong in (("--metrics", "gird"), ("--margin", "gird=1"), ("--margin", "much")):
        done = run(*words(folder, *wrong))
        assert (done.code, wrong[1].split("=")[0] in done.err) == (2, True)


def test_every_score_of_every_image_is_in_the_table(run: Command, folder: Path, made: list[tuple[str, str]]) -> None:
    """One line per image of each network, weights, metric, unit and condition; empty where it is undefined."""
    run(*words(folder))
    lines = (folder.parent / "attribkit-out/validation/scores.csv").read_text().splitlines()
    head = "network,weights,metric,unit,condition,image,backprop,deconvnet,guided,random map,centred Gaussian,Sobel map"
    assert lines[0] == head
    cells = 3 * 3 * (3 * 3 + 3)  # weights, conditions, units of three metrics and of three others
    assert len(lines) == 1 + 30 * cells
    own = [line for line in lines if line.startswith("strided_cnn_c,trained,occlusion,class,as it is,")]
    assert (own[0].endswith(",1,0,1,,,"), own[-1].endswith(",1,,1,,,"), len(own)) == (True, True, 30)
    assert own[0].split(",")[5].startswith("test image ")


def test_bad_calls_are_one_line(run: Command, folder: Path) -> None:
    """Too few images, an unknown network, no data."""
    few = run(*words(folder)[:5], "--images", "50", "--workers", "1")
    assert (few.code, few.err) == (
        1, "attribkit: there are 3 test images of a class, and 5 of each are asked for\n",
    )  # fmt: skip
    unknown = run("validate", "--data", str(folder), "--models", "all_cnn_d")
    assert (unknown.code, "all_cnn_c" in unknown.err) == (1, True)
    assert run("validate", "--data", "nowhere", "--models", "strided_cnn_c").code == 1
    missing = run("validate", "--data", str(folder), "--models", "zfnet,large_all_cnn")
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    assert all(name in missing.err for name in ("zfnet", "large_all_cnn", "train it and pass weights=FILE"))
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

    settings = FEW
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
    settings = replace(FEW, asked=10)
    tests = testset.read(folder).drawn(10, seed=0)
    parts.prepare_eye(testset.read(folder), settings, tmp_path / "cpu")
    parts.prepare_eye(testset.read(folder), settings, tmp_path / "cuda")
    documents = {}
    for device in ("cpu", "cuda"):
        every = parts.parts(["strided_cnn_c"], tests, replace(settings, device=device))
        for part in every:
            parts.run(part, tests, replace(settings, device=device), tmp_path / device)
        found = [parts.kept(part, tmp_path / device) for part in every if part.task == "occlusion"]
        documents[device] = [document["scores"]["occlusion"]["class"] for document in found if document is not None]
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
    settings = replace(FEW, images=500)
    part = parts.parts(["strided_cnn_c"], tests, settings)[0]
    parts.run(part, tests, settings, tmp_path)
    errors = json.loads((tmp_path / "parts" / part.file).read_text())["errors"]
    assert errors["as it is"] == {"error": None, "changed": 0}
