"""`attribkit validate`: does guided backprop work without switches?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attribkit.cli import options

if TYPE_CHECKING:
    from attribkit.reference_models.data import Data
    from attribkit.reference_models.study import Part, Settings

MODELS = "all_cnn_c,convpool_cnn_c,model_c"


@click.command("validate")
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="CIFAR-10: its folder, or the packed file."
)
@click.option("--models", default=MODELS, show_default=True, metavar="NAMES", help="Reference models, commas between.")
@click.option("--quick", is_flag=True, help="Fewer images and resamples: minutes, and wider intervals.")
@click.option("--images", type=click.IntRange(min=10), help="How many test images.  [default: 500; quick: 60]")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws images, resamples and random weights.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes, one thread each.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("attribkit-out/validation"), show_default=True,
    help="Holds results.json, and what is done when it is stopped: the same command goes on.",
)  # fmt: skip
@options.as_json
@options.quiet
@options.debug
def command(
    data: Path,
    models: str,
    quick: bool,
    images: int | None,
    seed: int,
    workers: int,
    out: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Put a paper's claim to numbers: guided backprop does without max-pool switches what the deconvnet needs them for.

    Every rule is scored with switches and without, on trained and on random weights. What is claimed, how it is
    measured and when it counts as supported, refuted or undecided was fixed beforehand: docs/validation.md.
    """
    from attribkit.files import write_whole
    from attribkit.reference_models import study
    from attribkit.reference_models.data import read

    names = options.words(models, "--models", _known())
    settings = _settings(quick, images, seed)
    read_data = read(data)
    lacking = study.missing(names)
    parts = study.parts([name for name in names if name not in lacking])
    folder = out / "parts"
    _run(parts, read_data, data, settings, folder, workers, quiet or as_json)
    documents = {part: _kept(part, read_data, settings, folder) for part in parts}
    results = study.results(documents, settings, lacking)
    text = json.dumps(results, indent=2)
    write_whole(out / "results.json", f"{text}\n".encode())
    click.echo(text if as_json else _in_words(results, out))


def _known() -> tuple[str, ...]:
    from attribkit.reference_models.architectures import NAMES

    return NAMES


def _settings(quick: bool, images: int | None, seed: int) -> Settings:
    from dataclasses import replace

    from attribkit.reference_models.study import FULL, QUICK

    settings = replace(QUICK if quick else FULL, seed=seed)
    return settings if images is None else replace(settings, images=images, asked=min(images, settings.asked))


def _kept(part: Part, data: Data, settings: Settings, folder: Path) -> dict[str, Any]:
    from attribkit.reference_models import study

    document = study.kept(part, data, settings, folder)
    assert document is not None, f"{part.file} was written just now"
    return document


def _run(
    parts: list[Part], data: Data, path: Path, settings: Settings, folder: Path, workers: int, quiet: bool
) -> None:
    """What is not there yet, several parts at once."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    from attribkit.cli.progress import tracked
    from attribkit.reference_models import study

    todo = [part for part in parts if study.kept(part, data, settings, folder) is None]
    if workers == 1:
        for part in tracked(todo, "networks and weights", quiet):
            study.run(part, data, settings, folder)
        return
    if not todo:
        return
    with ProcessPoolExecutor(min(workers, len(todo)), get_context("spawn"), initializer=_one_thread) as pool:
        futures = [pool.submit(_run_part, part, path, settings, folder) for part in todo]
        done = as_completed(futures)
        try:
            for _ in tracked(futures, "networks and weights", quiet):
                next(done).result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise click.ClickException("stopped; the same command goes on with what is not done") from None


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # results do not depend on how many there are then


def _run_part(part: Part, path: Path, settings: Settings, folder: Path) -> None:
    from attribkit.reference_models import study
    from attribkit.reference_models.data import read

    study.run(part, read(path), settings, folder)


def _in_words(results: dict[str, Any], out: Path) -> str:
    lines = []
    for name, network in results["networks"].items():
        lines.append(name)
        for figure in network["trained"]["figures"]:
            lines.append(f"  {figure['metric']}, {figure['unit']}: {figure['verdict']}")
            lines += [f"    {rule} {_cells(figure, rule)}" for rule in figure["losses"]]
        lines.append("  " + ", ".join(f"{metric}: {verdict}" for metric, verdict in network["verdict"].items()))
    lines += [f"{name}: missing: {why}" for name, why in results["missing"].items()]
    return "\n".join([*lines, str(out / "results.json")])


def _cells(figure: dict[str, Any], rule: str) -> str:
    means = ", ".join(f"{condition} {_number(row[rule]['mean'])}" for condition, row in figure["means"].items())
    lost = {key: _number(value) for key, value in figure["losses"][rule].items()}
    return f"{means}; loses {lost['mean']} ({lost['low']} to {lost['high']})"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
