"""Options that several commands share, declared once."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import torch

    from attribkit.adapters.source import LoadedModel
    from attribkit.studies.rescoring import Watch

_NOT_OF_RESULTS = ("--json", "--quiet", "-q", "--debug", "--force")
"""Words of a command that change nothing in its files."""

METHODS = ("guided", "deconvnet", "backprop")
SWITCHES = ("own", "uniform", "center", "corner")


def model_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For shell completion: the names that begin so."""
    from attribkit import list_models

    full = list_models(f"{incomplete}*")
    return full if ":" in incomplete else sorted({name.partition(":")[2] for name in full})


def layer_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For shell completion: the layers of the model that the line names so far, the last of a list."""
    from attribkit import load

    model = ctx.params.get("model")
    if model is None:
        return []
    done, comma, begun = incomplete.rpartition(",")
    names = [name for name, _ in load(model, "none").model.named_modules() if name.startswith(begun) and name]
    return [f"{done}{comma}{name}" for name in names]


_MODEL_HELP = "A name (attribkit models lists them), package.module:function or ./file.py:function."


def _or_usual(ctx: click.Context, param: click.Parameter, name: str | None) -> str | None:
    """The model that is taken where none is named, and said so: an ImageNet network where its package is installed."""
    if name is not None or ctx.resilient_parsing:
        return name
    from attribkit.adapters import packaged

    usual = "packaged:squeezenet1_1" if packaged.is_here("squeezenet1_1") else "all_cnn_c"
    click.echo(f"attribkit: no --model was given, so {usual} is taken", err=True)
    return usual


model = click.option(
    "--model",
    "-m",
    envvar="ATTRIBKIT_MODEL",
    callback=_or_usual,
    shell_complete=model_names,
    help=f"{_MODEL_HELP}  [default: packaged:squeezenet1_1 where the extra is installed, else all_cnn_c]",
)
model_argument = click.argument("model", envvar="ATTRIBKIT_MODEL", shell_complete=model_names)
weights = click.option(
    "--weights",
    "-w",
    envvar="ATTRIBKIT_WEIGHTS",
    default="default",
    show_default=True,
    metavar="default|none|FILE",
    help="The library's own weights, random ones, or a file.",
)
device = click.option(
    "--device",
    envvar="ATTRIBKIT_DEVICE",
    default=None,
    metavar="DEVICE",
    help="cpu, cuda, cuda:1, ...  [default: a GPU if there is one]",
)
method = click.option("--method", type=click.Choice(METHODS), default="guided", show_default=True, help="Draws maps.")
size = click.option(
    "--size",
    type=click.IntRange(min=1),
    help="Side of the square that the network sees, in pixels.  [default: the model's]",
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on standard output, and nothing else there."
)
quiet = click.option("--quiet", "-q", is_flag=True, envvar="ATTRIBKIT_QUIET", help="Show no progress.")
silent = click.option("--quiet", "-q", is_flag=True, envvar="ATTRIBKIT_QUIET", help="Print nothing but errors.")
out = click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ATTRIBKIT_OUT",
    default=Path("attribkit-out"),
    show_default=True,
    help="A folder.",
)
debug = click.option("--debug", is_flag=True, help="Show where an error comes from.", expose_value=False)


class Stopped(click.ClickException):
    """Somebody interrupted it."""

    exit_code = 130


def formats(default: str, known: tuple[str, ...]) -> Callable[[Any], Any]:
    """Which files are written, of those that a command knows."""
    shown = f"One or more of {', '.join(known)}."
    return click.option(
        "--format",
        "-f",
        "formats",
        default=default,
        show_default=True,
        callback=lambda ctx, param, text: words(text, "--format", known),
        help=shown,
    )


def joined(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> str:
    """An option that is given more than once, as if its values were given at once, separated by commas."""
    return ",".join(values)


def loaded(name: str, weights: str, device: str | None) -> LoadedModel:
    """The model, on its device."""
    import torch

    from attribkit import load

    torch.manual_seed(0)  # "none" means random weights, and the same command gives the same bytes
    found = load(name, weights)
    found.model.to(torch_device(device))
    return found


def batch(loaded: LoadedModel, x: torch.Tensor) -> torch.Tensor:
    """An input as a batch of one, on the model's device."""
    return on_device(loaded, x[None])


def on_device(loaded: LoadedModel, images: torch.Tensor) -> torch.Tensor:
    """A batch of inputs, on the model's device."""
    parameter = next(loaded.model.parameters(), None)
    return images if parameter is None else images.to(parameter.device)


def without_download(name: str, weights: str) -> str:
    """Weights for what is the same whatever they are: none of a library's, which may have to be fetched."""
    from attribkit.adapters.loading import sources

    prefix, colon, _ = name.rpartition(":")
    is_function = colon and prefix not in sources()  # of somebody's, which knows by itself what to do
    return "none" if weights == "default" and not is_function else weights


def torch_device(name: str | None) -> torch.device:
    """The device of that name; without one a GPU, which under torchrun is each process' own."""
    import torch

    if name is None:
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise click.UsageError(f"--device {name!r}: torch knows no such device; use cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: torch sees no GPU here")
    return device


def facts(loaded: LoadedModel) -> dict[str, str]:
    """What a file says of how it was made: the same when the same command is given again."""
    return {
        "command": shlex.join(["attribkit", *(word for word in sys.argv[1:] if word not in _NOT_OF_RESULTS)]),
        "model": loaded.name,
        "weights": f"{loaded.weights}, sha256 {loaded.digest}",
        **versions(),
    }


def followed(loaded: LoadedModel, files: Iterable[Path] = ()) -> tuple[str, ...]:
    """Digests of what kept work follows from, beside the command and the weights: it is done again when one changes."""
    from importlib import import_module

    from attribkit.identity import digest_of_code, digest_of_structure

    packages = (import_module(name) for name in ("attribkit", "attribkit.adapters", "attribkit.cli"))
    code = [digest_of_code(Path(place)) for package in packages for place in package.__path__]
    return (
        digest_of_structure(loaded.model),
        *code,
        *(hashlib.sha256(file.read_bytes()).hexdigest() for file in files),
    )


def versions() -> dict[str, str]:
    """What numbers may also depend on."""
    import torch

    from attribkit import __version__

    return {"attribkit": __version__, "torch": str(torch.__version__)}


def watching(quiet: bool) -> Watch:
    """Work with a bar that says how long it takes."""
    from attribkit.cli.progress import tracked

    return lambda things, name: tracked(things, name, quiet)


def numbers(text: str, option: str) -> list[int]:
    """Whole numbers, separated by commas."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise click.UsageError(f"{option} takes whole numbers separated by commas, not {text!r}") from None


def spans(text: str, option: str) -> list[int] | None:
    """Whole numbers and spans of them, with commas between; None for all."""
    found: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, _, last = part.partition("-")
        ends = [int(end) for end in (first, last or first) if end.strip().isdecimal()]
        if len(ends) != 2 or ends[0] > ends[1]:
            raise click.UsageError(f"{option} takes numbers and spans such as 0-95,104, not {part!r}")
        found += range(ends[0], ends[1] + 1)
    return found or None


def words(text: str, option: str, known: tuple[str, ...]) -> list[str]:
    """Words separated by commas, each of them known; repetitions count once."""
    given = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for word in given:
        if word not in known:
            raise click.UsageError(f"{option} takes {', '.join(known)}, not {word!r}")
    return given
