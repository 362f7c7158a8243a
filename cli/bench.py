"""`attribkit bench`: the same maps by Captum and by us."""

from __future__ import annotations

import importlib.util
import json
import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from attribkit.cli import options

if TYPE_CHECKING:
    import torch

    from attribkit.cli.comparison import Comparison
    from attribkit.cli.measuring import Ratio

MODELS = "resnet18,vgg11,dla34,hrnet_w18_small,googlenet,densenet121,mobilenet_v2,legacy_xception"


@click.command("bench")
@click.argument("model", nargs=-1, shell_complete=options.model_names)
@click.option("--models", default="", metavar="NAMES", help=f"Classifiers, separated by commas.  [default: {MODELS}]")
@click.option(
    "--tasks",
    default="",
    metavar="WORDS",
    help="Instead, time tasks that hold one of these words, commas between; or all.",
)
@click.option("--method", type=click.Choice(["guided", "deconvnet"]), default="guided", show_default=True)
@click.option(
    "--weights", "-w", default="none", show_default=True, metavar="default|none", help="Trained ones may be fetched."
)
@click.option("--image", help="The image to compare on.  [default: noise]")
@click.option("--size", type=click.IntRange(min=1), help="Side of the square image, in pixels.  [default: the model's]")
@click.option(
    "--rounds", type=click.IntRange(min=2), default=15, show_default=True, help="How many times each takes its turn."
)
@options.device
@options.as_json
@options.quiet
@options.debug
def command(
    model: tuple[str, ...],
    models: str,
    tasks: str,
    method: str,
    weights: str,
    image: str | None,
    size: int | None,
    rounds: int,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare our maps with Captum's: do they agree, and if not, who is right? And what do they cost?

    A third way to compute the same map judges who is right: it puts the rule into the finished graph of a plain forward
    pass. Times are ratios, medians over rounds in which each tool takes its turn; brackets hold the quartiles.
    """
    if importlib.util.find_spec("captum") is None:
        raise click.ClickException("Captum is not installed: pip install 'attribkit[captum]'")
    if tasks:
        if model or models or device not in (None, "cpu"):
            raise click.UsageError("--tasks times networks of its own, on the CPU: leave out models and --device")
        _time(tasks, rounds, as_json, quiet)
        return
    from attribkit import CannotRewrite, NothingToRewrite
    from attribkit.cli.comparison import compare
    from attribkit.cli.progress import tracked

    compared: list[Comparison] = []
    refused: dict[str, str] = {}
    names = [*model, *(part.strip() for part in models.split(",") if part.strip())] or MODELS.split(",")
    for name in tracked(names, "models", quiet):
        loaded = options.loaded(name, weights, device)
        like = loaded.preprocess.example() if image is None else loaded.preprocess(image, size)
        x = options.batch(loaded, _noise(like, size) if image is None else like)
        try:
            compared.append(compare(loaded.name, loaded.model, x, _target(loaded.model, x), method, rounds))
        except (NothingToRewrite, CannotRewrite) as error:
            refused[loaded.name] = str(error)
    conditions = _conditions(weights, rounds, device)
    click.echo(_as_json(conditions, compared, refused) if as_json else _as_table(conditions, compared, refused))


def _time(words: str, rounds: int, as_json: bool, quiet: bool) -> None:
    """Tasks, each beside its floor and Captum."""
    from attribkit.cli.progress import tracked
    from attribkit.cli.tasks import chosen

    wanted = chosen([word.strip() for word in words.split(",") if word.strip()])
    timed = [task.timed(rounds) for task in tracked(wanted, "tasks", quiet)]
    conditions = _conditions("none", rounds, "cpu")
    if as_json:
        click.echo(json.dumps({**conditions, "tasks": [asdict(each) for each in timed]}, indent=2))
        return
    others = sorted({name for each in timed for name in each.by_others})
    rows = [
        ["task", "ms", "off by", "time / floor", "the floor", "time / Captum", *(f"time / {name}" for name in others)]
    ]
    for each in timed:
        ratios = [each.by_captum, *map(each.by_others.get, others)]
        beside = ["" if ratio is None else _small(ratio) for ratio in ratios]
        off_by = "" if each.off_by is None else f"{each.off_by:.0e}"
        rows.append([each.task, f"{each.milliseconds:.1f}", off_by, str(each.by_floor), each.floor, *beside])
    click.echo("\n".join([_heading(conditions), *_aligned(rows)]))


def _small(ratio: Ratio) -> str:
    """A ratio, as its inverse where that is easier to read."""
    return (
        str(ratio)
        if ratio.median > 0.1
        else f"1/{1 / ratio.median:.0f} (1/{1 / ratio.high:.0f} to 1/{1 / ratio.low:.0f})"
    )


def _noise(like: torch.Tensor, size: int | None) -> torch.Tensor:
    import torch

    shape = like.shape if size is None else (*like.shape[:-2], size, size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _target(model: torch.nn.Module, x: torch.Tensor) -> int:
    import torch

    with torch.no_grad():
        output = model(x)
    if not isinstance(output, torch.Tensor) or output.dim() != 2:
        raise click.ClickException("bench compares classifiers: models whose output is images x classes")
    return int(output[0].argmax())


def _conditions(weights: str, rounds: int, device: str | None) -> dict[str, Any]:
    import torch

    from attribkit import __version__
    from attribkit.cli.comparison import VERSION

    where = options.torch_device(device)
    return {
        "versions": {"attribkit": __version__, "captum": VERSION, "torch": torch.__version__},
        "machine": torch.cuda.get_device_name(where) if where.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "weights": weights,
        "rounds": rounds,
    }


def _as_json(conditions: dict[str, Any], compared: list[Comparison], refused: dict[str, str]) -> str:
    rows = [asdict(each) | {"agree": each.agree, "right": each.right} for each in compared]
    return json.dumps({**conditions, "models": rows, "refused": refused}, indent=2)


def _as_table(conditions: dict[str, Any], compared: list[Comparison], refused: dict[str, str]) -> str:
    heads = ["model", "agree", "right", "time / Captum", "time / autograd", "Captum / autograd", "memory / Captum"]
    rows = [heads, *map(_row, compared)]
    notes = [f"{each.model}: Captum fails: {each.captum_error}" for each in compared if each.captum_error]
    notes += [f"{each.model}: who is right was not judged: {each.not_judged}" for each in compared if each.not_judged]
    notes += [f"{name}: refused: {why}" for name, why in refused.items()]
    return "\n".join([_heading(conditions), *_aligned(rows), *notes])


def _heading(conditions: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    return f"{versions}; {conditions['machine']}, {conditions['threads']} threads, weights {conditions['weights']}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(compared: Comparison) -> list[str]:
    agree = "" if compared.apart is None else f"{'yes' if compared.agree else 'no'} ({compared.apart:.0e})"
    right = "" if compared.not_judged else " and ".join(compared.right) or "neither"
    memory = compared.memory.get("attribkit / Captum")
    times = [
        str(compared.time.get(pair, "")) for pair in ("attribkit / Captum", "attribkit / autograd", "Captum / autograd")
    ]
    return [compared.model, agree, right, *times, "" if memory is None else f"{memory:.2f}"]
