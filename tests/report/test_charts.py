"""Charts: values stand where they should, as SVG and as a picture, and the same ones give the same bytes."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from attribkit.report import charts
from attribkit.report.charts import Series
from attribkit.report.marks import PALETTE, drawn, svg


def lines(text: str) -> list[list[tuple[float, float]]]:
    """The points of the coloured lines of an SVG."""
    found = re.findall(r'<polyline points="([^"]+)" fill="none" stroke="rgb', text)
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in points.split())] for points in found]


def test_curves_are_to_scale() -> None:
    """Equal steps across and up; the largest value is the top, NaN is left out."""
    series = [Series("a", np.array([0.0, np.nan, 1.0, 2.0])), Series("b", np.zeros(4), level=1.0)]
    text = svg(charts.curves("title", "across", [0, 1, 2, 4], series, 2.0), "label")
    ElementTree.fromstring(text)
    (a, b, level) = lines(text)
    assert len(a) == 3
    (x0, y0), (x2, y2), (x4, y4) = a
    assert x4 - x2 == pytest.approx(x2 - x0, abs=0.2)
    assert y0 - y2 == pytest.approx(y2 - y4, abs=0.2)
    assert {y for _, y in b} == {y0}
    assert {y for _, y in level} == {y2}


def test_rows_are_to_scale() -> None:
    """A dot for each value, between its bounds."""
    series = [Series("a", np.array([0.5, np.nan]), np.array([0.25, np.nan]), np.array([0.75, np.nan]))]
    text = svg(charts.rows("title", "share", ["one", "<two>"], series, 1.0), "label")
    ElementTree.fromstring(text)
    ((left, _), (right, _)) = lines(text)[0]
    (dot,) = re.findall(r'<circle cx="([\d.]+)"', text)
    assert float(dot) == pytest.approx((left + right) / 2, abs=0.1)
    assert "&lt;two&gt;" in text


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-25, 25, [-20, -10, 0, 10, 20]), (0, 0.03, [0, 0.01, 0.02, 0.03])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert charts.ticks(low, high) == expected


def test_a_picture_shows_what_the_svg_does() -> None:
    """Lines, bands, dots and words in their colours, where they are."""
    series = [Series("a", np.array([1.0, 1.0]), np.array([0.5, 0.5]), np.array([1.5, 1.5]), level=1.8)]
    marks = charts.curves("title", "across", [0, 1], series, 2.0)
    picture = drawn(marks)
    (points, _) = lines(svg(marks, "label"))
    middle = [round(1.5 * number) for number in ((points[0][0] + points[1][0]) / 2, points[0][1])]
    assert np.abs(picture[middle[1], middle[0]].astype(int) - PALETTE[0]).max() < 60
    assert (picture == drawn(marks)).all()
    below = picture[middle[1] + 15, middle[0]]
    assert (below < 255).any()
    assert (below > 150).all()
