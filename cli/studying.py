"""What commands that look at several layers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from attribkit.cli import options

FORMATS = ("html", "png", "npz", "csv")

layers = click.option(
    "--layers", "-l", metavar="L,M", shell_complete=options.layer_names, help="[default: spread over the depth]"
)


def named(text: str | None) -> list[str] | None:
    """Layers with commas between; None where none is named."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def written(stem: Path, wanted: Sequence[str], made: Mapping[str, Callable[[Path], object]]) -> list[str]:
    """The files of the formats that are wanted, each by what makes it."""
    from attribkit.files import placed

    paths = []
    for ending in wanted:
        make = made.get(ending)
        if make is not None:
            paths.append(str(placed(stem.parent / f"{stem.name}.{ending}", make)))
    return paths
