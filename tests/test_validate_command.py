"""`attribkit validate` keeps what is done and says what is missing; its document is JSON. Scores are stood in for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from PIL import Image

from attribkit.reference_models import study, validation
from attribkit.reference_models.validation import MARGINS, OF_LOGITS, RULES, WITH, Subject


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
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Made-up scores on which the claim holds; says for what weights they were asked."""
    asked: list[str] = []

    def scores(one: Subject, **options: Any) -> dict[str, Any]:
        asked.append(one.weights)
        count = len(one.images)
        keeps, loses = [1.0] * count, [0.0] * (count - 1) + [float("nan")]
        cells = {
            WITH: dict.fromkeys(RULES, keeps),
            one.without: {rule: loses if rule == "deconvnet" else keeps for rule in RULES},
        }
        return {
            metric: dict.fromkeys(("class",) if metric in OF_LOGITS else ("middle", "last", "class"), cells)
            for metric in MARGINS
        }

    monkeypatch.setattr(validation, "scores", scores)
    return asked


def words(folder: Path, *more: str) -> tuple[str, ...]:
    names = "strided_cnn_c,model_a"
    return ("validate", "--data", str(folder), "--models", names, "--images", "30", "--workers", "1", "--json", *more)


def test_what_is_done_is_kept_and_the_same_bytes_come_again(run: Command, folder: Path, made: list[str]) -> None:
    """A part that was lost is made again, alone; other settings make all of them again."""
    first = run(*words(folder))
    assert (first.code, first.err, made) == (0, "", list(study.WEIGHTS))
    assert run(*words(folder)).out == first.out
    assert len(made) == 3
    next(folder.parent.glob("**/*upper-third*.json")).unlink()
    assert run(*words(folder)).out == first.out
    assert made[3:] == ["upper third random"]
    run(*words(folder, "--seed", "1"))
    assert len(made) == 7


def test_the_document(run: Command, folder: Path, made: list[str]) -> None:
    """A verdict for each trained network; the weights that are missing; nothing that is not JSON."""
    document = json.loads(run(*words(folder)).out, parse_constant=pytest.fail)
    network = document["networks"]["strided_cnn_c"]
    assert network["verdict"] == dict.fromkeys(MARGINS, "supported")
    figure = network["trained"]["figures"][0]
    assert figure["losses"]["deconvnet"] == {"mean": 1, "low": 1, "high": 1, "images": 29, "undefined": 1}
    assert {figure["verdict"] for figure in network["untrained"]["figures"]} == {None}
    assert set(network["trained"]["errors"]) == {"as it is", "after strides_to_pools"}
    assert "model_a" in document["missing"]["model_a"]
    assert json.loads((folder.parent / "attribkit-out/validation/results.json").read_text()) == document


def test_in_words(run: Command, folder: Path, made: list[str]) -> None:
    told = run(*words(folder)[:-1]).out
    assert "    deconvnet own switches 1.000, as it is 0.000; loses 1.000 (1.000 to 1.000)" in told
    assert "model_a: missing: " in told


def test_bad_calls_are_one_line(run: Command, folder: Path) -> None:
    """Too few images, an unknown network, no data."""
    few = run(*words(folder)[:5], "--images", "50", "--workers", "1")
    assert (few.code, few.err) == (
        1, "attribkit: there are 3 test images of a class, and 5 of each are asked for\n",
    )  # fmt: skip
    assert run("validate", "--data", str(folder), "--models", "resnet50").code == 2
    assert run("validate", "--data", "nowhere").code == 1


def test_processes_give_what_one_gives(folder: Path, tmp_path: Path) -> None:
    """The scores themselves, of few images: part by part, whoever makes them."""
    from attribkit.cli.validate import _run
    from attribkit.reference_models.data import read

    data, settings = read(folder), study.Settings(images=10, asked=2, steps=2, resamples=10)
    part = study.Part("strided_cnn_c", "trained")
    for workers in (1, 2):
        _run([part], data, folder, settings, tmp_path / str(workers), workers, quiet=True)
    one, two = (json.loads((tmp_path / str(workers) / part.file).read_text()) for workers in (1, 2))
    assert one["key"] == two["key"]
    assert one["scores"].keys() == two["scores"].keys() == MARGINS.keys()
