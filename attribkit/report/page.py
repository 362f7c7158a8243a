"""A page: results to explore in a browser, in one file that needs no network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence

from attribkit import render
from attribkit.report.panel import panel
from attribkit.report.shown import Shown


def page(shown: Sequence[Shown], facts: Mapping[str, str]) -> bytes:
    """The page as the bytes of an HTML file; the same results give the same bytes."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("attribkit.report", "."), autoescape=True)
    panels = [b64encode(render.encode_png(panel(one))).decode() for one in shown]
    return environment.get_template("page.html").render(shown=shown, panels=panels, facts=facts).encode()
