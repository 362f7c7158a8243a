"""`attribkit probe`: how well does a linear classifier do on the features of each layer?"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attribkit.cli import options, studying

if TYPE_CHECKING:
    from attribkit import Probes


@click.command("probe")
@options.model
@options.weights
@click.option(
    "--data",
    "-d",
    required=True,
    type=click.Path(path_type=Path),
    help="Pictures with labels: a folder whose folders are the classes, a pattern, or a packed .npz.",
)
@studying.layers
@click.option(
    "--remove", multiple=True, metavar="L,M", help="Also without these layers, replaced by the identity; repeatable."
)
@click.option(
    "--keep-channels",
    "keep",
    multiple=True,
    metavar="L:N",
    help="Also with N channels of a layer, those of the largest weights; repeatable.",
)
@click.option(
    "--features",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Numbers of a layer that the classifier gets at the most, maps being averaged over a grid.",
)
@options.size
@options.out
@options.formats("html,png", studying.FORMATS)
@click.option("--force", is_flag=True, help="Start again where --out holds other probes.")
@options.device
@options.as_json
@options.silent
@options.debug
def command(
    model: str,
    weights: str,
    layers: str | None,
    remove: tuple[str, ...],
    keep: tuple[str, ...],
    out: Path,
    formats: list[str],
    device: str | None,
    as_json: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Fit a linear classifier to the features of each layer, and test it on images that it never saw.

    All layers share one pass over the data, one split and one choice of penalties. With --remove and --keep-channels
    the same is done with the network changed, beside it. What is found is kept in OUT/probes, so that a run that was
    stopped goes on where it was.

    \b
    attribkit probe --model torchvision:resnet18 --data photos/
    attribkit probe --model all_cnn_c --data cifar10.npz --remove conv5 --keep-channels conv6:96
    """
    from attribkit import probe
    from attribkit.cli.progress import tracked

    changes = [{"remove": studying.named(each)} for each in remove] + [{"keep": _kept(each)} for each in keep]
    loaded = options.loaded(model, weights, device)
    question = [model, weights, layers, *(str(asked[name]) for name in ("data", "features", "size"))]
    digest = hashlib.sha256(json.dumps(question).encode()).hexdigest()[:8]
    asked |= {"layers": studying.named(layers), "watch": lambda items, name: tracked(items, name, quiet or as_json)}
    every = []
    for change in ({}, *changes):
        asked["out"] = out / "probes" / f"{_folder_of(change)}.{digest}"
        try:
            every.append(probe(loaded, **asked, **change))
        except KeyboardInterrupt:
            raise options.Stopped(f"stopped; run the same command again to do the rest, in {out}") from None
    files = _files(out, formats, options.facts(loaded), every)
    if as_json:
        document = {"model": loaded.name, "probes": [_as_data(each) for each in every], "files": files}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif not quiet:
        click.echo("\n".join([*in_words(every), *files]))


def _kept(text: str) -> dict[str, int]:
    """`conv6:96,conv7:10` as layers and numbers."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        layer, _, number = part.rpartition(":")
        if not layer or not number.isdecimal():
            raise click.UsageError(f"--keep-channels takes LAYER:NUMBER, such as conv6:96, not {part!r}")
        found[layer] = int(number)
    return found


def _folder_of(change: dict[str, Any]) -> str:
    """Where the features of a changed network are kept."""
    without, kept = change.get("remove"), change.get("keep")
    if without:
        return f"without-{'-'.join(without)}"
    return "-".join(f"{layer}-{number}" for layer, number in kept.items()) if kept else "as-it-is"


def _files(out: Path, wanted: list[str], facts: dict[str, str], every: list[Probes]) -> list[str]:
    from attribkit.files import table, write_whole
    from attribkit.report.pictures import write_png
    from attribkit.studies.probes_page import probes_page
    from attribkit.studies.probes_picture import HEAD, lines, picture

    heading = f"{facts['model']}: linear classifiers"
    made = {
        "html": lambda path: write_whole(path, probes_page(every, facts)),
        "png": lambda path: write_png(path, picture(heading, every), facts),
        "npz": every[0].save,
        "csv": lambda path: write_whole(path, table([HEAD, *lines(every)])),
    }
    files = studying.written(out / "probe", wanted, made)
    for each, folder in zip(every[1:], _names(every[1:]), strict=True):
        files += studying.written(out / f"probe.{folder}", [f for f in wanted if f == "npz"], {"npz": each.save})
    return files


def _names(every: list[Probes]) -> list[str]:
    """What the arrays of changed networks are called."""
    return ["".join(c if c.isalnum() or c in "-_." else "-" for c in each.changed) for each in every]


def in_words(every: list[Probes]) -> list[str]:
    """What was found, as lines."""
    from attribkit.studies.probes_picture import layers_of, name_of, notes, summary

    said = [summary(every[0])]
    wide = max(map(len, layers_of(every)))
    for each in every:
        said += [f"  {name_of(each)}"] if len(every) > 1 else []
        bounds = zip(each.layers, each.accuracy, each.low, each.high, strict=True)
        said += [f"  {layer:{wide}s}  {right:6.1%}  ({low:.1%} to {high:.1%})" for layer, right, low, high in bounds]
    said += [f"  note: {note}" for note in notes(every)]
    return said + [f"  not read: image {number}: {why}" for number, why in every[0].unreadable[:5]]


def _as_data(probes: Probes) -> dict[str, Any]:
    """The same for a machine."""
    return {
        "changed": probes.changed,
        "train": len(probes.train),
        "test": len(probes.test),
        "classes": list(probes.classes),
        "chance": probes.chance,
        "unreadable": [{"image": number, "error": why} for number, why in probes.unreadable],
        "layers": [
            {
                "layer": layer,
                "features": int(probes.features[i]),
                "accuracy": float(probes.accuracy[i]),
                "low": float(probes.low[i]),
                "high": float(probes.high[i]),
                "penalty": float(probes.penalty[i]),
                "ended": bool(probes.ended[i]),
            }
            for i, layer in enumerate(probes.layers)
        ],
    }
