"""What results.json says, in words: who has which verdict, why, and numbers as readers see them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from attribkit.reference_models.switch_study.subjects import RANDOM_SHARE, WITH
from attribkit.reference_models.switch_study.validation import OF_LOGITS
from attribkit.reference_models.switch_study.verdict import FEWEST

Json = dict[str, Any]  # results.json, or a part of it

CLAIM = "guided loses at most the margin and the deconvnet more than the margin when the switches go"
RULES = ("guided", "deconvnet", "backprop")
VERDICTS = ("refuted", "undecided", "supported")  # what speaks against the claim is said first


def holders(networks: Json) -> dict[str, dict[str, list[str]]]:
    """For each verdict, the worst first, the networks that have it and for which metrics."""
    by_verdict: dict[str, dict[str, list[str]]] = {verdict: {} for verdict in VERDICTS}
    for name, network in networks.items():
        for metric, verdict in network["verdict"].items():
            by_verdict[verdict].setdefault(name, []).append(metric)
    return by_verdict


def why(measurement: Json, bounds: Json | None) -> str:
    """Which part of the claim fails or stays open; nothing to say where both hold."""
    guided, deconvnet, margin = (
        measurement["losses"]["guided"],
        measurement["losses"]["deconvnet"],
        measurement["margin"],
    )
    if min(guided["images"], deconvnet["images"]) < FEWEST:
        return f"fewer than {FEWEST} images"
    said = []
    if guided["low"] > margin:
        said.append("guided loses more than the margin")
    elif guided["high"] > margin:
        said.append("it is open whether guided loses more than the margin")
    if deconvnet["high"] <= margin:
        said.append("the deconvnet loses no more than the margin" + _nothing_to_lose(measurement, bounds))
    elif deconvnet["low"] <= margin:
        said.append("it is open whether the deconvnet loses more than the margin")
    return "; ".join(said)


def _nothing_to_lose(measurement: Json, bounds: Json | None) -> str:
    """Said of a deconvnet that is at the floor, the lowest of the bounds, even with its switches."""
    known = {name: bound for name, bound in bounds["means"].items() if bound["mean"] is not None} if bounds else {}
    own = measurement["means"][WITH]["deconvnet"]
    if not known or own["mean"] is None:
        return ""
    floor = min(known, key=lambda name: known[name]["mean"])
    return f" and has nothing to lose: with switches it is no better than the {floor}" * (
        own["low"] <= known[floor]["high"]
    )


def same(among: Iterable[Json], wanted: Json) -> Json | None:
    """That of the same metric and unit."""
    return next((each for each in among if all(each[key] == wanted[key] for key in ("metric", "unit"))), None)


def beside(network: Json) -> list[str]:
    """The conditions that have no part in the verdict."""
    names = dict.fromkeys(name for each in network["trained"]["measurements"] for name in each["means"])
    return [name for name in names if name not in (WITH, network["without"])]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{round(value, 3) + 0.0:.3f}"  # never -0.000


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}%"


def _plain(text: str) -> Markup:
    """Text of which markdown makes nothing else, on one line."""
    return Markup(re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False)))


def short(text: str, most: int) -> str:
    """Its end, by which names of layers differ."""
    return text if len(text) <= most else "…" + text[1 - most :]


def filled(template: str, **values: Any) -> str:
    """A template of this folder, with what it asks for."""
    return environment().get_template(template).render(values)


@cache
def environment() -> Environment:
    """Templates with the words and numbers of this file."""
    words = Environment(
        loader=PackageLoader("attribkit.reference_models.switch_study", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    words.filters.update(number=_number, percent=_percent, plain=_plain, short=short)
    words.globals.update(claim=CLAIM, rules=RULES, kinds=tuple(RANDOM_SHARE), of_logits=OF_LOGITS, with_switches=WITH)
    words.globals.update(why=why, same=same, beside=beside)
    return words
