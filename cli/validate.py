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
@click.option("--images", type=click.IntRange(min=10), help="How many test images.  [default: 500; quick: 20]")
@click.option("--metrics", default="", metavar="NAMES", help="Only these metrics, commas between.  [default: all]")
@click.option(
    "--margin",
    "margin",
    metavar="NUMBER",
    help="How much may be lost: of every metric, or METRIC=NUMBER, commas between.",
)
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
    metrics: str,
    margin: str | None,
    seed: int,
    workers: int,
    out: Path,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Put a paper's claim to numbers: guided backprop does without max-pool switches what the deconvnet needs them for.

    Every rule is scored with switches and without, on trained and on random weights. What is claimed, how it is
    measured and what is said of it was fixed beforehand: docs/validation-design.md. scores.csv has every score.
    """
    from attribkit.files import write_whole
    from attribkit.reference_models.switch_study import document, findings, parts, table, testset

    names = list(dict.fromkeys(name.strip() for name in models.split(",") if name.strip()))
    margins = _margins(metrics, margin)
    read = testset.read(data)
    settings = _settings(quick, images, seed, str(options.torch_device(device)), labelled=read.labels is not None)
    lacking = parts.missing(names)
    if len(lacking) == len(names):
        raise click.ClickException("; ".join(lacking.values()) or "--models names no network")
    tests = read.drawn(settings.images, seed, settings.candidates)
    every = parts.parts([name for name in names if name not in lacking], tests, settings, margins)
    try:
        parts.prepare_eye(read, settings, out)
        _run(every, tests, settings, out, workers, quiet or as_json)
    except KeyboardInterrupt:
        raise click.ClickException("stopped; run the same command again to do the rest") from None
    documents = {part: _kept(part, out) for part in every}
    results = document.results(documents, tests, settings, margins, lacking)
    text = json.dumps(results, indent=2)
    write_whole(out / "scores.csv", table.scores(documents, tests, margins))
    write_whole(out / "results.json", f"{text}\n".encode())
    write_whole(out / "index.html", findings.page(results, out).encode())
    click.echo(text if as_json else _in_words(results, out))


def _margins(metrics: str, margin: str | None) -> dict[str, float]:
    """Those of the metrics that are chosen, as the study has them or as they are given."""
    from attribkit.reference_models.switch_study.validation import MARGINS

    chosen = [name.strip() for name in metrics.split(",") if name.strip()] or list(MARGINS)
    given = [word.rpartition("=") for word in (margin or "").split(",") if word]
    for name in [*chosen, *(name.strip() for name, equals, _ in given if equals)]:
        if name not in MARGINS:
            raise click.UsageError(f"there is no metric {name!r}: there are {', '.join(MARGINS)}")
    margins = {name: MARGINS[name] for name in MARGINS if name in chosen}
    for name, equals, number in given:
        changed = [name.strip()] if equals else chosen
        margins |= {metric: _number_of(number) for metric in changed if metric in margins}
    return margins


def _number_of(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.UsageError(f"--margin takes a number, or METRIC=NUMBER, not {text!r}") from None


def _settings(quick: bool, images: int | None, seed: int, device: str, *, labelled: bool) -> Settings:
    from dataclasses import replace

    from attribkit.reference_models.switch_study.parts import FULL, PHOTOGRAPHS, QUICK

    settings = replace(QUICK if quick else FULL, seed=seed, device=device)
    if images is None:
        return settings if quick or labelled else replace(settings, images=PHOTOGRAPHS)
    fewer = {name: min(images, getattr(settings, name)) for name in ("asked", "paired", "compared")}
    return replace(settings, images=images, **fewer)


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
    if workers == 1 or len(todo) < 2:
        for part in tracked(todo, "parts", quiet):
            parts.run(part, tests, settings, out)
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
    """The headline, then for each network what is said of each metric and unit."""
    from attribkit.reference_models.switch_study import wording

    lines = wording.headline(results["networks"])
    for name, network in results["networks"].items():
        lines.append(wording.title(name))
        for each in wording.main(network):
            lines.append(f"  {each['metric']}, {each['unit']}: {each['verdict']}")
            lines += [f"    {rule} loses {_interval(loss)}" for rule, loss in each["losses"].items()]
            lines.append(f"    the deconvnet's loss less guided's: {_interval(each['difference'])}")
    lines += [f"{name}: missing: {why}" for name, why in results["missing"].items()]
    return "\n".join([*lines, *(str(out / name) for name in ("results.json", "scores.csv", "index.html"))])


def _interval(one: dict[str, Any]) -> str:
    return f"{_number(one['mean'])} ({_number(one['low'])} to {_number(one['high'])})"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
