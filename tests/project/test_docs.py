"""The documentation does what it says.

Every Python block and every `attribkit` command of a page is run, in order, in a folder that holds `examples`. A block
of text right below is what they print: `...` stands for any lines; times, rounding errors and late digits may differ.
A comment above a block says what is special about it: `<!-- not run: why -->`, `<!-- exits with 1 -->`,
`<!-- file: net.py -->`.
"""

from __future__ import annotations

import json
import pydoc
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from commands import Command

import attribkit

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
BLOCK = re.compile(
    r"(?:^<!-- (?P<note>.*?) -->\n+)?^```(?P<kind>\w*)\n(?P<code>.*?)^```\n(?:\n```text\n(?P<says>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
VARYING = (
    re.compile(r"^  \d+\.\d s  ", re.MULTILINE),  # how long it took
    re.compile(r"\d\.\de-\d\d"),  # a rounding error
    re.compile(r"(?<=\.\d{4})\d+"),  # digits in which processors may differ
)


@dataclass(frozen=True)
class Block:
    """Code of a page, the comment above it, and what it prints."""

    note: str
    kind: str
    code: str
    says: str | None

    @property
    def is_file(self) -> bool:
        return self.note.startswith("file: ")

    @property
    def is_run(self) -> bool:
        return self.kind in ("python", "bash") and not self.is_file and not self.note.startswith("not run: ")

    def commands(self) -> Iterator[list[str]]:
        for line in self.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                assert words[0] == "attribkit", f"{line!r} is not run by the tests: say so above, and why"
                yield words[1:]


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text())
    return [Block(match["note"] or "", match["kind"], match["code"], match["says"]) for match in found]


def runs(page: str) -> bool:
    return any(block.is_run for block in blocks(DOCS / page))


def without_varying(text: str) -> str:
    for pattern in VARYING:
        text = pattern.sub("~", text)
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def says(expected: str, printed: str) -> bool:
    """Whether they are equal, `...` standing for any lines."""
    parts = re.split(r"^\.\.\.$", without_varying(expected), flags=re.MULTILINE)
    return re.fullmatch(".*".join(map(re.escape, parts)), without_varying(printed), re.DOTALL) is not None


@pytest.mark.parametrize("page", [*filter(runs, PAGES), "../README.md"])
def test_a_page_does_what_it_says(
    page: str, run: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTRIBKIT_DEVICE", "cpu")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    names: dict[str, Any] = {"__name__": "docs"}
    for block in blocks(DOCS / page):
        printed = ""
        if block.is_file:
            (tmp_path / block.note.removeprefix("file: ")).write_text(block.code)
        elif block.is_run and block.kind == "python":
            exec(compile(block.code, page, "exec"), names)
            printed = capsys.readouterr().out
        elif block.is_run:
            code = int(block.note.removeprefix("exits with ") or 0)
            for words in block.commands():
                done = run(*words)
                assert done.code == code, f"{words}: {done.err}"
                printed += done.out + done.err
        if block.says is not None:
            assert says(block.says, printed), f"{page} says\n{block.says}\nand this is printed\n{printed}"


@pytest.mark.parametrize("page", [*(f"docs/{page}" for page in PAGES), "README.md"])
def test_python_compiles_and_notes_are_known(page: str) -> None:
    for block in blocks(ROOT / page):
        assert re.fullmatch(r"|not run: .+|exits with \d|file: \S+", block.note), block.note
        if block.kind == "python":
            compile(block.code, page, "exec")


@pytest.mark.parametrize("page", [*(f"docs/{page}" for page in PAGES), "README.md", "CONTRIBUTING.md"])
def test_what_a_page_links_to_is_there(page: str) -> None:
    path = ROOT / page
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL))
    inside = [target.partition("#")[0] for target in targets if "://" not in target]
    assert [target for target in inside if target and not (path.parent / target).exists()] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r"^ +- .+: (\S+\.md)$", navigation, re.MULTILINE)
    assert sorted(listed) == PAGES


def test_every_public_name_is_in_the_reference() -> None:
    pages = "".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    described = re.findall(r"^::: attribkit\.(?:\w+\.)+(\w+)$", pages, re.MULTILINE)
    assert [name for name in attribkit.__all__ if name not in described] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("reference/")])
def test_what_the_reference_describes_is_there(page: str) -> None:
    """Under the path that the page names."""
    for path in re.findall(r"^::: (attribkit[\w.]+)$", (DOCS / page).read_text(), re.MULTILINE):
        assert pydoc.locate(path) is not None, path


def test_the_json_of_explain_is_as_its_schema_says(run: Command, tmp_path: Path) -> None:
    """One image that is explained twice and one that is not, by layer and by class."""
    schema = json.loads((DOCS / "explain.schema.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    check.check_schema(schema)
    shutil.copy(ROOT / "examples" / "cat.jpg", tmp_path)
    (tmp_path / "none.jpg").touch()
    shared = ("cat.jpg", "none.jpg", "--model", "convpool_cnn_c", "--weights", "none", "--json")
    for words in (("--layer", "conv1,conv7", "--format", "html,npz"), (), ("--layer", "conv2", "--at", "all")):
        done = run("explain", *shared, *words)
        document = json.loads(done.out)
        assert (len(document["explained"]), len(document["failed"])) == (2 if "conv1,conv7" in words else 1, 1)
        assert [error.message for error in check.iter_errors(document)] == []
    document["explained"][0]["units"][0]["box"] = [1, 2]
    assert not check.is_valid(document)
