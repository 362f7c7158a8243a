"""`attribkit filters`: a network's first-layer filters, and their faults by number."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attribkit.cli import options

if TYPE_CHECKING:
    from attribkit.adapters.source import LoadedModel
    from attribkit.studies.filters import Filters

FORMATS = ("png", "html", "npz", "csv")


@click.command("filters")
@options.model_argument
@options.weights
@options.out
@options.formats("png", FORMATS)
@options.device
@options.as_json
@options.debug
def command(model: str, weights: str, out: Path, formats: list[str], device: str | None, as_json: bool) -> None:
    """Show the first-layer filters of MODEL, and count their faults.

    Dead and dominating filters, energy by frequency, near-duplicates, and aliasing by the stride.

    \b
    attribkit filters packaged:squeezenet1_1
    """
    from attribkit.files import placed
    from attribkit.studies.filters import filters
    from attribkit.studies.filters_picture import described, faults
    from attribkit.studies.filters_usual import USUAL

    loaded = options.loaded(model, weights, device)
    result = filters(loaded)
    stem = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in loaded.name)
    files = [str(placed(out / f"{stem}.filters.{ending}", partial(_write, result, loaded))) for ending in formats]
    if as_json:
        click.echo(json.dumps({"model": loaded.name, **_as_data(result), "usual": USUAL, "files": files}, indent=2))
        return
    for line in (described(result), *(f"  {fault}" for fault in faults(result)), *files):
        click.echo(line)


def _write(result: Filters, loaded: LoadedModel, path: Path) -> None:
    from attribkit.files import write_whole
    from attribkit.report.pictures import encode_png
    from attribkit.studies.filters_page import page
    from attribkit.studies.filters_picture import drawn

    if path.suffix == ".png":
        write_whole(path, encode_png(drawn(loaded.name, result)))
    elif path.suffix == ".html":
        write_whole(path, page(loaded.name, result, options.facts(loaded)))
    elif path.suffix == ".npz":
        result.save(path)
    else:
        write_whole(path, _csv(result))


def _csv(result: Filters) -> bytes:
    """A line per filter."""
    from attribkit.files import table

    lines = [
        [number, repr(float(rms)), *(repr(float(share)) for share in bands)]
        for number, (rms, bands) in enumerate(zip(result.rms, result.bands, strict=True))
    ]
    return table([["filter", "rms", "low", "middle", "high"], *lines])


def _as_data(result: Filters) -> dict[str, Any]:
    return {
        "layer": result.layer,
        "filters": len(result.weights),
        "dead": result.dead,
        "dominating": result.dominating,
        "rms": result.rms.tolist(),
        "bands": result.bands.mean(0).tolist(),
        "duplicates": [[int(a), int(b), cosine] for a, b, cosine in result.duplicates.tolist()],
        "aliasing": result.aliasing if result.aliasing == result.aliasing else None,
        "second": result.second,
    }
