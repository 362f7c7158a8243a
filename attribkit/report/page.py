"""A page: results to explore in a browser, in one file that needs no network and no other file."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from attribkit.errors import BadValue
from attribkit.report import pictures
from attribkit.report.panel import COLOURS, scale
from attribkit.report.shown import Shown, rule_of
from attribkit.report.stored import Stored, StoredMap, contrasts, store, stored_picture

if TYPE_CHECKING:
    from jinja2 import Environment

# What is said of a rule to somebody who meets it here.
METHODS = {
    "guided": "passes the signal on only where the unit below fired and the signal itself is above zero.",
    "deconvnet": "passes the signal on only where it is above zero, whatever fired below.",
    "backprop": "passes the signal on where the unit below fired, whatever its sign: the plain gradient.",
}

MANY = 8
"""A page with more units than these begins with its overview."""

_SCRIPTS = ("maps.js", "viewer.js", "page.js")
_HOLE = "<!--units-->"  # no text of a name: those have no angle brackets once they are escaped

# Of a page, in bytes: all of it, its frame, the words around one unit, and the share of the pictures in the rest.
_PAGE, _FRAME, _WORDS, _PICTURES = 7_000_000, 100_000, 2_800, 0.3


@dataclass
class _Room:
    """Bytes that are left, and for how many."""

    left: float
    count: int

    @property
    def share(self) -> float:
        return max(0.0, self.left) / max(1, self.count)

    def take(self, size: float) -> None:
        self.left -= size
        self.count -= 1


class Writer:
    """A page that is made unit by unit: nothing of them is kept but the page itself, which stays small.

    Args:
        units: How many there will be at most; the more, the coarser are their maps.
        images: How many images they are of, at most; without it, one for each.

    Attributes:
        units: How many were added.
    """

    def __init__(self, units: int, images: int | None = None) -> None:
        room = max(0, _PAGE - _FRAME - _WORDS * units) * 3 / 4  # base64 makes four letters of three bytes
        self._maps = _Room(room * (1 - _PICTURES), units)
        self._images = _Room(room * _PICTURES, images or units)
        self._environment = _environment()
        self._body: list[bytes] = []
        self._pictures: dict[bytes, int] = {}
        self._ids: set[str] = set()
        self._names: dict[str, None] = {}
        self._columns: dict[str, None] = {}
        self._ways = 0
        self._many = units > MANY
        self.units = 0
        self._rungs: dict[tuple[int, int, int], int] = {}
        self._coarsest: Stored | None = None
        self._lossy = False

    def add(self, shown: Shown) -> None:
        """The next unit.

        Args:
            shown: The unit and its maps, of which nothing is kept in memory.
        """
        stored = self._stored(shown)
        self.units += 1
        if self._coarsest is None or stored.rung > self._coarsest.rung:
            self._coarsest = stored
        self._names[shown.name] = None
        self._columns.update(dict.fromkeys(shown.maps))
        ways = len(shown.maps) // len(set(map(rule_of, shown.maps)))
        self._ways = max(self._ways, ways)
        picture, uri = self._picture(shown)
        facts = {"number": self.units, "id": self._id(shown), "picture": picture, "uri": uri, "many": self._many}
        facts |= {"ways": ways, "words": METHODS}
        html = self._environment.get_template("unit.html").render(shown=shown, stored=stored, **facts)
        self._body.append(_encoded(html))

    def page(self, facts: Mapping[str, str]) -> bytes:
        """What was added, as a page.

        Args:
            facts: How the page was made, for its foot: the command, the model, versions.

        Returns:
            The bytes of the file; the same results give the same bytes.

        Raises:
            BadValue: There is nothing to show.
        """
        if self._coarsest is None:
            raise BadValue("there is nothing to show on a page")
        before, _, after = self._frame(facts, self._coarsest).partition(_HOLE)
        return b"".join([_encoded(before), *self._body, _encoded(after)])

    def _frame(self, facts: Mapping[str, str], coarsest: Stored) -> str:
        methods = dict.fromkeys(map(rule_of, self._columns))
        return self._environment.get_template("page.html").render(
            units=self.units,
            images=len(self._pictures),
            name=next(iter(self._names)),
            columns=list(self._columns),
            ways=self._ways,
            methods=list(methods),
            explained={method: words for method, words in METHODS.items() if method in methods},
            many=self._many,
            steps=coarsest.steps,
            square=coarsest.square,
            lossy=self._lossy,
            colours=COLOURS,
            facts=facts,
            style=source("page.css") + "".join(f".k{step}{{filter:contrast({by})}}\n" for step, by in contrasts()),
            script="".join(map(source, _SCRIPTS)),
            palettes=_palettes(),
            digest=digest,
        )

    def _stored(self, shown: Shown) -> Stored:
        """The maps as finely as there is room; what maps of this size needed before is nearly what these will need."""
        top, left, bottom, right = shown.window
        size = (bottom - top, right - left, len(shown.maps))
        stored = store(shown, self._maps.share, max(0, self._rungs.get(size, 0) - 1))
        self._rungs[size] = stored.rung
        self._maps.take(stored.bytes)
        return stored

    def _picture(self, shown: Shown) -> tuple[str, str | None]:
        """By which name the page has the picture, and its bytes where it has not been on the page yet."""
        # Folders may hold the same name.
        key = hashlib.sha256(shown.picture.tobytes() + _encoded(f"{shown.name}{shown.picture.shape}")).digest()
        known = key in self._pictures
        name = f"picture:{self._pictures.setdefault(key, len(self._pictures) + 1)}"
        if known:
            return name, None
        uri, lossy = stored_picture(shown.picture, self._images.share)
        self._images.take(len(uri) * 3 / 4)
        self._lossy |= lossy
        return name, uri

    def _id(self, shown: Shown) -> str:
        """The unit's address within the page, the same in every page that shows it."""
        unit = shown.unit
        parts = [shown.name, unit.layer or "class", unit.channel, *(unit.position or ())]
        address = base = re.sub(r"[^\w.]+", "-", "-".join(map(str, parts))).strip("-")
        number = 1
        while address in self._ids:
            number += 1
            address = f"{base}-{number}"
        self._ids.add(address)
        return address


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
    writer = Writer(max(1, len(shown)))
    for each in shown:
        writer.add(each)
    return writer.page(facts)


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("attribkit.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["strengths"] = _strengths
    environment.filters["rule_of"] = rule_of
    environment.filters["scale"] = scale
    environment.filters["enlarged"] = _enlarged
    return environment


def _encoded(html: str) -> bytes:
    # A name that is not UTF-8 has halves of surrogate pairs, of which there are no bytes.
    return html.encode("utf-8", "backslashreplace")


def _strengths(stored: StoredMap) -> dict[str, tuple[float, str]]:
    """The full strength of each view, as a number and in words."""
    return {view: (strength, scale(strength)) for view, strength in stored.strengths.items()}


def _enlarged(width: int, height: int) -> tuple[int, int]:
    """The size at which a window is first seen: enlarged by whole pixels, to at most the width of a card."""
    times = max(1, 224 // max(width, height))
    return width * times, height * times


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
