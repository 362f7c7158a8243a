"""A panel: the picture with the box of the unit and a map for each method; below, what the unit sees, enlarged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from attribkit.report import pictures
from attribkit.report.pictures import Picture
from attribkit.report.sheet import RIM, Row, rimmed, sheet
from attribkit.report.shown import Box, Shown, rule_of

_SIDE = 224
_BOX_INNER, _BOX_OUTER = (255, 196, 0), (20, 20, 20)

COLOURS = {
    "classic": "Mid-grey is zero, as in the papers; colours are those in which a pixel counts.",
    "signed": "Red is above zero, blue below, white is zero.",
    "absolute": "Black is zero, bright is large of either sign.",
    "positive": "What is above zero; black is zero or below.",
}


def panel(
    shown: Shown, view: str = "classic", strengths: Mapping[str, float] | None = None, foot: Sequence[str] = ()
) -> Picture:
    """The picture with the unit's box, then the map of each method, each under its name and its full strength.

    Where the unit sees only part of the picture, a second row shows that part of each, enlarged by whole pixels. A
    method that is shown in several ways has a row of its own, with the ways side by side.

    Args:
        shown: The unit and its maps.
        view: How to draw maps, as for `attribkit.report.pictures.picture`.
        strengths: The full strength of each method, such as `common_strengths` of all that is shown together. Without
            it each map has its own scale.
        foot: Lines to stand at the end.

    Returns:
        H x W x 3 bytes.
    """
    strengths = strengths or common_strengths([shown], view)
    maps = [pictures.picture(values, view, strengths[method]) for method, values in shown.maps.items()]
    several_ways = len(set(map(rule_of, shown.maps))) < len(shown.maps)
    rows = (_compared if several_ways else _in_a_row)(shown, maps, strengths)
    reports = (f"{', '.join(methods)}: {report}" for report, methods in shown.reports.items())
    return sheet(shown.name, shown.summary, rows, [COLOURS[view], *reports, *foot])


def _in_a_row(shown: Shown, maps: list[Picture], strengths: Mapping[str, float]) -> list[Row]:
    """The maps beside the picture, and below them the part that the unit sees."""
    factor = _factor(shown.picture)
    captions = [["picture", _size(shown.picture)]]
    captions += [[method, scale(strengths[method])] for method in shown.maps]
    images = [_boxed(shown, factor), *(rimmed(pictures.enlarged(each, factor)) for each in maps)]
    closer = [_closer(shown.part, [shown.picture, *maps])] if shown.part else []
    return [Row(captions, images), *closer]


def _compared(shown: Shown, maps: list[Picture], strengths: Mapping[str, float]) -> list[Row]:
    """A row per rule, whose maps differ in how their signal passes max-pools; of the part that the unit sees only."""
    top, left, bottom, right = shown.part or (0, 0, *shown.picture.shape[:2])
    factor = _factor(shown.picture[top:bottom, left:right])
    tiles = [rimmed(pictures.enlarged(each[top:bottom, left:right], factor)) for each in (shown.picture, *maps)]
    whole = _boxed(shown, _factor(shown.picture))
    first = [(["picture", _size(shown.picture)], whole)]
    if shown.part:
        first.append((["what the unit sees", f"{bottom - top} x {right - left} pixels, x{factor}"], tiles[0]))
    by_rule: dict[str, list[tuple[list[str], Picture]]] = {}
    for name, tile in zip(shown.maps, tiles[1:], strict=True):
        by_rule.setdefault(rule_of(name), []).append(([*name.split(", "), scale(strengths[name])], tile))
    rows = []
    for columns in by_rule.values():
        caption, image = first.pop(0) if first else ([], np.full_like(tiles[0], 255))
        rows.append(Row([caption, *(words for words, _ in columns)], [image, *(tile for _, tile in columns)]))
    return rows


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


def _size(image: Picture) -> str:
    return f"{image.shape[1]} x {image.shape[0]} pixels"


def _factor(image: Picture) -> int:
    """How often a pixel is repeated so that small pictures come to about the size of large ones."""
    return max(1, _SIDE // max(image.shape[:2]))


def _closer(box: Box, images: list[Picture]) -> Row:
    """The part of each image that the unit sees, enlarged by a factor of its own."""
    top, left, bottom, right = box
    crops = [image[top:bottom, left:right] for image in images]
    factor = _factor(crops[0])
    captions = [["what the unit sees", f"{_size(crops[0])}, x{factor}"], *([] for _ in crops[1:])]
    return Row(captions, [rimmed(pictures.enlarged(crop, factor)) for crop in crops])


def _boxed(shown: Shown, factor: int) -> Picture:
    """The picture with the unit's box, whose lines lie outside of what the unit sees and hide none of it."""
    image = rimmed(pictures.enlarged(shown.picture, factor))
    if shown.part:
        for away, colour in ((1, _BOX_INNER), (2, _BOX_INNER), (3, _BOX_OUTER)):
            _outline(image, [RIM + factor * edge for edge in shown.part], away, colour)
    return image


def _outline(image: Picture, box: list[int], away: int, colour: tuple[int, int, int]) -> None:
    top, left, bottom, right = np.add(box, [-away, -away, away, away])
    for line in (np.s_[top, left:right], np.s_[bottom - 1, left:right]):
        image[line] = colour
    for line in (np.s_[top:bottom, left], np.s_[top:bottom, right - 1]):
        image[line] = colour
