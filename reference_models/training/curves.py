"""A page with the curves of a training run: loss, error and rate, one file that needs no network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from attribkit.files import write_whole
from attribkit.reference_models.training import run

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 220, 48, 24
_CURVES = (
    ("loss", "training loss", "{:.3f}"),
    ("test_error", "test error, %", "{:.2f}"),
    ("rate", "images per second", "{:,.0f}"),
)


@dataclass(frozen=True)
class Curve:
    """A metric over epochs, as a line in the units of its picture."""

    title: str
    points: str
    ticks: tuple[tuple[float, str], ...]
    last: str


def write_page(folder: Path) -> Path:
    """Write `report.html` into the run's folder and give its path."""
    from jinja2 import Environment, PackageLoader

    described, epochs = run.described(folder), run.metrics(folder)
    attempt = epochs[-1]["attempt"]
    last = [line for line in epochs if line["attempt"] == attempt]
    abandoned = sorted({line["attempt"] for line in epochs} - {attempt})
    environment = Environment(loader=PackageLoader("attribkit.reference_models.training", "."), autoescape=True)
    page = environment.get_template("curves.html").render(
        run=described,
        curves=[curve(title, [line[key] for line in last], form) for key, title, form in _CURVES],
        epochs=last,
        abandoned=len(abandoned),
        box=(_WIDTH, _HEIGHT),
        left=_LEFT,
    )
    path = folder / "report.html"
    write_whole(path, page.encode())
    return path


def curve(title: str, values: list[float], form: str) -> Curve:
    finite = [value for value in values if math.isfinite(value)]
    top = max(finite, default=1.0) or 1.0

    def height(value: float) -> float:
        return round((_HEIGHT - _BOTTOM) * (1 - value / top) + 4, 1)

    across = (_WIDTH - _LEFT - 8) / max(1, len(values) - 1)
    points = " ".join(
        f"{_LEFT + index * across:.1f},{height(value)}" for index, value in enumerate(values) if math.isfinite(value)
    )
    ticks = tuple((height(top * share), form.format(top * share)) for share in (0, 0.25, 0.5, 0.75, 1))
    return Curve(title, points, ticks, form.format(values[-1]))
