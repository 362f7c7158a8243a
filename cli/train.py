"""`attribkit train`: train reference models, or look at how a training run went."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attribkit.cli import options

if TYPE_CHECKING:
    from attribkit.reference_models.data import Data
    from attribkit.reference_models.training.loop import Job
    from attribkit.reference_models.training.recipes import Recipe


@click.command("train")
@click.argument("models", nargs=-1, metavar="MODEL...")
@click.option("--data", type=click.Path(path_type=Path), help="CIFAR's folder, an image folder, or a packed .npz.")
@click.option("--download", is_flag=True, help="Fetch CIFAR-10 into --data when it is not there.")
@click.option("--recipe", default="quick", show_default=True, help="quick, paper, paper-augmented or after-surgery.")
@click.option("--epochs", type=click.IntRange(min=1), help="How many, instead of the recipe's number.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Instead of the recipe's; bfloat16 is slow on a CPU without instructions for it.",
)
@click.option("--seed", "seeds", default="0", show_default=True, help="One or more, separated by commas: 0,1,2.")
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder.  [default: runs/MODEL-RECIPE-SEED]")
@click.option("--keep-epochs", "keep", default="", metavar="1,2,5,...", help="Keep the weights after these epochs.")
@click.option(
    "--side-by-side", type=click.IntRange(min=1), default=1, help="How many models and seeds to train at once."
)
@click.option("--report", "report", type=click.Path(path_type=Path), help="Make a page with the curves of this run.")
@options.device
@options.as_json
@options.quiet
@options.debug
def command(
    models: tuple[str, ...],
    data: Path | None,
    download: bool,
    recipe: str,
    epochs: int | None,
    precision: str | None,
    seeds: str,
    out: Path | None,
    keep: str,
    side_by_side: int,
    report: Path | None,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train reference models on CIFAR-10 or images of your own.

    If a run was stopped, for whatever reason, give the same command again to continue it. Under torchrun, several
    processes train one model.

        attribkit train all_cnn_c --data cifar10 --recipe quick

        attribkit train model_c all_cnn_c --seed 0,1,2 --data cifar10 --recipe paper --side-by-side 6
    """
    if report is not None:
        from attribkit.reference_models.training.curves import write_page

        click.echo(write_page(report))
        return
    if not models or data is None:
        raise click.UsageError("give at least one MODEL and --data PATH, or --report RUN")
    chosen = [(model, seed) for model in models for seed in options.numbers(seeds, "--seed")]
    folders = {(model, seed): _folder(out, model, recipe, seed, several=len(chosen) > 1) for model, seed in chosen}
    if side_by_side > 1 and len(chosen) > 1:
        shared = {"--data": data, "--recipe": recipe, "--epochs": epochs, "--precision": precision}
        shared |= {"--keep-epochs": keep, "--device": device}
        flags = [flag for flag, given in (("--download", download), ("--quiet", quiet)) if given]
        _side_by_side(folders, [*_words(shared), *flags], side_by_side)
    else:
        _one_after_the_other(
            folders, data, download, _recipe(recipe, epochs=epochs, precision=precision), keep, device, quiet or as_json
        )
    if as_json:
        click.echo(json.dumps([_facts(model, folder) for (model, _), folder in folders.items()], indent=2))


def _folder(out: Path | None, model: str, recipe: str, seed: int, *, several: bool) -> Path:
    name = f"{model}-{recipe}-{seed}"
    if out is None:
        return Path("runs") / name
    return out / name if several else out


def _recipe(name: str, **changes: Any) -> Recipe:
    from dataclasses import replace

    from attribkit.reference_models.training.recipes import RECIPES

    if name not in RECIPES:
        raise click.UsageError(f"there is no recipe {name!r}: --recipe takes {', '.join(RECIPES)}")
    return replace(RECIPES[name], **{field: value for field, value in changes.items() if value is not None})


def _facts(model: str, folder: Path) -> dict[str, Any]:
    from attribkit.reference_models import trained

    path = folder / f"{model}.safetensors"
    return {"file": str(path), **trained.facts(path)}


def _one_after_the_other(
    folders: dict[tuple[str, int], Path],
    path: Path,
    download: bool,
    recipe: Recipe,
    keep: str,
    device_name: str | None,
    quiet: bool,
) -> None:
    from attribkit.reference_models.architectures import architecture
    from attribkit.reference_models.data import read
    from attribkit.reference_models.training.loop import Job, suited
    from attribkit.reference_models.training.workers import joined

    for model, _ in folders:
        architecture(model)  # an unknown name is refused before the data is read
    kept = frozenset(options.numbers(keep, "--keep-epochs"))
    data: Data = read(path, download=download)
    device = options.torch_device(device_name)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped in the same way as by Ctrl-C
    with joined(device) as workers:
        for (model, seed), folder in folders.items():
            job = Job(model, suited(recipe, model, data), seed, data, device, kept, workers)
            job.check()
            _train(job, folder, quiet or not workers.first)


def _train(job: Job, folder: Path, quiet: bool) -> None:
    from attribkit.cli.progress import TrainingProgress
    from attribkit.reference_models.training import run
    from attribkit.reference_models.training.loop import train

    with run.opened(folder, job.description, job.workers.first), TrainingProgress(job, quiet) as progress:
        try:
            for metrics in train(job, folder, progress.step):
                progress.epoch(metrics)
        except KeyboardInterrupt:
            raise click.ClickException(
                f"stopped; run the same command again to continue from the last epoch in {folder}"
            ) from None
    if not quiet:
        facts = _facts(job.model, folder)
        click.echo(f"{facts['file']}: {facts['error']:.2f}% error on the test images of {job.data.source}", err=True)


def _words(given: dict[str, object]) -> list[str]:
    return [word for name, value in given.items() if value not in (None, "") for word in (name, str(value))]


def _side_by_side(folders: dict[tuple[str, int], Path], shared: list[str], at_once: int) -> None:
    """Each in a process of its own."""
    from concurrent.futures import ThreadPoolExecutor

    def run_one(item: tuple[tuple[str, int], Path]) -> int:
        (model, seed), folder = item
        own = ["train", model, "--seed", str(seed), "--out", str(folder)]
        return subprocess.run([sys.executable, "-m", "attribkit.cli.main", *own, *shared], check=False).returncode

    with ThreadPoolExecutor(at_once) as pool:
        failed = [name for name, code in zip(folders, pool.map(run_one, folders.items()), strict=True) if code]
    if failed:
        raise click.ClickException(f"failed: {', '.join(f'{model} with seed {seed}' for model, seed in failed)}")
