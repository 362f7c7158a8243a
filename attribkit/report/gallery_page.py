"""The page of a gallery: one row per channel, and sheets of tiles beside it that are loaded once they are seen.

index.html          the page; it opens from a disk, without a server
index.js            what there is to know of each channel, as JSON in a script
sheets/000-*.webp   patches and maps of sixteen channels
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from attribkit.report.page import METHODS, digest, source

GROUP = 16
"""How many channels share a sheet."""


def page(index: Mapping[str, Any]) -> bytes:
    """The page as the bytes of an HTML file.

    Args:
        index: What `index.js` holds, of which the page shows some in its heading.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("attribkit.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    html = environment.get_template("gallery.html").render(
        index=index,
        words=METHODS.get(index["method"]),
        style=source("gallery.css"),
        script=source("gallery.js"),
        digest=digest,
    )
    return html.encode("utf-8", "backslashreplace")


def script_of(index: Mapping[str, Any]) -> bytes:
    """`index.js`: a page that is a file may load scripts, and no JSON."""
    text = json.dumps(index, ensure_ascii=True, separators=(",", ":"))
    return f"window.GALLERY = {text};\n".encode()
