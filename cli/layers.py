"""`attribkit layers`: what can be asked of a model, as a tree."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from attribkit.cli import options

if TYPE_CHECKING:
    from attribkit import Site
    from attribkit.adapters.layers import Layer
    from attribkit.adapters.source import LoadedModel


@click.command("layers")
@options.model_argument
@options.weights
@click.option(
    "--fields/--no-fields",
    default=True,
    show_default=True,
    help="Measure how much of the image each layer sees; this takes time.",
)
@options.device
@options.as_json
@options.quiet
@options.debug
def command(model: str, weights: str, fields: bool, device: str | None, as_json: bool, quiet: bool) -> None:
    """Show the layers of MODEL: shapes, strides, what a unit sees, and the activations and pools in them.

    attribkit explain --layer takes any of these names.
    """
    from rich.console import Console

    loaded = options.loaded(model, options.without_download(model, weights), device)
    with Console(stderr=True, quiet=quiet or as_json).status("probing"):  # where it is no terminal, nothing shows
        rows = rows_of(loaded, fields)
    if as_json:
        click.echo(json.dumps({"model": loaded.name, "layers": rows}, indent=2))
    else:
        _print(loaded.name, sorted(rows, key=_in_order(loaded)))


def rows_of(loaded: LoadedModel, fields: bool) -> list[dict[str, Any]]:
    """What is to be said of each layer."""
    sites = _sites(loaded)
    return [_row(layer, sites.get(layer.name, []), fields) for layer in loaded.layers.values()]


def _sites(loaded: LoadedModel) -> dict[str, list[Site]]:
    """The activations and pools of each layer, found by one forward pass under guided backprop."""
    import torch

    from attribkit import NothingToRewrite, rewrite

    found: dict[str, list[Site]] = defaultdict(list)
    try:
        net = rewrite(loaded.model, "guided")
        with torch.no_grad():
            net(options.batch(loaded, loaded.preprocess.example()))
    except NothingToRewrite:
        return {}
    for site in net.sites:
        if site.calls:
            found[site.name.partition("#")[0]].append(site)
    return found


def _row(layer: Layer, sites: Iterable[Site], fields: bool) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "shape": layer.shape,
        "stride": layer.stride,
        "sees": layer.receptive_field if fields else None,
        "sites": [{"op": site.op, "calls": site.calls, "swapped": site.swapped} for site in sites],
    }


def _in_order(loaded: LoadedModel) -> Any:
    """The order in which the model's modules are named: a parent before its children."""
    order = {name: index for index, (name, _) in enumerate(loaded.model.named_modules())}
    return lambda row: order[row["name"]]


def _print(name: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("layer", "kind", "output", "stride", "sees", "follows the rule"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        depth = row["name"].count(".")
        sites = ", ".join(_site(site) for site in row["sites"])
        table.add_row(
            "  " * depth + row["name"], row["kind"], *map(_by, (row["shape"], row["stride"], row["sees"])), sites
        )
    console = Console(highlight=False)
    if not console.is_terminal:  # a pipe has no width: nothing is folded
        console.width = 240
    console.print(name, markup=False)
    console.print(table)


def _site(site: dict[str, Any]) -> str:
    times = f" x{site['calls']}" if site["calls"] > 1 else ""
    return f"{site['op']}{times}" if site["swapped"] else f"({site['op']}{times} left alone)"


def _by(sizes: tuple[int | None, ...] | None) -> str:
    return "" if sizes is None else "x".join("all" if size is None else str(size) for size in sizes)
