"""A page of an evolution: curves of how layers settle, and a film strip of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attribkit.report import mosaic, still_page
from attribkit.report.page import source
from attribkit.report.pictures import Picture
from attribkit.report.stored import data_uri
from attribkit.studies.evolution import Evolution, Film
from attribkit.studies.evolution_picture import MEASURES, Tiles, described, in_words, measured, summary

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 320, 190, 34, 12, 10, 24


@dataclass(frozen=True)
class Line:
    """A layer in a chart."""

    layer: str
    colour: str
    dashes: str
    dots: Sequence[tuple[float, float]]

    @property
    def points(self) -> str:
        return " ".join(f"{x},{y}" for x, y in self.dots)


@dataclass(frozen=True)
class Chart:
    """One measure of all layers, in the units of its picture."""

    name: str
    words: str
    ticks: Sequence[tuple[float, str]]
    places: Sequence[tuple[float, str]]
    lines: Sequence[Line]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT


def page(evolution: Evolution, facts: Mapping[str, str]) -> bytes:
    """The page as the bytes of an HTML file; the same evolution gives the same bytes.

    Args:
        evolution: What to show.
        facts: The command, the model, versions, as they come at the foot.
    """
    films = list(evolution.films.values())
    return still_page.page(
        "evolution.html",
        source("evolution.css"),
        described=described(evolution),
        numbers=evolution.numbers,
        charts=[_chart(measure, films, evolution.numbers) for measure in MEASURES],
        films=[_film(film, evolution) for film in films],
        facts=facts,
        unreadable=[f"{evolution.names[number]}: {why}" for number, why in evolution.unreadable],
    )


def _chart(measure: str, films: Sequence[Film], numbers: Sequence[int]) -> Chart:
    held = [measured(film)[measure] for film in films]
    low = min(0.0, *(value for values in held for value in values if value is not None), 0.0)
    across = (_WIDTH - _LEFT - _RIGHT) / (len(numbers) - 1)

    def place(column: int) -> float:
        return round(_LEFT + column * across, 1)

    def height(value: float) -> float:
        return round(_TOP + (1 - value) / (1 - low) * (_HEIGHT - _TOP - _BOTTOM), 1)

    lines = [
        Line(
            film.layer,
            _COLOURS[number % len(_COLOURS)],
            _DASHES[number % len(_DASHES)],
            [(place(column), height(value)) for column, value in enumerate(values) if value is not None],
        )
        for number, (film, values) in enumerate(zip(films, held, strict=True))
    ]
    ticks = [(height(value), f"{value:g}") for value in (0, 0.5, 1)]
    return Chart(*MEASURES[measure], ticks, [(place(i), str(number)) for i, number in enumerate(numbers)], lines)


def _film(film: Film, evolution: Evolution) -> dict[str, Any]:
    look = Tiles.of(film)
    quality = mosaic.quality_of(look.stored, 2 * film.image.size)
    return {
        "layer": film.layer,
        "summary": summary(film),
        "unsure": ", ".join(f"channel {channel} at {number}" for number, channel in film.unsure),
        "measures": [
            (MEASURES[name][0], [in_words(value) for value in values]) for name, values in measured(film).items()
        ],
        "side": look.drawn,
        "rendering": "pixels" if look.drawn > look.stored else "",
        "rows": [_row(film, row, look, quality, evolution) for row in range(len(film.channels))],
    }


def _row(film: Film, row: int, look: Tiles, quality: int, evolution: Evolution) -> dict[str, Any]:
    since = film.settled(row)
    late = since == len(evolution.numbers) - 1
    words = "another image at the last one" if late else f"the same image from {evolution.numbers[since]} on"
    cells = [
        {"number": number, "changed": bool(film.changed[row, column])}
        | _cell(film, row, column, look, quality, evolution)
        for column, number in enumerate(evolution.numbers)
    ]
    return {"channel": int(film.channels[row]), "words": words, "cells": cells}


def _cell(film: Film, row: int, column: int, look: Tiles, quality: int, evolution: Evolution) -> dict[str, Any]:
    pair, image = look.pair(film.tiles[row][column]), int(film.image[row, column])
    if pair is None:
        return {"map": "", "patch": "", "name": "", "value": ""}
    label = f", {evolution.labels[image]}" if evolution.labels is not None else ""
    return {
        "map": _stored(pair[0], quality),
        "patch": _stored(pair[1], quality),
        "name": f"{evolution.names[image]}{label}",
        "value": f"{film.value[row, column]:.4g}",
    }


def _stored(tile: Picture, quality: int) -> str:
    return data_uri("webp", mosaic.encoded(tile, quality))
