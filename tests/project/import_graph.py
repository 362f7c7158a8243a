"""Which file imports which, read from the sources: at module level, inside functions, for type checkers alike.

A name of `attribkit` itself (`attribkit.rewrite`, `from attribkit import rewrite`) counts as an import of the file that
the name lives in. Python also runs the `__init__.py` above an imported file; that is not counted.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

Graph = dict[str, set[str]]


def modules(root: Path, folders: Mapping[str, str]) -> dict[str, Path]:
    """Every source file by the name that it is imported as; `folders` has the name of each folder's package."""
    named: dict[str, Path] = {}
    for folder, package in folders.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            named[".".join(part for part in (package, *parts) if part and part != "__init__")] = path
    return named


def imported(path: Path) -> Iterator[str]:
    """What a file imports, as `package.module` or `package.module.name`, whoever's it is."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (word.value for word in node.args if isinstance(word, ast.Constant))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "attribkit":
            yield f"attribkit.{node.attr}"


def graph(named: Mapping[str, Path], homes: Mapping[str, str]) -> Graph:
    """For each module those of `named` that it imports; `homes` says where the lazy names of `attribkit` live."""
    return {
        name: {
            module for full in imported(path) if (module := _module(homes.get(full, full), named)) and module != name
        }
        for name, path in named.items()
    }


def _module(full: str, named: Mapping[str, Path]) -> str | None:
    """The longest beginning that is a module."""
    while full not in named and "." in full:
        full = full.rpartition(".")[0]
    return full if full in named else None


def packages(files: Graph) -> Graph:
    """The same between packages; a file right in `attribkit` stands for itself."""
    grouped: Graph = {}
    for name, targets in files.items():
        group = grouped.setdefault(package(name, files), set())
        group |= {package(target, files) for target in targets} - {package(name, files)}
    return grouped


def package(name: str, files: Graph) -> str:
    parent = name.rpartition(".")[0]
    is_package = any(other.startswith(f"{name}.") for other in files)
    return name if is_package or parent in ("", "attribkit") else parent
