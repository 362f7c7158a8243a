"""What the study on switches found, for readers: a page of one results.json, a section of a document of several.

python -m attribkit.reference_models.switch_study.findings docs/validation.md OUT [OUT ...]
"""

from __future__ import annotations

import html
import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from attribkit.errors import BadValue
from attribkit.files import write_whole
from attribkit.reference_models.switch_study.subjects import RANDOM_SHARE, WITH
from attribkit.reference_models.switch_study.validation import OF_LOGITS
from attribkit.reference_models.switch_study.verdict import FEWEST
from attribkit.report.stored import data_uri

Json = dict[str, Any]  # results.json, or a part of it

CLAIM = "guided loses at most the margin and the deconvnet more than the margin when the switches go"
RULES = ("guided", "deconvnet", "backprop")
VERDICTS = ("refuted", "undecided", "supported")  # what speaks against the claim is said first
BEGIN, END = "<!-- findings -->", "<!-- /findings -->"


def page(results: Json, folder: Path) -> str:
    """One file that needs no network; the pictures are read from the folder of results.json."""
    networks = results["networks"]
    return _filled(
        "findings.html",
        **results,
        told=told(networks),
        plots={name: [Markup(plot) for plot in plots(name, network).values()] for name, network in networks.items()},
        shown=[(data_uri("png", (folder / one["file"]).read_bytes()), one["caption"]) for one in results["pictures"]],
    )


def write(document: Path, folders: Sequence[Path]) -> None:
    """Put what results.json of the folders say between two lines of the document, and the images beside it."""
    text = document.read_bytes().decode()
    if [line for line in text.splitlines() if line in (BEGIN, END)] != [BEGIN, END]:
        raise BadValue(f"{document} needs the line {BEGIN} and after it the line {END}, each of them once")
    said, images = section([(json.loads((folder / "results.json").read_bytes()), folder) for folder in folders])
    around = re.compile(f"^{BEGIN}$.*^{END}$", re.MULTILINE | re.DOTALL)
    new = around.sub(lambda _: f"{BEGIN}\n\n{said}\n{END}", text)
    for name, data in images.items():
        write_whole(document.parent / "images" / name, data)
    write_whole(document, new.encode())


def section(runs: Sequence[tuple[Json, Path]]) -> tuple[str, dict[str, bytes]]:
    """Markdown, and the images that it shows by their names."""
    networks = _without_twins((name, network) for results, _ in runs for name, network in results["networks"].items())
    pictures = [(folder / one["file"], one["caption"]) for results, folder in runs for one in results["pictures"]]
    files = {name: {kind: _image(f"{kind}-{name}.svg") for kind in ("losses", "cascade")} for name in networks}
    images = _without_twins(
        [
            *(
                (files[name][kind], plot.encode())
                for name in networks
                for kind, plot in plots(name, networks[name]).items()
            ),
            *((_image(path.name), path.read_bytes()) for path, _ in pictures),
        ]
    )
    said = _filled(
        "findings.md",
        runs=[results for results, _ in runs],
        networks=networks,
        told=told(networks),
        files=files,
        shown=[(_image(path.name), caption) for path, caption in pictures],
    )
    return said, images


def _without_twins(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadValue(f"two of the results have the name {name}")
        found[name] = value
    return found


def _image(name: str) -> str:
    return "validation-" + re.sub(r"[^\w.-]+", "-", unquote(name))


# --------------------------------------------------------------------------------------------------------- in words


def told(networks: Json) -> dict[str, dict[str, list[str]]]:
    """For each verdict, the worst first, the networks that have it and for which metrics."""
    found: dict[str, dict[str, list[str]]] = {verdict: {} for verdict in VERDICTS}
    for name, network in networks.items():
        for metric, verdict in network["verdict"].items():
            found[verdict].setdefault(name, []).append(metric)
    return found


def why(figure: Json, bounds: Json | None) -> str:
    """Which part of the claim fails or stays open; nothing to say where both hold."""
    guided, deconvnet, margin = figure["losses"]["guided"], figure["losses"]["deconvnet"], figure["margin"]
    if min(guided["images"], deconvnet["images"]) < FEWEST:
        return f"fewer than {FEWEST} images"
    said = []
    if guided["low"] > margin:
        said.append("guided loses more than the margin")
    elif guided["high"] > margin:
        said.append("it is open whether guided loses more than the margin")
    if deconvnet["high"] <= margin:
        said.append("the deconvnet loses no more than the margin" + _nothing_to_lose(figure, bounds))
    elif deconvnet["low"] <= margin:
        said.append("it is open whether the deconvnet loses more than the margin")
    return "; ".join(said)


def _nothing_to_lose(figure: Json, bounds: Json | None) -> str:
    """Said of a deconvnet that is at the floor, the lowest of the bounds, even with its switches."""
    known = {name: one for name, one in bounds["means"].items() if one["mean"] is not None} if bounds else {}
    own = figure["means"][WITH]["deconvnet"]
    if not known or own["mean"] is None:
        return ""
    floor = min(known, key=lambda name: known[name]["mean"])
    return f" and has nothing to lose: with switches it is no better than the {floor}" * (
        own["low"] <= known[floor]["high"]
    )


def same(among: Iterable[Json], figure: Json) -> Json | None:
    """The one of the same metric and unit."""
    return next((one for one in among if (one["metric"], one["unit"]) == (figure["metric"], figure["unit"])), None)


def beside(network: Json) -> list[str]:
    """The conditions that have no part in the verdict."""
    found = dict.fromkeys(name for figure in network["trained"]["figures"] for name in figure["means"])
    return [name for name in found if name not in (WITH, network["without"])]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{round(value, 3) + 0.0:.3f}"  # never -0.000


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}%"


def _plain(text: str) -> Markup:
    """Text of which markdown makes nothing else, on one line."""
    return Markup(re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False)))


def _short(text: str, most: int) -> str:
    """Its end, by which names of layers differ."""
    return text if len(text) <= most else "…" + text[1 - most :]


def _filled(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("attribkit.reference_models.switch_study", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters.update(number=_number, percent=_percent, plain=_plain, short=_short)
    found.globals.update(claim=CLAIM, rules=RULES, kinds=tuple(RANDOM_SHARE), of_logits=OF_LOGITS, with_switches=WITH)
    found.globals.update(marks=MARKS, width=WIDTH, right=RIGHT, why=why, same=same, beside=beside)
    return found


# -------------------------------------------------------------------------------------------------------- the plots

WIDTH, RIGHT = 420, 402  # so narrow that letters can be read on a telephone

# Shapes around (0, 0): rules are told apart without colours, too.
MARKS = {
    "guided": "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0z",
    "deconvnet": "M-4,-4h8v8h-8z",
    "backprop": "M0,-5.5l5.5,5.5l-5.5,5.5l-5.5,-5.5z",
}


@dataclass(frozen=True)
class Axis:
    """From values to places across a plot."""

    low: float
    step: float
    steps: int
    left: float

    def at(self, value: float) -> float:
        return round(self.left + (value - self.low) / (self.steps * self.step) * (RIGHT - self.left), 1)

    @property
    def ticks(self) -> list[float]:
        return [round(self.low + index * self.step, 2) + 0.0 for index in range(self.steps + 1)]


def axis(values: Iterable[float | None], left: float) -> Axis:
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    step = next((step for step in (0.02, 0.05, 0.1, 0.2) if high - low <= 6 * step), 0.5)
    first = math.floor(low / step)
    return Axis(first * step, step, math.ceil(high / step) - first, left)


def plots(name: str, network: Json) -> dict[str, str]:
    """As SVG: what each rule loses, and how alike its map stays while layers are made random."""
    trained = network["trained"]
    by_metric: dict[str, list[Json]] = {metric: [] for metric in network["verdict"]}
    for figure in trained["figures"]:
        by_metric[figure["metric"]].append(figure)
    ends = [loss[end] for figure in trained["figures"] for loss in figure["losses"].values() for end in ("low", "high")]
    margins = [figure["margin"] for figure in trained["figures"]]
    cascade = trained["failures"]["cascade"]
    layers = [row["layer"] for row in cascade[RULES[0]]]
    ranks = [row["rank"]["mean"] for rows in cascade.values() for row in rows]
    gutter = 20 + 6.5 * max((len(_short(layer, 22)) for layer in layers), default=0)
    return {
        "losses": _filled("losses.svg", name=name, by_metric=by_metric, axis=axis([0.0, *margins, *ends], 70)),
        "cascade": _filled("cascade.svg", name=name, cascade=cascade, layers=layers, axis=axis([0, 1, *ranks], gutter)),
    }


def main(words: Sequence[str]) -> None:
    if len(words) < 2:
        sys.exit("usage: python -m attribkit.reference_models.switch_study.findings DOCUMENT OUT [OUT ...]")
    try:
        write(Path(words[0]), [Path(folder) for folder in words[1:]])
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
