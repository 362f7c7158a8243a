"""`attribkit gallery`: what does each channel of a layer look for?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attribkit.cli import options

if TYPE_CHECKING:
    from attribkit import Gallery
    from attribkit.adapters.source import LoadedModel
    from attribkit.studies.rescoring import Watch

FORMATS = ("html", "png", "csv", "npz")


@click.command("gallery")
@click.argument("data", type=click.Path(path_type=Path))
@options.model
@options.weights
@click.option(
    "--layer", "-l", "layers", required=True, shell_complete=options.layer_names, help="One or several: conv3,conv9."
)
@click.option("--channels", "-c", default="", metavar="0-95,104", help="[default: all]")
@click.option("--top", type=click.IntRange(min=1), default=9, show_default=True, help="Images for each channel.")
@click.option(
    "--score",
    type=click.Choice(["max", "mean", "sum"]),
    default="max",
    show_default=True,
    help="How strongly a channel fires on an image.",
)
@options.method
@click.option(
    "--switches", default="own", show_default=True, metavar="|".join(options.SWITCHES), help="One or several."
)
@click.option("--precision", type=click.Choice(["bfloat16"]), help="Of the pass over the data.  [default: float32]")
@options.size
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), envvar="ATTRIBKIT_OUT", default=Path("attribkit-out/gallery"),
    show_default=True, help="A folder; the same command, run again, does the rest.",
)  # fmt: skip
@click.option("--format", "-f", "formats", default="html", show_default=True, help=f"Of {', '.join(FORMATS)}.")
@click.option("--force", is_flag=True, help="Start again where --out holds another gallery.")
@click.option("--ray", metavar="ADDRESS|local", help="Work on a Ray cluster: pip install 'attribkit[ray]'.")
@options.device
@options.as_json
@options.silent
@options.debug
def command(
    data: Path,
    model: str,
    weights: str,
    layers: str,
    channels: str,
    switches: str,
    out: Path,
    formats: str,
    ray: str | None,
    device: str | None,
    as_json: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Show what each channel of a layer looks for: the images of DATA on which it is strongest, projected down.

    DATA is a folder, a pattern, or a packed .npz. A run that was stopped goes on when the same command is given again;
    under torchrun, several processes share the work.

    \b
    attribkit gallery photos/ --model torchvision:squeezenet1_1 --layer features.12
    attribkit gallery cifar10.npz --model all_cnn_c --layer conv6 --channels 0-15 --format html,png
    """
    wanted = options.words(formats, "--format", FORMATS)
    ways = options.words(switches, "--switches", options.SWITCHES)
    chosen = [word.strip() for word in layers.split(",") if word.strip()]
    if not (wanted and ways and chosen):
        raise click.UsageError("--layer, --format and --switches name one thing each, or several with commas between")
    asked |= {"layer": chosen, "channels": options.spans(channels, "--channels"), "out": out, "data": data}
    loaded = options.loaded(model, weights, device)
    with shared(loaded, asked, ray) as engine:
        if engine is None:
            return  # the first of the processes does the rest
        files: list[Path] = []
        documents: list[dict[str, Any]] = []
        words: list[str] = []
        for way in ways:
            made = galleries(loaded, asked | {"switches": way}, engine, options.watching(quiet or as_json))
            asked["force"] = False
            for gallery in made.values():
                files += written(gallery, out, wanted, facts(loaded, gallery), options.watching(quiet or as_json))
                documents.append(as_data(gallery))
                words.append(in_words(gallery))
    if as_json:
        click.echo(json.dumps({"model": loaded.name, "galleries": documents, "files": list(map(str, files))}, indent=2))
        return
    if not quiet:
        click.echo("\n".join([*dict.fromkeys(words), *map(str, files)]))


def shared(loaded: LoadedModel, asked: dict[str, Any], ray: str | None) -> Any:
    """Who works on shards: a Ray cluster, the processes that torchrun started, or this one."""
    from contextlib import nullcontext

    from attribkit.studies.survey import Survey

    if ray is not None:
        from attribkit.adapters.ray import on_cluster

        return on_cluster(None if ray == "local" else ray)
    from attribkit.adapters.ranks import ranks

    if ranks() > 1:
        from attribkit.adapters.ranks import among_ranks

        return among_ranks(loaded, **asked)
    return nullcontext(Survey.done)


def galleries(loaded: LoadedModel, asked: dict[str, Any], engine: Any, watch: Watch) -> dict[str, Gallery]:
    """One per layer."""
    from attribkit import gallery

    try:
        return gallery(loaded, engine=engine, watch=watch, **asked)
    except KeyboardInterrupt:
        raise options.Stopped(f"stopped; run the same command again to do the rest, in {asked['out']}") from None


def facts(loaded: LoadedModel, gallery: Gallery) -> dict[str, str]:
    """What a page says of how it was made."""
    held = {"model": loaded.name, "layer": gallery.layer, "images": str(len(gallery.names))}
    held |= {"method": gallery.method, "switches": gallery.switches}
    return held | options.versions()


def written(gallery: Gallery, out: Path, formats: list[str], facts: dict[str, str], watch: Watch) -> Iterator[Path]:
    """The files of one layer."""
    from attribkit.studies import exhibit

    stem = f"{gallery.layer}.{gallery.method}.{gallery.switches}"
    if "html" in formats:
        yield exhibit.write_page(gallery, out / stem, facts, watch)
    if "png" in formats:
        yield from exhibit.write_png(gallery, out / f"{stem}.png", watch)
    writers: dict[str, Callable[[Path], None]] = {
        "csv": lambda path: exhibit.write_csv(gallery, path),
        "npz": lambda path: exhibit.write_npz(gallery, path, watch),
    }
    for ending in formats:
        if ending in writers:
            path = out / f"{stem}.{ending}"
            writers[ending](path)
            yield path


def in_words(gallery: Gallery) -> str:
    """What was found, and what was passed over."""
    lines = [f"{gallery.layer}: {len(gallery.channels)} channels over {len(gallery.names)} images"]
    if gallery.dead:
        lines.append(f"  dead, firing on no image: {_listed(gallery.dead)}")
    if gallery.unsure:
        lines.append(f"  others may be as strong as the last ones of channels {_listed(gallery.unsure)}")
    for number, why in gallery.unreadable[:5]:
        lines.append(f"  not read: {gallery.names[number]}: {why}")
    if len(gallery.unreadable) > 5:
        lines.append(f"  and {len(gallery.unreadable) - 5} more that could not be read")
    return "\n".join(lines)


def _listed(numbers: Any) -> str:
    first = ", ".join(map(str, numbers[:20]))
    return first if len(numbers) <= 20 else f"{first} and {len(numbers) - 20} more"


def as_data(gallery: Gallery) -> dict[str, Any]:
    """A gallery for a machine."""
    return {
        "layer": gallery.layer,
        "method": gallery.method,
        "switches": gallery.switches,
        "images": len(gallery.names),
        "dead": gallery.dead,
        "unsure": list(gallery.unsure),
        "unreadable": [{"image": gallery.names[number], "error": why} for number, why in gallery.unreadable],
        "channels": [_channel(gallery, row) for row in range(len(gallery.channels))],
    }


def _channel(gallery: Gallery, row: int) -> dict[str, Any]:
    held = gallery.statistics
    return {
        "channel": int(gallery.channels[row]),
        "fires": float(held.fires[row]),
        "mean": float(held.mean[row]),
        "quantiles": dict(zip(("99", "90", "50"), held.quantiles[row].tolist(), strict=True)),
        "classes": held.classes[row],
        "winners": [place.as_data(gallery.names) for place in gallery.places(row)],
    }
