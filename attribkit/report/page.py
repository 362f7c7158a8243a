"""A page: results to explore in a browser, in one file that needs no network and no other file."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from attribkit.errors import BadValue
from attribkit.report import pictures
from attribkit.report.panel import COLOURS, scale
from attribkit.report.shown import Shown, rule_of
from attribkit.report.stored import Stored, StoredMap, store

# What is said of a rule to somebody who meets it here.
METHODS = {
    "guided": "passes the signal on only where the unit below fired and the signal itself is above zero;",
    "deconvnet": "passes the signal on only where it is above zero, whatever fired below;",
    "backprop": "passes the signal on where the unit below fired, whatever its sign: the plain gradient.",
}


@dataclass(frozen=True)
class Entry:
    """What the template needs of one `Shown`."""

    shown: Shown
    stored: Stored


def page(shown: Sequence[Shown], facts: Mapping[str, str]) -> bytes:
    """A page that shows results: one HTML file that needs no network.

    Args:
        shown: What to show, in order.
        facts: How the page was made, for its foot: the command, the model, versions.

    Returns:
        The bytes of the file; the same results give the same bytes.

    Raises:
        BadValue: There is nothing to show.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    if not shown:
        raise BadValue("there is nothing to show on a page")
    environment = Environment(
        loader=PackageLoader("attribkit.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["strengths"] = _strengths
    environment.filters["rule_of"] = rule_of
    methods = dict.fromkeys(rule_of(column) for each in shown for column in each.maps)
    html = environment.get_template("page.html").render(
        entries=[Entry(each, store(each)) for each in shown],
        images=len({(each.name, each.picture.tobytes()) for each in shown}),  # folders may hold the same name
        methods=list(methods),
        ways=max(len(each.maps) // len(set(map(rule_of, each.maps))) for each in shown),
        explained={method: words for method, words in METHODS.items() if method in methods},
        colours=COLOURS,
        facts=facts,
        style=source("page.css"),
        script=source("page.js"),
        palettes=_palettes(),
        digest=digest,
    )
    # A name that is not UTF-8 has halves of surrogate pairs, of which there are no bytes.
    return html.encode("utf-8", "backslashreplace")


def _strengths(stored: StoredMap) -> dict[str, tuple[float, str]]:
    """The full strength of each view, as a number and in words."""
    return {view: (strength, scale(strength)) for view, strength in stored.strengths.items()}


def source(name: str) -> str:
    return files("attribkit.report").joinpath(name).read_text("utf-8")


def digest(source: str) -> str:
    """By which the page's security policy knows its own style and script from anything that got into it."""
    return f"'sha256-{b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _palettes() -> dict[str, str]:
    """The colours of the views that have a palette, from the lowest value to the highest, as bytes in base64."""
    signed = pictures.picture(np.linspace(-1, 1, 511)[None, None], "signed", 1.0)
    absolute = pictures.picture(np.linspace(0, 1, 256)[None, None], "absolute", 1.0)
    return {"signed": b64encode(signed.tobytes()).decode(), "absolute": b64encode(absolute.tobytes()).decode()}
