"""`attribkit evolve`: how did the features of a network come about, checkpoint by checkpoint?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attribkit.cli import options

if TYPE_CHECKING:
    from attribkit import Checkpoint, Evolution
    from attribkit.adapters.source import LoadedModel

FORMATS = ("html", "png", "webp", "npz", "csv")


@click.command("evolve")
@click.argument("checkpoints", metavar="RUN_OR_FOLDER")
@click.option("--data", type=click.Path(path_type=Path), help="A folder of images, a pattern, or a packed .npz.")
@click.option("--model", "-m", shell_complete=options.model_names, help="Of which network.  [default: the run's]")
@click.option(
    "--layer", "-l", "layers", required=True, shell_complete=options.layer_names, help="One or several: conv3,conv9."
)
@click.option("--channels", "-c", default="", metavar="0-15,104", help="[default: the first 16]")
@options.method
@click.option("--switches", type=click.Choice(options.SWITCHES), default="own", show_default=True, help="Of max-pools.")
@options.size
@click.option(
    "--out", "-o", type=click.Path(path_type=Path, file_okay=False), envvar="ATTRIBKIT_OUT", show_default=True,
    default=Path("attribkit-out/evolve"), help="A folder; the same command, run again, does the rest.",
)  # fmt: skip
@options.formats("html", FORMATS)
@click.option("--force", is_flag=True, help="Start again where --out holds another evolution.")
@options.device
@options.as_json
@options.silent
@options.debug
def command(
    checkpoints: str,
    data: Path | None,
    model: str | None,
    layers: str,
    channels: str,
    out: Path,
    formats: list[str],
    device: str | None,
    as_json: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Show how features came about: each channel's strongest activation over --data, at every checkpoint of a run.

    RUN_OR_FOLDER is the folder of a run of attribkit train; or, with --model, a folder of weight files or a pattern.
    Files come in the order of the first number in which their names differ.

    \b
    attribkit evolve runs/all_cnn_c-quick-0 --data cifar10.npz --layer conv3,conv6
    attribkit evolve 'mine/epoch-*.pth' --model torchvision:resnet18 --data photos/ --layer layer2
    """
    if data is None:
        raise click.UsageError(
            "--data is missing: name images to show to every checkpoint; a run does not keep those that it learned from"
        )
    from attribkit.files import placed

    asked["layer"] = [word.strip() for word in layers.split(",") if word.strip()]
    if not asked["layer"]:
        raise click.UsageError("--layer names one layer, or several with commas between")
    asked |= {"channels": options.spans(channels, "--channels"), "watch": options.watching(quiet or as_json)}
    series = _series(checkpoints, model, device)
    loaded: Any = series[-1].load()
    evolution = _evolution(series, data, out / "parts" / ",".join(asked["layer"]), asked)
    writers = _writers(evolution, loaded)
    shown = f"-{channels.replace(' ', '')}" if channels else ""
    stem = f"{','.join(asked['layer'])}{shown}.{evolution.method}.{evolution.switches}"
    files = [placed(out / f"{stem}.{ending}", writers[ending]) for ending in formats]
    if as_json:
        from attribkit.studies.evolution_table import document

        whole = {"model": loaded.name, **document(evolution), "files": list(map(str, files))}
        click.echo(json.dumps(whole, indent=2, ensure_ascii=False))
        return
    if not quiet:
        click.echo("\n".join([*in_words(evolution), *map(str, files)]))


def _series(path: str, model: str | None, device: str | None) -> list[Checkpoint]:
    """The checkpoints, which load onto the device."""
    from attribkit import checkpoints

    where = options.torch_device(device)

    def load(checkpoint: Checkpoint) -> LoadedModel:
        loaded: Any = checkpoint.load()
        loaded.model.to(where)
        return loaded

    return [replace(each, load=partial(load, each)) for each in checkpoints(path, model)]


def _evolution(series: list[Checkpoint], data: Path, parts: Path, asked: dict[str, Any]) -> Evolution:
    from attribkit import evolve

    try:
        return evolve(series, data, out=parts, **asked)
    except KeyboardInterrupt:
        raise options.Stopped(f"stopped; run the same command again to do the rest, in {parts}") from None


def _writers(evolution: Evolution, loaded: LoadedModel) -> dict[str, Callable[[Path], None]]:
    """What writes each kind of file."""
    from attribkit.files import write_whole
    from attribkit.report.pictures import write_png
    from attribkit.studies.evolution_page import page
    from attribkit.studies.evolution_picture import animated, drawn
    from attribkit.studies.evolution_table import table

    return {
        "html": lambda path: write_whole(path, page(evolution, options.facts(loaded))),
        "png": lambda path: write_png(path, drawn(evolution, loaded.name), options.facts(loaded)),
        "webp": lambda path: write_whole(path, animated(evolution, loaded.name)),
        "npz": evolution.save,
        "csv": lambda path: write_whole(path, table(evolution)),
    }


def in_words(evolution: Evolution) -> list[str]:
    """What was found, and what was passed over."""
    from attribkit.studies.evolution_picture import MEASURES, described, in_words, measured, summary

    lines = [described(evolution)]
    for film in evolution.films.values():
        lines.append(f"{film.layer}: {summary(film)}")
        for name, values in measured(film).items():
            steps = [
                f"{number}: {in_words(v)}" for number, v in zip(evolution.numbers, values, strict=True) if v is not None
            ]
            lines.append(f"  {MEASURES[name][0]}: {', '.join(steps)}")
        if film.unsure:
            pairs = [f"channel {channel} at {number}" for number, channel in film.unsure[:8]]
            more = f" and {len(film.unsure) - 8} more" if len(film.unsure) > 8 else ""
            lines.append(f"  other images may be as strong: {', '.join(pairs)}{more}")
    lines += [f"not read: {evolution.names[number]}: {why}" for number, why in evolution.unreadable[:5]]
    if len(evolution.unreadable) > 5:
        lines.append(f"and {len(evolution.unreadable) - 5} more that could not be read")
    return lines
