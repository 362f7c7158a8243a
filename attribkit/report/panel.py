"""A panel: what the unit sees and a map of it for each method, large; the whole picture with its box, small."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from attribkit.report import pictures
from attribkit.report.layout import Layout, Outline, drawn
from attribkit.report.pictures import Picture
from attribkit.report.sheet import Cell, Row, sheet
from attribkit.report.shown import Shown, rule_of

_SIDE, _THUMBNAIL = 336, 112
_BOX_INNER, _BOX_OUTER = (255, 196, 0), (20, 20, 20)

COLOURS = {
    "classic": "Mid-grey is zero, as in the papers; colours are those in which a pixel counts.",
    "signed": "Red is above zero, blue below, white is zero.",
    "absolute": "Black is zero, bright is large of either sign.",
    "positive": "What is above zero; black is zero or below.",
}


def layout(
    shown: Shown, view: str = "classic", strengths: Mapping[str, float] | None = None, foot: Sequence[str] = ()
) -> Layout:
    """A panel as texts and images, of which `attribkit.report.layout` makes a picture or an SVG.

    What the unit sees stands beside the maps of it, all enlarged by one whole number, and below it the whole picture
    with the unit's box. Below each map are its colours with their numbers. A method that is shown in several ways has
    a row of its own, with the ways side by side.

    Args:
        shown: The unit and its maps.
        view: How to draw maps, as for `attribkit.report.pictures.picture`.
        strengths: The full strength of each method, such as `common_strengths` of all that is shown together. Without
            it each map has its own scale.
        foot: Lines to stand at the end.

    Returns:
        What stands where.
    """
    strengths = strengths or common_strengths([shown], view)
    top, left, bottom, right = shown.window
    factor = max(1, _SIDE // max(bottom - top, right - left))
    maps = {
        name: _map(
            name, pictures.picture(values, view, strengths[name])[top:bottom, left:right], factor, view, strength
        )
        for name, values in shown.maps.items()
        for strength in [strengths[name]]
    }
    first = _seen(shown, factor)
    several_ways = len(set(map(rule_of, shown.maps))) < len(shown.maps)
    rows: list[Row] = _by_rule(first, maps) if several_ways else [[first, *maps.values()]]
    reports = (f"{', '.join(methods)}: {report}" for report, methods in shown.reports.items())
    return sheet(shown.name, shown.summary, rows, [COLOURS[view], *reports, *foot])


def panel(
    shown: Shown, view: str = "classic", strengths: Mapping[str, float] | None = None, foot: Sequence[str] = ()
) -> Picture:
    """A panel as a picture: `layout`, drawn.

    Args:
        shown: The unit and its maps.
        view: How to draw maps.
        strengths: The full strength of each method.
        foot: Lines to stand at the end.

    Returns:
        H x W x 3 bytes.
    """
    return drawn(layout(shown, view, strengths, foot))


def _seen(shown: Shown, factor: int) -> Cell:
    """What the unit sees, and where that is."""
    top, left, bottom, right = shown.window
    name = "what the unit sees" if shown.part == shown.window else "picture"
    size = f"{right - left} x {bottom - top} pixels" + (f", x{factor}" if factor > 1 else "")
    image = shown.picture[top:bottom, left:right]
    if shown.part is None:
        return Cell([name, size], image, factor)
    return Cell([name, size], image, factor, below=_small(shown.picture), boxes=_boxes(shown))


def _map(name: str, image: Picture, factor: int, view: str, strength: float) -> Cell:
    if not strength:
        return Cell([*name.split(", "), scale(strength)], image, factor)
    both = view in ("classic", "signed")
    shades = np.linspace(-1 if both else 0, 1, image.shape[1] * factor)
    numbers = (f"-{strength:.2g}", "0", f"{strength:.2g}") if both else ("0", f"{strength:.2g}")
    return Cell(name.split(", "), image, factor, pictures.picture(shades[None, None], view, 1.0), numbers)


def _by_rule(first: Cell, maps: Mapping[str, Cell]) -> list[Row]:
    """A row per rule; what the unit sees stands before the first."""
    rows: dict[str, list[Cell]] = {}
    for name, cell in maps.items():
        rows.setdefault(rule_of(name), [Cell([]) if rows else first]).append(cell)
    return list(rows.values())


def _times(picture: Picture) -> float:
    return _THUMBNAIL / max(picture.shape[:2])


def _small(picture: Picture) -> Picture:
    import cv2

    height, width = (max(1, round(side * _times(picture))) for side in picture.shape[:2])
    way = cv2.INTER_AREA if _times(picture) < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, (width, height), interpolation=way), np.uint8)


def _boxes(shown: Shown) -> tuple[Outline, ...]:
    """The lines around what the unit sees, which hide none of it."""
    assert shown.part is not None  # or there is no box
    top, left, bottom, right = (round(edge * _times(shown.picture)) for edge in shown.part)
    lines = ((0, _BOX_INNER), (1, _BOX_INNER), (2, _BOX_OUTER))
    return tuple(Outline(left, top, right - left, bottom - top, ink, away) for away, ink in lines)


def common_strengths(shown: Iterable[Shown], view: str = "classic") -> dict[str, float]:
    """Strengths that put the maps of each method on one scale.

    Args:
        shown: All that is shown together.
        view: How the maps will be drawn.

    Returns:
        For each method the largest full strength among its maps.
    """
    strengths: dict[str, float] = {}
    for each in shown:
        for method, values in each.maps.items():
            strengths[method] = max(strengths.get(method, 0.0), pictures.full_strength(values, view))
    return strengths


def scale(strength: float) -> str:
    return f"full strength {strength:.2g}" if strength else "zero everywhere"
