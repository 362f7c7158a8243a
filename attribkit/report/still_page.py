"""Pages without a script: a template of this folder, filled in, as one file that needs no network and no other file."""

from __future__ import annotations

from typing import Any

from attribkit.report.page import digest, source


def page(template: str, style: str = "", **values: Any) -> bytes:
    """The page as the bytes of an HTML file; the same values give the same bytes.

    Args:
        template: Its name in this folder. It finds `style` and `digest`, by which its security policy knows the style.
        style: What the page needs beyond the style that all pages share.
        values: What else the template shows.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("attribkit.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    style = source("page.css") + source("still.css") + style
    html = environment.get_template(template).render(style=style, digest=digest(style), **values)
    # A name that is not UTF-8 has halves of surrogate pairs, of which there are no bytes.
    return html.encode("utf-8", "backslashreplace")
