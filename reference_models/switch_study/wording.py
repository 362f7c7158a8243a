"""What results.json says, in words: who has which verdict, why, and numbers as readers see them."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from attribkit.reference_models.switch_study.subjects import AFTER, RANDOM_SHARE, WITH
from attribkit.reference_models.switch_study.validation import OF_CLASS
from attribkit.reference_models.switch_study.verdict import FEWEST, MOST_RENAMED

Json = dict[str, Any]  # results.json, or a part of it

CLAIM = "without switches guided backprop loses at most the margin, and the deconvnet more than the margin"
RULES = ("guided", "deconvnet", "backprop")
VERDICTS = ("refuted", "undecided", "cannot tell", "not judged", "supported")  # what speaks against it is said first

TITLES = {
    "model": "Model {}",
    "strided_cnn": "Strided-CNN-{}",
    "convpool_cnn": "ConvPool-CNN-{}",
    "all_cnn": "All-CNN-{}",
    "squeezenet1_1": "SqueezeNet 1.1",
    "efficientnet_lite0": "EfficientNet-Lite0",
}
"""As the paper has them, or their makers."""


def title(network: str) -> str:
    """Name a network as the paper does; with weights of a file, also the folder of these."""
    name, _, file = network.partition("=")
    plain = re.sub(r"\.py$", "", name.rpartition(":")[0] if ".py:" in name else name.rpartition(":")[2])
    found = re.fullmatch(r"(\w+?)(?:_([abc])(_pooled)?)?", PurePosixPath(plain).name)
    known = TITLES.get(found[1]) if found else None
    if found is None or known is None:
        return network
    called = known.format((found[2] or "").upper()) + " after surgery, trained again" * bool(found[3])
    return f"{called} ({PurePosixPath(file).parent.name or PurePosixPath(file).stem})" if file else called


def headline(networks: Json) -> list[str]:
    """Answer the question by the primary outcome of each network, whichever way it falls: three sentences."""
    asked = [network["primary"] for network in networks.values() if network["primary"] is not None]
    if not asked:
        return ["The primary outcome was not asked for."]
    count = Counter(each["verdict"] for each in asked)
    listed = ", ".join(f"{verdict} in {count[verdict]}" for verdict in VERDICTS if count[verdict])
    what = f"the {asked[0]['metric']} of the {asked[0]['unit']} layer's unit"
    return [
        f"{_answer(count)} By {what} the claim is {listed} of {_networks(len(asked))}.",
        _of_difference([each for each in asked if each["verdict"] != "not judged"]),
        _of_better([each for each in asked if each["verdict"] != "not judged"]),
    ]


def _networks(count: int) -> str:
    return f"{count} network{'s' * (count != 1)}"


def _answer(count: Mapping[str, int]) -> str:
    """In a word, over the networks that say anything."""
    supported, refuted, undecided = (count.get(verdict, 0) for verdict in ("supported", "refuted", "undecided"))
    if supported + refuted == 0:
        return "Not decided."
    if refuted == 0:
        return "Yes, as far as it is decided." if undecided else "Yes."
    if supported == 0:
        return "No, as far as it is decided." if undecided else "No."
    return "In some networks, and not in others."


def _of_difference(asked: list[Json]) -> str:
    """The main figure."""
    known = [each["difference"] for each in asked if each["difference"]["mean"] is not None]
    if not known:
        return "What the deconvnet loses more than guided backprop is not known of any network."
    more = sum(each["low"] > 0 for each in known)
    less = sum(each["high"] < 0 for each in known)
    lowest, highest = (_number(pick(each["mean"] for each in known)) for pick in (min, max))
    return (
        f"Without switches the deconvnet loses more than guided backprop in {more} of {_networks(len(known))}, "
        f"and less in {less}: from {lowest} to {highest} more in the mean of each."
    )


def _of_better(asked: list[Json]) -> str:
    count = Counter(each["sentences"]["guided is better"] for each in asked)
    return (
        f"With switches, too, guided backprop scores higher than the deconvnet in {count['holds']} of "
        f"{_networks(len(asked))}, no higher in {count['fails']}, and in {count['open']} it is open."
    )


def tally(networks: Json) -> str:
    """How many verdicts there are, primary and secondary."""
    every = [each["verdict"] for network in networks.values() for each in network["trained"]["measurements"]]
    primary = sum(network["primary"] is not None for network in networks.values())
    count = Counter(every)
    listed = ", ".join(f"{count[verdict]} {verdict}" for verdict in VERDICTS if count[verdict])
    return f"{len(every)} comparisons, of which {primary} are primary: {listed}"


def main(network: Json) -> list[Json]:
    """The measurements against the first condition without switches, of units chosen in the network as it is."""
    return [
        each
        for each in network["trained"]["measurements"]
        if each["without"] == network["compared"][0] and not each["unit"].endswith(AFTER)
    ]


def why(measurement: Json, network: Json) -> str:
    """Which part of the claim fails, stays open or cannot be told; nothing to say where both hold."""
    if measurement["verdict"] == "not judged":
        return f"surgery renames {network['renamed']:.1f}% of the images, more than {MOST_RENAMED:.0f}%"
    if measurement["better"]["images"] < FEWEST:
        return f"fewer than {FEWEST} images"
    halves = {"guided keeps": "guided", "deconvnet loses": "the deconvnet"}
    said = [_of_half(measurement, half, who) for half, who in halves.items()]
    return "; ".join(each for each in said if each)


def _of_half(measurement: Json, half: str, who: str) -> str:
    state = measurement["sentences"][half]
    if state == "cannot tell":
        above = measurement["above"][who.removeprefix("the ")]
        floor = min(above, key=lambda name: above[name]["low"])
        return f"{who} has nothing to lose: with switches it is no better than the {floor}"
    loses = "more than the margin"
    if state == "open":
        return f"it is open whether {who} loses {loses}"
    if state == "fails":
        return f"{who} loses {loses if half == 'guided keeps' else 'no ' + loses}"
    return ""


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
    words.globals.update(claim=CLAIM, rules=RULES, kinds=tuple(RANDOM_SHARE), of_class=OF_CLASS, with_switches=WITH)
    words.globals.update(why=why, main=main, title=title, headline=headline, tally=tally, short=short)
    return words
