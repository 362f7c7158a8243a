"""A part of the study is stale once something that it follows from has changed, the code among it, and only then."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attribkit.identity import digest_of_code
from attribkit.reference_models.switch_study import parts, validation
from attribkit.reference_models.switch_study.testset import TestSet

SETTINGS = parts.Settings(images=2, asked=2, paired=2, compared=2, candidates=2, learnt=10, steps=2, resamples=10)
TASKS = {"facts", *validation.TASKS, *parts.BESIDE}
TESTS = TestSet(tuple(np.zeros((2, 32, 32, 3), np.uint8)), "black")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of attribkit's sources, which the keys follow."""
    monkeypatch.setattr(parts, "LIBRARY", Path(shutil.copytree(parts.LIBRARY, tmp_path / "attribkit")))
    return parts.LIBRARY


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study's own sources, which the keys follow."""
    monkeypatch.setattr(parts, "STUDY", Path(shutil.copytree(parts.STUDY, tmp_path / "switch_study")))
    return parts.STUDY


def keys(settings: parts.Settings = SETTINGS, tests: TestSet = TESTS) -> dict[str, str]:
    """By task, of trained weights."""
    every = parts.parts(["strided_cnn_c"], tests, settings)
    return {part.task: part.key for part in every if part.weights == parts.TRAINED}


def changed(before: dict[str, str]) -> set[str]:
    return {task for task, key in keys().items() if key != before[task]}


def test_the_same_code_gives_the_same_keys_wherever_it_lies(
    library: Path, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the copies are those of the sources, and a page of the report is nothing that scores follow from."""
    before = keys()
    (library / "report" / "page.py").write_text("# another page\n")
    (library / "verify" / "referee.py").unlink()
    (study / "findings.py").write_text("# another page\n")
    (study / "document.py").unlink()
    assert changed(before) == set()
    assert len(set(before.values())) == 2  # the figures follow from more than the others
    monkeypatch.undo()
    assert changed(before) == set()


@pytest.mark.parametrize("file", ["metrics/grid.py", "engine/rules.py", "structure/strides.py"])
def test_other_code_makes_every_part_stale(library: Path, file: str) -> None:
    before = keys()
    with (library / file).open("a") as source:
        source.write("\n# changed\n")
    assert changed(before) == TASKS


def test_a_new_file_of_the_metrics_makes_every_part_stale(library: Path) -> None:
    before = keys()
    (library / "metrics" / "another.py").write_text("")
    assert changed(before) == TASKS


@pytest.mark.parametrize("file", ["validation.py", "subjects.py", "parts.py", "beside.py", "eye.py"])
def test_other_scoring_makes_every_part_stale(study: Path, file: str) -> None:
    before = keys()
    (study / file).write_text("")
    assert changed(before) == TASKS


def test_the_figures_follow_from_how_they_are_drawn(library: Path, study: Path) -> None:
    before = keys()
    (study / "figures.py").write_text("")
    assert changed(before) == {"figures"}
    before = keys()
    (library / "report" / "pictures.py").write_text("")
    assert changed(before) == {"figures"}


def test_settings_pictures_and_weights_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys()
    assert keys() == before
    assert not set(keys(replace(SETTINGS, seed=1)).values()) & set(before.values())
    assert keys(replace(SETTINGS, resamples=20)) == before  # no score follows from it
    others = TestSet(tuple(np.ones((2, 32, 32, 3), np.uint8)), "black")
    assert not set(keys(tests=others).values()) & set(before.values())
    read = parts.subjects.read

    def with_other_weights(network: str) -> object:
        loaded = read(network)
        next(loaded.model.parameters()).data[0] += 1
        return loaded

    monkeypatch.setattr(parts.subjects, "read", with_other_weights)
    assert changed(before) == TASKS


def test_a_stale_part_is_not_taken_and_a_fresh_one_is(library: Path, tmp_path: Path) -> None:
    """From the file that a run leaves."""
    (part,) = (
        part for part in parts.parts(["strided_cnn_c"], TESTS, SETTINGS) if part.file.endswith("c-trained-facts.json")
    )
    parts.run(part, TESTS, SETTINGS, tmp_path)
    assert parts.kept(part, tmp_path) is not None
    (library / "metrics" / "grid.py").write_text("")
    (stale,) = (other for other in parts.parts(["strided_cnn_c"], TESTS, SETTINGS) if other.file == part.file)
    assert parts.kept(stale, tmp_path) is None


def test_metrics_that_are_not_chosen_are_not_run() -> None:
    few = parts.parts(["strided_cnn_c"], TESTS, SETTINGS, ["grid", "source lead"])
    assert {part.task for part in few if part.weights == parts.TRAINED} == {"facts", "sources", "grid", *parts.BESIDE}


def test_moving_code_from_one_file_to_the_next_changes_its_digest(tmp_path: Path) -> None:
    """Names and lengths count, not only the bytes in a row."""
    digests = set()
    for first, second in (("ab", "c"), ("a", "bc"), ("abc", "")):
        (tmp_path / "one.py").write_text(first)
        (tmp_path / "two.py").write_text(second)
        digests.add(digest_of_code(tmp_path, ["."]))
    (tmp_path / "two.py").rename(tmp_path / "three.py")
    digests.add(digest_of_code(tmp_path, ["."]))
    assert len(digests) == 4
