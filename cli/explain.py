"""`attribkit explain`: which pixels made this unit fire?"""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from attribkit.cli import options, results
from attribkit.cli.pictures import given_images
from attribkit.errors import BadValue, FileError

if TYPE_CHECKING:
    from attribkit import Switches
    from attribkit.adapters.source import LoadedModel
    from attribkit.cli.answers import Channels, Question, Respondent
    from attribkit.cli.pictures import GivenImage

VIEWS = ("classic", "signed", "absolute", "positive")


@click.command("explain")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@options.model
@options.weights
@click.option(
    "--layer",
    "-l",
    "layers",
    multiple=True,
    callback=options.joined,
    shell_complete=options.layer_names,
    help="One or more, separated by commas, or patterns: conv3,conv9 or layer3.*",
)
@click.option(
    "--channel",
    "-c",
    "channels",
    multiple=True,
    callback=options.joined,
    metavar="N,N-N|max:K|unusual|all",
    help="Numbers and spans, the K strongest, the most unusual, or all.  [default: the strongest]",
)
@click.option(
    "--usual",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="An npz of attribkit gallery, whose means say what is usual; the most unusual channel is then the default.",
)
@click.option(
    "--at",
    default="max",
    show_default=True,
    metavar="Y,X|T|max|inside|all",
    help="Position in the layer's map, or in the grid of patches; T is a token.",
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME|N|max:K",
    help="Explain this class, or several, or the K likeliest.  [default: the predicted one]",
)
@click.option(
    "--method",
    multiple=True,
    callback=options.joined,
    default=[",".join(options.METHODS)],
    show_default=True,
    help="One or more rules.",
)
@click.option(
    "--switches",
    multiple=True,
    callback=options.joined,
    default=["own"],
    show_default=True,
    metavar="|".join((*options.SWITCHES, "FILE")),
    help="Where max-pools send the signal. Several, separated by commas, are compared: own,uniform.",
)
@click.option(
    "--activations",
    type=click.Choice(["rectifiers", "all"]),
    default="rectifiers",
    show_default=True,
    help="all: smooth activations follow the rule too.",
)
@click.option(
    "--overlap",
    type=click.Choice(["add", "overwrite"]),
    default="add",
    show_default=True,
    help="How signals combine where the windows of a pool overlap.",
)
@click.option(
    "--replay",
    type=click.Choice(["down", "both"]),
    default="down",
    show_default=True,
    help="both: the forward pass uses the switches too.",
)
@click.option(
    "--norms",
    type=click.Choice(["rule", "bypass", "gradient"]),
    default="rule",
    show_default=True,
    help="rule: the deconvnet bypasses local response normalisation.",
)
@click.option("--precision", type=click.Choice(["bfloat16"]), help="Faster and coarser.  [default: float32]")
@click.option("--fast", is_flag=True, help="Fold batch norms, and have channels last: the same to rounding.")
@click.option("--view", type=click.Choice(VIEWS), default=VIEWS[0], show_default=True, help="How a png shows maps.")
@click.option(
    "--scale", type=click.IntRange(1, 8), default=1, show_default=True, help="How many times as large a png or svg is."
)
@click.option(
    "--layout",
    type=click.Choice(["panel", "sheet"]),
    default="panel",
    show_default=True,
    help="sheet: one png or svg with a row for each of many units.",
)
@options.size
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    envvar="ATTRIBKIT_OUT",
    default=Path("attribkit-out"),
    show_default=True,
    help="A folder, or a file where only one is written.",
)
@click.option(
    "--format",
    "-f",
    "formats",
    multiple=True,
    callback=options.joined,
    help=f"One or more of {', '.join(results.FORMATS)}.  [default: png]",
)
@click.option(
    "--names",
    metavar="TEMPLATE",
    callback=lambda ctx, param, value: _template(value),
    help="What files are called, of {image}, {layer}, {asked} and {model}: {model}/{image}.{layer}",
)
@click.option("--crop", is_flag=True, help="Leave out of arrays what no unit sees: it is zero.")
@click.option("--recursive", "-r", is_flag=True, help="Take the images in folders of folders, too.")
@click.option("--force", is_flag=True, help="Do it all again, and overwrite files that hold something else.")
@options.device
@options.as_json
@options.silent
@options.debug
def command(
    images: tuple[str, ...],
    model: str,
    weights: str,
    device: str | None,
    out: Path,
    formats: str,
    view: str,
    scale: int,
    layout: str,
    names: str | None,
    crop: bool,
    recursive: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Show which pixels made a unit of a network fire.

    IMAGE is a file, a folder, a pattern, or - for standard input. What an earlier run of the same command has done is
    not done again.

    \b
    attribkit explain cat.jpg --model all_cnn_c --layer conv9
    attribkit explain photos/ --model torchvision:resnet18 --class tabby --format png,html
    """
    if asked["layers"] and asked["classes"]:
        raise click.UsageError("--class asks for an output of the network, --layer for a unit inside: give one of them")
    if (asked["channels"] or asked["usual"]) and not asked["layers"]:
        raise click.UsageError("--channel belongs to --layer; --class N asks for an output of the network")
    from attribkit.cli.answers import Respondent

    wanted = results.formats(options.words(formats, "--format", results.FORMATS), out)
    pictures = given_images(images, recursive, out)
    loaded = options.loaded(model, weights, device)
    question = _question(loaded, out=out, **asked)
    facts, follows = options.facts(loaded), options.followed(loaded, _files_of(**asked))
    with contextlib.closing(
        results.Files(out, wanted, view, facts, names, crop, force, scale, layout, follows)
    ) as files:
        files.check(len(pictures) * len(question.layers), len(list(question.columns())))
        explain_all(pictures, Respondent(loaded, question), files, as_json, quiet)


def _files_of(switches: str, usual: Path | None, **asked: Any) -> list[Path]:
    """The files that answers hang on beside the images and the weights."""
    words = [Path(switches), *(Path(part.strip()) for part in switches.split(","))]
    return [*dict.fromkeys(word for word in words if word.is_file()), *([usual] if usual is not None else [])]


def _question(
    loaded: LoadedModel,
    layers: str,
    channels: str,
    usual: Path | None,
    out: Path,
    at: str,
    classes: tuple[str, ...],
    method: str,
    switches: str,
    size: int | None,
    **rewriting: Any,
) -> Question:
    from attribkit.cli.answers import Question

    return Question(
        methods=options.words(method, "--method", options.METHODS),
        layers=_layers(layers, loaded) or [None],
        channels=_channels(channels, usual),
        usual=None if usual is None else _usual(usual),
        gallery="" if usual is None else _page_of(usual, out),
        at=at if at in ("max", "inside", "all") else tuple(options.numbers(at, "--at")),  # type: ignore[arg-type]
        classes=_classes(classes, loaded),
        size=size,
        switches=_switches(switches, rewriting["replay"]),
        rewriting=rewriting,
    )


def _layers(text: str, loaded: LoadedModel) -> list[str | None]:
    """The layers that are named, and those whose names fit a pattern, in the model's order."""
    from fnmatch import fnmatchcase

    from attribkit.engine.shadow import unwrapped

    chosen: dict[str | None, None] = {}
    known = [name for name, _ in unwrapped(loaded.model).named_modules() if name]
    for part in filter(None, (part.strip() for part in text.split(","))):
        fitting = [name for name in known if fnmatchcase(name, part)] if glob.has_magic(part) else [part]
        if not fitting:
            raise BadValue(f"--layer {part} fits no layer: attribkit layers {loaded.name} lists them")
        chosen |= dict.fromkeys(fitting)
    return list(chosen)


def _channels(text: str, usual: Path | None) -> Channels:
    if text.strip() == "unusual" or (usual is not None and not text):
        return "unusual"
    return _strongest(text) or options.spans(text, "--channel")


def _usual(path: Path) -> tuple[str, str, Sequence[float]]:
    """A file's name, the layer of the gallery in it, and the mean of each channel."""
    import json
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            layer, channels, mean = json.loads(str(arrays["facts"]))["layer"], arrays["channels"], arrays["mean"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise FileError(f"--usual {path} is no npz that attribkit gallery has written: {error}") from error
    if channels.tolist() != list(range(len(channels))):
        raise BadValue(f"--usual {path} knows some channels only: make a gallery of all of them")
    return path.name, layer, mean.tolist()


def _page_of(usual: Path, out: Path) -> str:
    """The page of a gallery, from the folder of --out; nothing where it has none."""
    import os

    page = usual.with_suffix("") / "index.html"
    return Path(os.path.relpath(page, out.parent if out.suffix else out)).as_posix() if page.is_file() else ""


def _strongest(text: str) -> Literal["all"] | int | None:
    """ "all", or the K of "max:K"; None where it is neither."""
    word, _, count = text.strip().partition(":")
    if word == "all" and not count:
        return "all"
    if word != "max":
        return None
    if not (count or "1").isdecimal() or int(count or 1) < 1:
        raise click.UsageError(f"max:K asks for the K strongest, a whole number from 1; not {text!r}")
    return int(count or 1)


def _template(text: str | None) -> str | None:
    """A template for the names of files, tried once."""
    from attribkit.cli.answers import FIELDS

    try:
        tried = "" if text is None else text.format_map(dict.fromkeys(FIELDS, "x"))
    except (KeyError, ValueError, IndexError, AttributeError):
        known = ", ".join(f"{{{name}}}" for name in FIELDS)
        raise click.UsageError(f"--names takes a template of {known}, not {text!r}") from None
    if text is not None and (not Path(tried).name or Path(tried).is_absolute() or ".." in Path(tried).parts):
        raise click.UsageError(f"--names {text!r}: files stay inside the folder of --out")
    return text


def _classes(texts: tuple[str, ...], loaded: LoadedModel) -> list[int] | Literal["all"] | int | None:
    """The numbers of classes; a comma parts two, unless it belongs to a label."""
    from attribkit.explaining.labels import class_number

    if len(texts) == 1 and (found := _strongest(texts[0])) is not None:
        return found
    labels = {label.lower() for label in loaded.labels}
    names = [part.strip() for text in texts for part in ([text] if text.lower() in labels else text.split(","))]
    numbers = [int(name) if name.isdecimal() else class_number(name, loaded.labels) for name in names if name]
    return list(dict.fromkeys(numbers)) or None


def _switches(text: str, replay: str) -> dict[str, str | Switches]:
    """One way with switches or several, by their names: a convention, or a file's without its folder and ending."""
    from attribkit import Switches

    given = [text] if Path(text).exists() else dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    found = {Path(part).stem: part if part in options.SWITCHES else Switches.load(part) for part in given}
    if len(found) != len(given) or not found:
        raise click.UsageError(
            f"--switches takes {', '.join(options.SWITCHES)} and files with different names, not {text!r}"
        )
    if len(found) > 1 and replay == "both":
        raise click.UsageError("--replay both changes which unit is strongest: give one way with --switches")
    return found


def explain_all(
    pictures: Sequence[GivenImage], respondent: Respondent, files: results.Files, as_json: bool, quiet: bool
) -> None:
    """Every picture; one that cannot be read is named at the end, and the others go on.

    Whatever happens, what is complete stays, and the page and the document of it are written.
    """
    from attribkit.cli.outcomes import Outcomes
    from attribkit.cli.progress import tracked

    outcomes = Outcomes(pictures, respondent, files)
    stopped = False
    try:
        for lines in tracked(outcomes, "explaining", quiet or as_json, len(pictures)):
            if not as_json and not quiet:
                click.echo(lines)
    except KeyboardInterrupt:
        stopped = True
    except FileError as error:
        raise click.ClickException(f"{error}; {outcomes.complete}") from error
    pages = list(map(str, files.end(outcomes.made)))
    if as_json:
        click.echo(results.as_json(outcomes.document(pages, stopped)))
    elif not quiet:
        for line in [*pages, *outcomes.cautions]:
            click.echo(line)
    if stopped:
        raise options.Stopped(f"stopped: {outcomes.complete}; the same command goes on from there")
    if outcomes.failed:
        raise click.ClickException(outcomes.failures)
