"""docs/validation.md: what the study on switches found, put between two lines of the document, and pages beside it.

python benchmarks/validation_page.py docs/validation.md OUT [OUT ...]

Each OUT is a folder in which `attribkit validate` left its results.json.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jinja2 import FileSystemLoader, Template

from attribkit.errors import BadValue
from attribkit.files import write_whole
from attribkit.reference_models.switch_study.plots import plots
from attribkit.reference_models.switch_study.wording import RULES, Json, environment, title

BEGIN, END = "<!-- findings -->", "<!-- /findings -->"


def write(document: Path, folders: Sequence[Path]) -> None:
    """Put what results.json of the folders say between two lines of the document, and pages and images beside it.

    Args:
        document: The page, which has both lines.
        folders: Those in which `attribkit validate` left its results.
    """
    text = document.read_bytes().decode()
    if [line for line in text.splitlines() if line in (BEGIN, END)] != [BEGIN, END]:
        raise BadValue(f"{document} needs the line {BEGIN} and after it the line {END}, each of them once")
    markdown, beside = section([(json.loads((folder / "results.json").read_bytes()), folder) for folder in folders])
    around = re.compile(f"^{BEGIN}$.*^{END}$", re.MULTILINE | re.DOTALL)
    new = around.sub(lambda _: f"{BEGIN}\n\n{markdown}\n{END}", text)
    for name, data in beside.items():
        path = document.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    write_whole(document, new.encode())


def section(runs: Sequence[tuple[Json, Path]]) -> tuple[str, dict[str, bytes]]:
    """Make the section of the page, and what it links to.

    Args:
        runs: Each results.json with its folder.

    Returns:
        Markdown; and a page per network, the measurements and the images, by their paths.
    """
    networks = _without_twins((name, network) for results, _ in runs for name, network in results["networks"].items())
    pictures = [
        Shown(_image(each["file"].rpartition("/")[2]), _titled(each), each["network"], folder / each["file"])
        for results, folder in runs
        for each in results["pictures"]
    ]
    files = {name: _files(name) for name in networks}
    beside = [(f"images/{picture.name}", picture.file.read_bytes()) for picture in pictures]
    for name, network in networks.items():
        beside += [(f"images/{files[name][kind]}", plot.encode()) for kind, plot in plots(name, network).items()]
        own = [picture for picture in pictures if picture.network == name]
        page = _template("validation_network.md").render(name=name, network=network, files=files[name], shown=own)
        beside.append((f"validation/{files[name]['page']}", page.encode()))
    beside.append(("validation/measurements.csv", _measurements(networks)))
    markdown = _template("validation_page.md").render(
        runs=[results | {"titles": [title(name) for name in results["networks"]]} for results, _ in runs],
        networks=networks,
        primary_margin=runs[0][0]["margins"].get(runs[0][0]["primary"]["metric"]),
        primary_mean=primary_mean,
        files=files,
        shown=sorted(pictures, key=_first_shown),
    )
    return markdown, _without_twins(beside)


def _titled(one: Json) -> str:
    """A caption that names its network as the page does."""
    caption: str = one["caption"].removeprefix(f"{one['network']}. ")
    return caption if caption == one["caption"] else f"{title(one['network'])}. {caption}"


def _first_shown(picture: Shown) -> tuple[bool, bool]:
    """The rules side by side come first, of the network on ImageNet that was trained with pools."""
    return "side-by-side-class" not in picture.name, "squeezenet" not in picture.network


def primary_mean(network: Json, weights: str) -> float | None:
    """How often guided backprop's map is found without switches, in the primary outcome."""
    wanted = [network["primary"][key] for key in ("metric", "unit")]
    rows = [row for row in network[weights]["means"] if [row["metric"], row["unit"]] == wanted]
    mean: float | None = rows[0]["means"][network["primary"]["without"]]["guided"]["mean"] if rows else None
    return mean


@dataclass(frozen=True)
class Shown:
    """A picture: its name beside the page, what it shows, of which network, and where it is now."""

    name: str
    caption: str
    network: str
    file: Path


def _template(name: str) -> Template:
    return environment().overlay(loader=FileSystemLoader(Path(__file__).parent)).get_template(name)


def _files(network: str) -> dict[str, str]:
    """The names of a network's page and plots."""
    plain = re.sub(r"[^\w.-]+", "-", network)
    return {"page": f"{plain}.md"} | {kind: _image(f"{kind}-{network}.svg") for kind in ("losses", "cascade")}


def _measurements(networks: Mapping[str, Json]) -> bytes:
    """Every comparison as a line of a table for machines."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    intervals = [*(f"{rule} loses" for rule in RULES), "difference", "guided above deconvnet with switches"]
    ends = [f"{name}{end}" for name in intervals for end in ("", " low", " high")]
    writer.writerow(["network", "metric", "unit", "without", "margin", "images", "verdict", *ends])
    for name, network in networks.items():
        for each in network["trained"]["measurements"]:
            found = [*(each["losses"][rule] for rule in RULES), each["difference"], each["better"]]
            about = [each[key] for key in ("metric", "unit", "without", "margin")]
            numbers = [one[end] for one in found for end in ("mean", "low", "high")]
            rounded = ["" if number is None else f"{number:.4f}" for number in numbers]
            writer.writerow([name, *about, each["better"]["images"], each["verdict"], *rounded])
    return text.getvalue().encode()


def _without_twins(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    by_name: dict[str, Any] = {}
    for name, value in pairs:
        if name in by_name:
            raise BadValue(f"two of the results have the name {name}")
        by_name[name] = value
    return by_name


def _image(name: str) -> str:
    return "validation-" + re.sub(r"[^\w.-]+", "-", unquote(name))


def main(words: Sequence[str]) -> None:
    if len(words) < 2:
        sys.exit("usage: python benchmarks/validation_page.py DOCUMENT OUT [OUT ...]")
    try:
        write(Path(words[0]), [Path(folder) for folder in words[1:]])
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
