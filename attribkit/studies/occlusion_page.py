"""A page of covered images, in one file that needs no network, no other file and no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attribkit.errors import BadValue
from attribkit.report import pictures, still_page
from attribkit.report.stored import data_uri
from attribkit.studies.occlusion_picture import Covered


def page(covered: Sequence[Covered], facts: Mapping[str, str]) -> bytes:
    """The page as the bytes of an HTML file; the same results give the same bytes.

    Args:
        covered: One or several images.
        facts: The command, the model, versions, as they come at the foot.
    """
    if not covered:
        raise BadValue("there is nothing to show on a page")
    return still_page.page("occlusion.html", entries=[_entry(each) for each in covered], facts=facts)


def _entry(covered: Covered) -> dict[str, Any]:
    result = covered.occlusion
    shown = {"picture": (covered.picture, "as the network saw it"), **covered.maps()}
    return {
        "name": covered.name,
        "summary": covered.summary,
        "width": covered.picture.shape[1],
        "height": covered.picture.shape[0],
        "images": [
            (name, data_uri("png", pictures.encode_png(image)), words) for name, (image, words) in shown.items()
        ],
        "legend": covered.legend,
        "facts": {
            "window": " x ".join(map(str, result.window)),
            "stride": " x ".join(map(str, result.stride)),
            "edge": result.edge,
            "layer": f"{result.layer}, channel {result.channel[0]}" if result.layer else "none with a map",
            "computed": result.computed,
        },
    }
