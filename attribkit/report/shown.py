"""What is shown: one unit of one image, with its maps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.errors import BadValue
from attribkit.report.pictures import Picture
from attribkit.units import Unit

Box = tuple[int, int, int, int]
BLIND_TO_CLASSES = ("guided", "deconvnet")
"""Rules whose maps of two classes are nearly the same; docs/metrics.md has figures."""


def caution(unit: Unit, methods: Iterable[str]) -> str | None:
    """A warning where maps promise more than they show: maps of a class, by rules that hardly depend on it.

    Args:
        unit: What was explained.
        methods: The rules that explained it.

    Returns:
        The warning, or None where there is nothing to warn of.
    """
    blind = list(dict.fromkeys(rule for name in methods for rule in BLIND_TO_CLASSES if name.startswith(rule)))
    if unit.layer is not None or not blind:
        return None
    return f"{' and '.join(blind)} maps hardly depend on the class: docs/metrics.md has figures"


def rule_of(column: str) -> str:
    """The method of a column: "guided" of "guided, own switches"."""
    return column.partition(", ")[0]


def short(label: str) -> str:
    """A class by its first name: "lion" of "lion, king of beasts, Panthera leo"."""
    return label.partition(",")[0]


@dataclass(frozen=True, eq=False)
class Shown:
    """One unit of one image, explained by one or several methods.

    Args:
        name: The image's name.
        picture: What the network saw, H x W x 3 bytes.
        maps: For each method a map, C x H x W with the height and width of the picture. A method that is shown in
            several ways has a column for each: "guided, own switches".
        unit: What the maps explain.
        label: What the network takes the image for, or what the unit is: "tiger cat, 38%".
        sites: For each method a sentence about its sites.
        gallery: Where a page shows what the unit's channel looks for, from where this one is; empty where none does.
    """

    name: str
    picture: Picture
    maps: Mapping[str, npt.NDArray[Any]]
    unit: Unit
    label: str
    sites: Mapping[str, str]
    gallery: str = ""

    def __post_init__(self) -> None:
        if not self.maps:
            raise BadValue(f"{self.name}: there are no maps to show")
        for method, values in self.maps.items():
            if values.ndim != 3 or values.shape[1:] != self.picture.shape[:2]:
                raise BadValue(
                    f"{self.name}: the map of {method} is {values.shape}, the picture {self.picture.shape}; "
                    "a map is C x H x W with the height and width of its picture"
                )

    @property
    def box(self) -> Box | None:
        """Where the unit looks, as far as that lies in the picture: top, left, bottom, right."""
        if self.unit.box is None or len(self.unit.box) != 4:
            return None
        height, width = self.picture.shape[:2]
        top, left, bottom, right = self.unit.box
        top, left, bottom, right = max(top, 0), max(left, 0), min(bottom, height), min(right, width)
        return (top, left, bottom, right) if top < bottom and left < right else None

    @property
    def part(self) -> Box | None:
        """The box of a unit that sees less than the whole picture."""
        return self.box if self.box != (0, 0, *self.picture.shape[:2]) else None

    @cached_property
    def window(self) -> Box:
        """What is shown large: the part that the unit sees, unless a map has something outside of it."""
        whole = (0, 0, *self.picture.shape[:2])
        if self.part is None:
            return whole
        top, left, bottom, right = self.part
        inside = all(
            np.count_nonzero(values) == np.count_nonzero(values[:, top:bottom, left:right])
            for values in self.maps.values()
        )
        return self.part if inside else whole

    @property
    def class_name(self) -> str:
        """What its label begins with: the class that it explains, or that the network finds likeliest."""
        return re.sub(r" \d+%$", "", short(self.label))

    @property
    def target(self) -> str:
        """The unit in words: "conv9, channel 41 at 3,4" or "output 282"."""
        if self.unit.layer is None:
            return f"output {self.unit.channel}"
        place = f" at {self.unit.where}" if self.unit.position else ", summed over all positions"
        return f"{self.unit.layer}, channel {self.unit.channel}{place}"

    @property
    def summary(self) -> str:
        """The unit, how active it is, and its label, in one line; of a class the first of its names."""
        label = short(self.label) if self.unit.layer is None else self.label
        return "; ".join(filter(None, [self.target, f"activation {self.unit.activation:.3g}", label]))

    @property
    def caution(self) -> str | None:
        """What a reader should know before believing these maps; None where that is nothing special."""
        return caution(self.unit, self.maps)

    @property
    def reports(self) -> dict[str, list[str]]:
        """The sentences about sites, each with the rules that it holds for."""
        reports: dict[str, list[str]] = {}
        for method, sentence in self.sites.items():
            reports.setdefault(sentence, []).append(method)
        if len(reports) == 1:  # then the ways of a method need no names
            reports = {report: list(dict.fromkeys(map(rule_of, columns))) for report, columns in reports.items()}
        return reports
