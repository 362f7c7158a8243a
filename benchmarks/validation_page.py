"""What the study on switches found: verdicts between two lines of docs/validation.md, numbers in a page beside it.

python benchmarks/validation_page.py docs/validation.md OUT [OUT ...]

Each OUT is a folder in which `attribkit validate` left its results.json.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jinja2 import FileSystemLoader

from attribkit.errors import BadValue
from attribkit.files import write_whole
from attribkit.reference_models.switch_study.plots import plots
from attribkit.reference_models.switch_study.wording import Json, environment, holders

BEGIN, END = "<!-- findings -->", "<!-- /findings -->"


def write(document: Path, folders: Sequence[Path]) -> None:
    """Put the verdicts of the folders' results.json into the document; tables and images go beside it."""
    text = document.read_bytes().decode()
    if [line for line in text.splitlines() if line in (BEGIN, END)] != [BEGIN, END]:
        raise BadValue(f"{document} needs the line {BEGIN} and after it the line {END}, each of them once")
    verdicts, tables, images = pages(
        [(json.loads((folder / "results.json").read_bytes()), folder) for folder in folders]
    )
    around = re.compile(f"^{BEGIN}$.*^{END}$", re.MULTILINE | re.DOTALL)
    new = around.sub(lambda _: f"{BEGIN}\n\n{verdicts}\n{END}", text)
    for name, data in images.items():
        write_whole(document.parent / "images" / name, data)
    write_whole(document.with_name("validation-tables.md"), tables.encode())
    write_whole(document, new.encode())


def pages(runs: Sequence[tuple[Json, Path]]) -> tuple[str, str, dict[str, bytes]]:
    """The verdicts and the tables as Markdown, and the images that they show by their names."""
    networks = _without_twins((name, network) for results, _ in runs for name, network in results["networks"].items())
    pictures = [(folder / each["file"], each["caption"]) for results, folder in runs for each in results["pictures"]]
    files = {name: {kind: _image(f"{kind}-{name}.svg") for kind in ("losses", "cascade")} for name in networks}
    images = _without_twins(
        [
            *(
                (files[name][kind], plot.encode())
                for name in networks
                for kind, plot in plots(name, networks[name]).items()
            ),
            *((_image(path.name), path.read_bytes()) for path, _ in pictures),
        ]
    )
    templates = environment().overlay(loader=FileSystemLoader(Path(__file__).parent))
    facts = {
        "runs": [results for results, _ in runs],
        "networks": networks,
        "holders": holders(networks),
        "files": files,
        "shown": [(_image(path.name), caption) for path, caption in pictures],
    }
    verdicts, tables = (
        templates.get_template(name).render(facts) for name in ("validation_page.md", "validation_tables.md")
    )
    return verdicts, tables, images


def _without_twins(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    by_name: dict[str, Any] = {}
    for name, value in pairs:
        if name in by_name:
            raise BadValue(f"two of the results have the name {name}")
        by_name[name] = value
    return by_name


def _image(name: str) -> str:
    return "validation-" + re.sub(r"[^\w.-]+", "-", unquote(name))


def main(words: Sequence[str]) -> None:
    if len(words) < 2:
        sys.exit("usage: python benchmarks/validation_page.py DOCUMENT OUT [OUT ...]")
    try:
        write(Path(words[0]), [Path(folder) for folder in words[1:]])
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
