"""The script that changes the engine tries each change rightly. All of them are `make mutations`."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import mutations
import pytest
from mutations import Known, Mutant

ROOT = Path(__file__).parents[2]
RULES = ROOT / "attribkit" / "engine" / "rules.py"
TESTS = Path("tests/engine/test_rule_by_part.py")


def mutant(kind: str = "kind", module: str = "rules", line: int = 1, source: str = "") -> Mutant:
    return Mutant(module, kind, line, "before", "after", source)


# How a change is tried --------------------------------------------------------------------------------------


def line_of(source: str, beginning: str) -> int:
    return next(number for number, line in enumerate(source.splitlines(), 1) if line.startswith(beginning))


def changes() -> list[Mutant]:
    """What a few tests notice, and what they do not."""
    source = RULES.read_text(encoding="utf-8")
    line = line_of(source, "def resolve(") + 4
    changed = {
        "none": source,
        "a wrong condition": source.replace("    if not rule:", "    if rule:"),
        "words that no test reads": source.replace("no rule is called", "there is no rule"),
        "no Python": source + "def",
    }
    assert len(set(changed.values())) == len(changed)
    elsewhere = RULES.with_name("switches.py").read_text(encoding="utf-8")
    unasked = mutant(
        "a function that no test calls", "switches", line_of(elsewhere, "    def save("), elsewhere + "def"
    )
    return [*(mutant(kind, line=line, source=one) for kind, one in changed.items()), unasked]


def tried(folder: Path) -> tuple[dict[str, Known], dict[str, str]]:
    """The tests as they are, and how changes fare, in a process that has not imported the library."""
    for package in ("hypothesis", "torch"):  # once for all that are forked
        importlib.import_module(package)
    assert "attribkit" not in sys.modules
    os.chdir(ROOT)
    mutations.TESTS = TESTS
    known = mutations.watched(folder / "known.json")
    fared = {one.kind: how for one, how in mutations.outcomes(changes(), known, 2)}
    mutations.LEAST = mutations.PATIENCE = 0.2
    endless = mutant("no end", line=changes()[0].line, source="while True:\n    pass\n")
    fared |= {one.kind: how for one, how in mutations.outcomes([endless], known, 1)}
    return known, fared


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Known], dict[str, str]]:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(tried, tmp_path_factory.mktemp("mutations")).result()


def test_it_is_seen_which_functions_a_test_calls(trial: tuple[dict[str, Known], dict[str, str]]) -> None:
    known, _ = trial
    source = RULES.read_text(encoding="utf-8")
    one = known[f"{TESTS}::test_an_empty_mapping_is_no_rule"]
    assert ("rules", line_of(source, "def resolve(")) in one.calls
    assert ("rules", line_of(source, "def resolve_one(")) not in one.calls
    assert {module for module, _ in one.calls} <= {"rules"}
    assert one.seconds > 0
    assert len(known) > 10


def test_a_change_takes_the_place_of_the_module(trial: tuple[dict[str, Known], dict[str, str]]) -> None:
    """What breaks a test is noticed, what breaks none survives, and the file is the same all along."""
    _, fared = trial
    assert fared == {
        "none": "survived",
        "a wrong condition": "noticed",
        "words that no test reads": "survived",
        "no Python": "noticed",
        "a function that no test calls": "noticed",
        "no end": "no end",
    }


# Which tests try it -----------------------------------------------------------------------------------------

SOURCE = '''"""A module."""

LIMIT = 3


class Rule:
    """A class."""

    name = "rule"

    @property
    def strict(self):
        return self.name != "loose"


def outer():
    def inner():
        return LIMIT

    return inner()
'''


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one module, in place of the engine."""
    monkeypatch.setattr(mutations, "ENGINE", tmp_path)
    (tmp_path / "rules.py").write_text(SOURCE, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "lines"),
    [(3, None), (9, None), (11, (11, 13)), (13, (11, 13)), (16, (16, 20)), (18, (16, 20)), (20, (16, 20))],
)
@pytest.mark.usefixtures("engine")
def test_the_function_around_a_line_has_its_decorators(line: int, lines: tuple[int, int] | None) -> None:
    """Methods count for themselves, functions within functions do not."""
    found = mutations._function("rules", line)
    assert (found and (found[0], found[-1])) == lines


@pytest.mark.usefixtures("engine")
def test_the_quickest_tests_of_a_function_try_it_while_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is in no function, or in one that none calls, any."""
    monkeypatch.setattr(mutations, "MOST", 6.0)
    known = {
        "slow": Known(9.0, frozenset({("rules", 16)})),
        "third": Known(3.0, frozenset({("rules", 16), ("lift", 11)})),
        "second": Known(2.0, frozenset({("rules", 17)})),
        "other": Known(1.5, frozenset({("rules", 11), ("lift", 16)})),
        "first": Known(1.0, frozenset({("rules", 16)})),
    }
    assert mutations.chosen(mutant(line=18), known) == ["first", "second", "third"]
    assert mutations.chosen(mutant(line=13), known) == ["other"]
    assert mutations.chosen(mutant(line=3), known) == ["first", "other", "second"]
    del known["other"]
    assert mutations.chosen(mutant(line=13), known) == ["first", "second", "third"]


# What is a change -------------------------------------------------------------------------------------------


def test_annotations_are_no_part_of_what_code_means() -> None:
    """Nor is how it is laid out; what is no Python means nothing."""
    meaning = mutations._meaning("x: int = 1\ndef f(a: int, *b: str) -> bool:\n    return a > x\n")
    assert meaning == mutations._meaning("x: str = 1\n\ndef f(a, *b: int) -> int | None:\n    return (a > x)\n")
    assert meaning != mutations._meaning("x: int = 1\ndef f(a: int, *b: str) -> bool:\n    return a >= x\n")
    assert mutations._meaning("def") is None


def test_a_change_is_named_by_what_differs() -> None:
    before, after = mutations._lines(SOURCE, SOURCE.replace("    return LIMIT", "    return -LIMIT"))
    assert (before, after) == ("return LIMIT", "return -LIMIT")
    one = replace(mutant("sign", line=18), before=before, after=after)
    assert one.name == "rules.py:18 sign: 'return LIMIT' -> 'return -LIMIT'"


# What is kept, and what comes out ---------------------------------------------------------------------------


def test_what_is_kept_depends_on_what_it_follows_from(tmp_path: Path) -> None:
    """What was noticed counts until its module changes; what survived is tried again by other tests."""
    log = tmp_path / "fared.jsonl"
    assert mutations.kept(log, {"rules": "now"}, "tests") == {}
    lines = [
        ("noticed", "noticed", "now", "tests before"),
        ("endless", "no end", "now", "tests before"),
        ("survived", "survived", "now", "tests"),
        ("survived other tests", "survived", "now", "tests before"),
        ("noticed in another module", "noticed", "before", "tests"),
        ("at last", "survived", "now", "tests before"),
        ("at last", "noticed", "now", "tests"),
    ]
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    assert mutations.kept(log, {"rules": "now", "lift": "other"}, "tests") == {
        "noticed": "noticed",
        "endless": "no end",
        "survived": "survived",
        "at last": "noticed",
    }
    assert list(mutations.kept(log, {"rules": "now"}, "tests after")) == ["noticed", "endless", "at last"]
    assert list(mutations.kept(log, {"rules": "before"}, "tests after")) == ["noticed in another module"]


def test_a_digest_is_of_what_is_in_files(tmp_path: Path) -> None:
    """In whatever order they are named."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    other.write_text("2")
    before = mutations.digest([one, other])
    assert mutations.digest([other, one]) == before
    other.write_text("3")
    assert mutations.digest([one, other]) != before


def test_the_table_counts_what_was_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that do not end have noticed, too."""
    monkeypatch.setattr(mutations, "MODULES", ("rules", "switches", "lift"))
    fared = {"rules": ["noticed", "noticed", "survived"], "lift": ["no end", "survived", "survived", "noticed"]}
    named = {mutant(str(i), module): how for module, hows in fared.items() for i, how in enumerate(hows)}
    assert mutations.table(list(named), {one.name: how for one, how in named.items()}) == [
        "| module | changes | a test fails | no end | survived | noticed |",
        "|---|---|---|---|---|---|",
        "| rules | 3 | 2 | 0 | 1 | 66.7% |",
        "| switches | 0 | 0 | 0 | 0 | 0.0% |",
        "| lift | 4 | 1 | 1 | 2 | 50.0% |",
        "| all | 7 | 3 | 1 | 3 | 57.1% |",
    ]


def test_a_second_run_tries_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints the same table and what survived."""
    made: list[str] = []

    def outcomes(todo: list[Mutant], *others: Any) -> Iterator[tuple[Mutant, str]]:
        for one in todo:
            made.append(one.kind)
            yield one, "noticed" if one.kind == "sign" else "survived"

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(importlib, "import_module", lambda name: None)
    monkeypatch.setattr(mutations, "mutants", lambda module: [mutant("sign", module), mutant("number", module)])
    monkeypatch.setattr(mutations, "watched", lambda file: {})
    monkeypatch.setattr(mutations, "outcomes", outcomes)
    monkeypatch.setattr(sys, "argv", ["mutations.py", "--out", str(tmp_path / "out"), "--only", "lift"])
    mutations.main()
    first = capsys.readouterr().out
    mutations.main()
    assert made == ["sign", "number"]
    assert capsys.readouterr().out == first
    assert "| lift | 2 | 1 | 0 | 1 | 50.0% |" in first
    assert first.splitlines()[-1] == "survived: lift.py:1 number: 'before' -> 'after'"
