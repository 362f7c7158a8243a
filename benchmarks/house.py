"""The house by number: files, lines of code, the length of functions, files that are too long.

python benchmarks/house.py [CHECKOUT]

Lines of code have more than a comment or a docstring. A function's length is given with its docstring and without.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("attribkit", "adapters", "cli", "reference_models")
LONGEST_FILE = 400

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


@dataclass(frozen=True)
class Function:
    """A function's name, and its length in lines with its docstring and without."""

    name: str
    length: int
    body: int


@dataclass(frozen=True)
class File:
    """One source file: its length, its lines of code, and its functions."""

    path: Path
    length: int
    code: int
    functions: tuple[Function, ...]

    @classmethod
    def of(cls, path: Path) -> File:
        source = path.read_text("utf-8")
        tree = ast.parse(source)
        code = _lines_with_tokens(source) - _lines_of_docstrings(tree)
        return cls(path, len(source.splitlines()), len(code), tuple(_functions(tree)))


@dataclass(frozen=True)
class House:
    """All source files of some folders."""

    files: tuple[File, ...]

    @classmethod
    def of(cls, root: Path, folders: tuple[str, ...] = FOLDERS) -> House:
        paths = sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
        return cls(tuple(File.of(path) for path in paths))

    @property
    def code(self) -> int:
        return sum(file.code for file in self.files)

    @property
    def functions(self) -> list[Function]:
        return [function for file in self.files for function in file.functions]

    @property
    def too_long(self) -> list[File]:
        return [file for file in self.files if file.length > LONGEST_FILE]


def _lines_with_tokens(source: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    spans = (range(token.start[0], token.end[0] + 1) for token in tokens if token.type not in _NO_CODE)
    return {line for span in spans for line in span}


def _lines_of_docstrings(tree: ast.Module) -> set[int]:
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    return {line for node in nodes for line in _docstring(node)}


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> range:
    """The lines of its docstring, if it has one."""
    if ast.get_docstring(node, clean=False) is None:
        return range(0)
    return range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)


def _functions(tree: ast.Module) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            yield Function(node.name, length, length - len(_docstring(node)))


def distribution(lengths: list[int]) -> str:
    lengths = sorted(lengths)
    p95 = lengths[int(0.95 * len(lengths))]
    return f"median {statistics.median(lengths):g}, 95th percentile {p95}, longest {lengths[-1]}"


def main(root: Path) -> None:
    house = House.of(root)
    print(f"{len(house.files)} files, {house.code} lines of code, {len(house.functions)} functions")
    print("lines of a function: " + distribution([function.length for function in house.functions]))
    print("without docstrings:  " + distribution([function.body for function in house.functions]))
    print(f"files over {LONGEST_FILE} lines: {len(house.too_long)}")
    for file in house.too_long:
        print(f"  {file.path.relative_to(root)}: {file.length}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])
