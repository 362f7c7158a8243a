"""What the site needs before mkdocs reads the code.

mkdocstrings looks for `attribkit.adapters` in a folder of that name, which only an installed package has: the
folders are linked as pyproject.toml maps them. mkdocs-click takes a command's help for Markdown: its examples, which
click marks by a `\\b`, become code.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def on_startup(**how: Any) -> None:
    _link(ROOT / "build" / "docs" / "attribkit")
    _fence_examples()


def _link(package: Path) -> None:
    package.mkdir(parents=True, exist_ok=True)
    mapped = re.findall(r'^"attribkit\.(\w+)" = "(\w+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    homes = {name: ROOT / folder for name, folder in mapped}
    homes |= {path.name: path for path in (ROOT / "attribkit").iterdir() if path.name != "__pycache__"}
    for old in package.iterdir():
        old.unlink()
    for name, home in homes.items():
        (package / name).symlink_to(home)


def _fence_examples() -> None:
    import click

    from attribkit.cli.main import attribkit

    context = click.Context(attribkit)
    for name in attribkit.list_commands(context):
        command = attribkit.get_command(context, name)
        assert command is not None
        command.help = re.sub(r"\x08\n((?:.+\n?)+)", _as_code, inspect.cleandoc(command.help or ""))


def _as_code(found: re.Match[str]) -> str:
    return f"\n```bash\n{found[1].rstrip()}\n```\n"
