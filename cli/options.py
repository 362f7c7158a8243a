"""Options that several commands share, declared once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import torch

    from attribkit.adapters.source import LoadedModel


def _model_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
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

    usual = "packaged:squeezenet1_1" if packaged.installed("squeezenet1_1") else "all_cnn_c"
    click.echo(f"attribkit: no --model was given, so {usual} is taken", err=True)
    return usual


model = click.option(
    "--model",
    "-m",
    envvar="ATTRIBKIT_MODEL",
    callback=_or_usual,
    shell_complete=_model_names,
    help=f"{_MODEL_HELP}  [default: packaged:squeezenet1_1 where the extra is installed, else all_cnn_c]",
)
model_argument = click.argument("model", envvar="ATTRIBKIT_MODEL", shell_complete=_model_names)
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
debug = click.option("--debug", is_flag=True, help="Show where an error comes from.", expose_value=False)


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
