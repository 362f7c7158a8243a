"""`attribkit explain`: which pixels made this unit fire?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attribkit.cli import options, results
from attribkit.cli.pictures import given_images

if TYPE_CHECKING:
    from attribkit import Switches
    from attribkit.adapters.source import LoadedModel
    from attribkit.cli.answers import Question, Respondent

METHODS = ("guided", "deconvnet", "backprop")
CONVENTIONS = ("own", "uniform", "center", "corner")
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
    help="One or more, separated by commas: conv3,conv9.",
)
@click.option(
    "--channel",
    "-c",
    "channels",
    multiple=True,
    callback=options.joined,
    metavar="N",
    help="One or more.  [default: the strongest]",
)
@click.option("--at", default="max", show_default=True, metavar="Y,X|max|all", help="Position in the layer's map.")
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME|N",
    help="Explain this class, or several, not a layer.  [default: the predicted one]",
)
@click.option(
    "--method",
    multiple=True,
    callback=options.joined,
    default=[",".join(METHODS)],
    show_default=True,
    help="One or more rules.",
)
@click.option(
    "--switches",
    multiple=True,
    callback=options.joined,
    default=["own"],
    show_default=True,
    metavar="|".join((*CONVENTIONS, "FILE")),
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
@click.option("--view", type=click.Choice(VIEWS), default=VIEWS[0], show_default=True, help="How a png shows maps.")
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
@click.option("--force", is_flag=True, help="Overwrite files that hold something else.")
@options.device
@options.as_json
@options.quiet
@options.debug
def command(
    images: tuple[str, ...],
    model: str,
    weights: str,
    device: str | None,
    out: Path,
    formats: str,
    view: str,
    force: bool,
    as_json: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Show which pixels made a unit of a network fire.

    IMAGE is a file, a folder, a pattern, or - for standard input.

    \b
    attribkit explain cat.jpg --model all_cnn_c --layer conv9
    attribkit explain photos/ --model torchvision:resnet18 --class tabby --format png,html
    """
    if asked["layers"] and asked["classes"]:
        raise click.UsageError("--class asks for an output of the network, --layer for a unit inside: give one of them")
    if asked["channels"] and not asked["layers"]:
        raise click.UsageError("--channel belongs to --layer; --class N asks for an output of the network")
    from attribkit.cli.answers import Respondent

    wanted = results.formats(options.words(formats, "--format", results.FORMATS), out)
    pictures = given_images(images)
    loaded = options.loaded(model, weights, device)
    question = _question(loaded, **asked)
    files = results.Files(out, wanted, view, _facts(loaded), force)
    files.check(len(pictures) * len(question.layers), len(list(question.columns())))
    explain_all(pictures, Respondent(loaded, question), files, as_json, quiet)


def _question(
    loaded: LoadedModel,
    layers: str,
    channels: str,
    at: str,
    classes: tuple[str, ...],
    method: str,
    switches: str,
    size: int | None,
    **rewriting: Any,
) -> Question:
    from attribkit.cli.answers import Question

    chosen: list[str | None] = [part.strip() for part in layers.split(",") if part.strip()]
    return Question(
        methods=options.words(method, "--method", METHODS),
        layers=chosen or [None],
        channels=options.numbers(channels, "--channel") or None,
        at=at if at in ("max", "all") else tuple(options.numbers(at, "--at")),  # type: ignore[arg-type]
        classes=_classes(classes, loaded),
        size=size,
        switches=_switches(switches, rewriting["replay"]),
        rewriting=rewriting,
    )


def _classes(texts: tuple[str, ...], loaded: LoadedModel) -> list[int] | None:
    """The numbers of classes; a comma parts two, unless it belongs to a label."""
    from attribkit.explaining.labels import class_number

    labels = {label.lower() for label in loaded.labels}
    names = [part.strip() for text in texts for part in ([text] if text.lower() in labels else text.split(","))]
    numbers = [int(name) if name.isdecimal() else class_number(name, loaded.labels) for name in names if name]
    return list(dict.fromkeys(numbers)) or None


def _switches(text: str, replay: str) -> dict[str, str | Switches]:
    """One way with switches or several, by their names: a convention, or a file's without its folder and ending."""
    from attribkit import Switches

    given = [text] if Path(text).exists() else dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    found = {Path(part).stem: part if part in CONVENTIONS else Switches.load(part) for part in given}
    if len(found) != len(given) or not found:
        raise click.UsageError(
            f"--switches takes {', '.join(CONVENTIONS)} and files with different names, not {text!r}"
        )
    if len(found) > 1 and replay == "both":
        raise click.UsageError("--replay both changes which unit is strongest: give one way with --switches")
    return found


def _facts(loaded: LoadedModel) -> dict[str, str]:
    """What a page says of how it was made: the same when the same command is given again."""
    import shlex
    import sys

    import torch

    from attribkit import __version__

    return {
        "command": shlex.join(["attribkit", *sys.argv[1:]]),
        "model": loaded.name,
        "weights": f"{loaded.weights}, sha256 {loaded.digest}",
        "attribkit": __version__,
        "torch": str(torch.__version__),
    }


def explain_all(pictures: list[Any], respondent: Respondent, files: results.Files, as_json: bool, quiet: bool) -> None:
    """Every picture; one that cannot be read is named at the end, and the others go on."""
    from attribkit.cli.progress import tracked

    explained: list[dict[str, Any]] = []
    cautions: dict[str, None] = {}  # each is said once, not for every image
    done = 0
    try:
        for answers in respondent.answers(tracked(pictures, "explaining", quiet or as_json)):
            for answer in answers:
                written = files.add(answer)
                explained.append(results.as_data(answer, written))
                cautions.update(dict.fromkeys(results.cautions(answer)))
                if not as_json:
                    click.echo(results.as_words(answer, written))
            done += 1
    except KeyboardInterrupt:
        done += len(respondent.failed)
        raise click.ClickException(f"stopped: {done} of {len(pictures)} images are complete, in {files.out}") from None
    failed = [{"image": source.path, "error": str(error)} for source, error in respondent.failed]
    pages = list(map(str, files.end()))
    if as_json:
        document = {"model": respondent.loaded.name, "explained": explained, "failed": failed, "pages": pages}
        click.echo(results.as_json(document))
    for line in [] if as_json else [*pages, *cautions]:
        click.echo(line)
    if failed:
        why = "; ".join(failure["error"] for failure in failed)
        count = f"{len(failed)} of {len(pictures)} images failed: " if len(pictures) > 1 else ""
        raise click.ClickException(f"{count}{why}")
