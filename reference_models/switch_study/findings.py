"""What the study on switches found, for readers: a page of one results.json."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from attribkit.reference_models.switch_study.plots import plots
from attribkit.reference_models.switch_study.wording import Json, filled
from attribkit.report.stored import data_uri


def page(results: Json, folder: Path) -> str:
    """One file that needs no network; the pictures are read from the folder of results.json."""
    networks = results["networks"]
    return filled(
        "findings.html",
        **results,
        plots={name: [Markup(plot) for plot in plots(name, network).values()] for name, network in networks.items()},
        shown=[
            (data_uri("png", (folder / each["file"]).read_bytes()), each["caption"]) for each in results["pictures"]
        ],
    )
