"""What commands that look at layers share: their layers, their folder, and what a page says of how it was made."""

from __future__ import annotations

import csv
import io
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attribkit.cli import options

if TYPE_CHECKING:
    from attribkit.adapters.source import LoadedModel

FORMATS = ("html", "png", "npz", "csv")

layers = click.option(
    "--layers", "-l", metavar="L,M", shell_complete=options.layer_names, help="[default: spread over the depth]"
)
out = click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ATTRIBKIT_OUT",
    default=Path("attribkit-out"),
    show_default=True,
    help="A folder; the same command, run again, does the rest.",
)
formats = click.option(
    "--format", "-f", "formats", default="html,png", show_default=True, help=f"Of {', '.join(FORMATS)}."
)


def named(text: str | None) -> list[str] | None:
    """Layers with commas between; None where none is named."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def facts(loaded: LoadedModel) -> dict[str, str]:
    """The command, the model and the versions, for the foot of a page."""
    import torch

    from attribkit import __version__

    held = {"command": shlex.join(["attribkit", *sys.argv[1:]]), "model": loaded.name}
    return held | {"weights": loaded.digest, "attribkit": __version__, "torch": str(torch.__version__)}


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> bytes:
    """A csv file; numbers keep all of their digits."""
    text = io.StringIO()
    written = csv.writer(text, lineterminator="\n")
    written.writerow(head)
    for line in lines:
        written.writerow([repr(cell) if isinstance(cell, float) else cell for cell in line])
    return text.getvalue().encode("utf-8", "backslashreplace")


def written(stem: Path, wanted: Sequence[str], made: Mapping[str, Callable[[Path], object]]) -> list[str]:
    """The files of the formats that are wanted, each by what makes it."""
    paths = []
    for ending in wanted:
        make = made.get(ending)
        if make is not None:
            path = stem.parent / f"{stem.name}.{ending}"
            make(path)
            paths.append(str(path))
    return paths
