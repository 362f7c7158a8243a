"""A panel: the picture, the box of the unit, and a map for each method."""

from __future__ import annotations

from attribkit import render
from attribkit.render import Picture
from attribkit.report.shown import Shown


def panel(shown: Shown, view: str = "signed") -> Picture:
    """The picture with a map for each method, side by side."""
    maps = [render.picture(values, view) for values in shown.maps.values()]
    return render.panel([shown.picture, *maps], [shown.name, *shown.maps])
