"""`attribkit validate`: does guided backprop work without switches?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attribkit.cli import options

if TYPE_CHECKING:
    from attribkit.reference_models.switch_study.parts import Part, Settings
    from attribkit.reference_models.switch_study.testset import TestSet

MODELS = "all_cnn_c,convpool_cnn_c,model_c"


@click.command("validate")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="CIFAR-10 (its folder or the packed file), or a folder of photographs.",
)
@click.option(
    "--models",
    default=MODELS,
    show_default=True,
    metavar="NAMES",
    help="Networks, separated by commas; NAME=FILE takes weights from a file.",
)
@click.option("--quick", is_flag=True, help="Fewer images and resamples: takes minutes, gives wider intervals.")
@click.option("--images", type=click.IntRange(min=10), help="How many test images.  [default: 500; quick: 30]")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for images, resamples and random weights.")
@click.option(
    "--workers", type=click.IntRange(min=1), default=2, show_default=True, help="How many processes, one thread each."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("attribkit-out/validation"), show_default=True,
    help="Folder for results.json and finished parts; the same command continues a stopped run.",
)  # fmt: skip
@options.device
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
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Put numbers to a paper's claim: that guided backprop works without max-pool switches, and the deconvnet does not.

    Every rule is scored with switches and without, on trained and on random weights. What is claimed, how it is
    measured, and when it counts as supported, refuted or undecided was fixed in advance: docs/validation-design.md.
    """
    from attribkit.files import write_whole
    from attribkit.reference_models.switch_study import document, findings, parts, testset

    names = list(dict.fromkeys(name.strip() for name in models.split(",") if name.strip()))
    settings = _settings(quick, images, seed, str(options.torch_device(device)))
    lacking = parts.missing(names)
    if len(lacking) == len(names):
        raise click.ClickException("; ".join(lacking.values()) or "--models names no network")
    tests = testset.read(data).drawn(settings.images, seed)
    every = parts.parts([name for name in names if name not in lacking], tests, settings)
    try:
        _run(every, tests, settings, out, workers, quiet or as_json)
    except KeyboardInterrupt:
        raise click.ClickException("stopped; run the same command again to do the rest") from None
    results = document.results({part: _kept(part, out) for part in every}, tests, settings, lacking)
    text = json.dumps(results, indent=2)
    write_whole(out / "results.json", f"{text}\n".encode())
    write_whole(out / "index.html", findings.page(results, out).encode())
    click.echo(text if as_json else _in_words(results, out))


def _settings(quick: bool, images: int | None, seed: int, device: str) -> Settings:
    from dataclasses import replace

    from attribkit.reference_models.switch_study.parts import FULL, QUICK

    settings = replace(QUICK if quick else FULL, seed=seed, device=device)
    if images is None:
        return settings
    asked, compared = (min(images, number) for number in (settings.asked, settings.compared))
    return replace(settings, images=images, asked=asked, compared=compared)


def _kept(part: Part, out: Path) -> dict[str, Any]:
    from attribkit.reference_models.switch_study import parts

    document = parts.kept(part, out)
    assert document is not None, f"{part.file} was written just now"
    return document


def _run(every: list[Part], tests: TestSet, settings: Settings, out: Path, workers: int, quiet: bool) -> None:
    """What is not there yet, several parts at once."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    from attribkit.cli.progress import tracked
    from attribkit.reference_models.process import end_with_parent
    from attribkit.reference_models.switch_study import parts

    todo = [part for part in every if parts.kept(part, out) is None]
    if workers == 1:
        for part in tracked(todo, "parts", quiet):
            parts.run(part, tests, settings, out)
    if workers == 1 or not todo:
        return
    with ProcessPoolExecutor(min(workers, len(todo)), get_context("spawn"), end_with_parent) as pool:
        done = as_completed([pool.submit(parts.run, part, tests, settings, out) for part in todo])
        try:
            for _ in tracked(todo, "parts", quiet):
                next(done).result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_words(results: dict[str, Any], out: Path) -> str:
    lines = []
    for name, network in results["networks"].items():
        lines.append(name)
        for measurement in network["trained"]["measurements"]:
            lines.append(f"  {measurement['metric']}, {measurement['unit']}: {measurement['verdict']}")
            lines += [f"    {rule} {_cells(measurement, rule)}" for rule in measurement["losses"]]
        lines.append("  " + ", ".join(f"{metric}: {verdict}" for metric, verdict in network["verdict"].items()))
    lines += [f"{name}: missing: {why}" for name, why in results["missing"].items()]
    return "\n".join([*lines, str(out / "results.json"), str(out / "index.html")])


def _cells(measurement: dict[str, Any], rule: str) -> str:
    means = ", ".join(
        f"{condition} {_number(means[rule]['mean'])}" for condition, means in measurement["means"].items()
    )
    lost = {key: _number(value) for key, value in measurement["losses"][rule].items()}
    return f"{means}; loses {lost['mean']} ({lost['low']} to {lost['high']})"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
