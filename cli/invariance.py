"""`attribkit invariance`: how do features and the answer move when the picture does?"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attribkit.cli import options, studying
from attribkit.cli.pictures import GivenImage, given_images
from attribkit.errors import BadValue

if TYPE_CHECKING:
    from attribkit import Correspondence, Invariance
    from attribkit.adapters.images import RGB
    from attribkit.adapters.source import LoadedModel

Boxes = dict[GivenImage, dict[str, tuple[int, int, int, int]]]
COLUMNS = ("image", "part", "x0", "y0", "x1", "y1")


@click.command("invariance")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@options.model
@options.weights
@studying.layers
@click.option("--class", "target", metavar="NAME|N", help="Whose probability.  [default: each picture's predicted one]")
@click.option(
    "--parts",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.csv",
    help="Boxes of the same parts in several images, by image,part,x0,y0,x1,y1, for their correspondence.",
)
@options.size
@options.out
@options.formats("html,png", studying.FORMATS)
@options.device
@options.as_json
@options.silent
@options.debug
def command(
    images: tuple[str, ...],
    model: str,
    weights: str,
    layers: str | None,
    target: str | None,
    parts: Path | None,
    size: int | None,
    out: Path,
    formats: list[str],
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Shift, scale, turn and flip pictures: how far do features and the answer go?

    As in figure 5 of Zeiler & Fergus 2013: the distance of the features of some layers from those of the picture as it
    is, and the probability of its class. With --parts, the same part is covered in several images, to see whether it is
    one thing to the network. What is found is kept in OUT/parts, so that a run that was stopped goes on where it was.

    \b
    attribkit invariance photos/ --model torchvision:squeezenet1_1 --layers features.0,features.12
    """
    given = _Given(given_images(images), quiet or as_json)
    boxes = {} if parts is None else boxes_of(parts, given.images)
    loaded = options.loaded(model, weights, device)
    asked = {"layers": studying.named(layers), "size": size}
    result = _moved(given, loaded, asked | {"target": _class(target), "out": out})
    beside = _covered(boxes, given, loaded, asked) if boxes else None
    files = _files(out, formats, options.facts(loaded), result, beside)
    if as_json:
        document = {"model": loaded.name, **as_data(result, beside), "failed": given.failed, "files": files}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif not quiet:
        click.echo("\n".join([*in_words(result, beside), *files]))
    if given.failed:
        raise click.ClickException(given.errors)


def _class(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _moved(given: _Given, loaded: LoadedModel, asked: dict[str, Any]) -> Invariance:
    from attribkit import invariance

    try:
        result = invariance(loaded, given.read(), **asked)
    except BadValue:
        if given.failed and not given.names:
            raise click.ClickException(given.errors) from None
        raise
    return replace(result, names=tuple(image.name for image in given.names))


def _covered(boxes: Boxes, given: _Given, loaded: LoadedModel, asked: dict[str, Any]) -> Correspondence:
    from attribkit import correspondence
    from attribkit.cli.progress import tracked

    pictures = [image.read() for image in boxes]
    return correspondence(
        loaded, pictures, list(boxes.values()), watch=lambda items, name: tracked(items, name, given.quiet), **asked
    )


@dataclass
class _Given:
    """The pictures of the command, read as they are needed; those that cannot be are named at the end."""

    images: list[GivenImage]
    quiet: bool
    names: list[GivenImage] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    @property
    def errors(self) -> str:
        return "; ".join(each["error"] for each in self.failed)

    def read(self) -> Iterator[RGB]:
        from attribkit.adapters.images import ImageError
        from attribkit.cli.progress import tracked

        for image in tracked(self.images, "moving", self.quiet):
            try:
                picture = image.read()
            except ImageError as error:
                self.failed.append({"image": image.path, "error": str(error)})
                continue
            self.names.append(image)
            yield picture


def boxes_of(path: Path, images: Sequence[GivenImage]) -> Boxes:
    """The images that have boxes in a table, and the boxes of each."""
    boxes: Boxes = {}
    for number, row in enumerate(_rows(path), start=2):
        try:
            left, top, right, bottom = (int(row[column]) for column in COLUMNS[2:])
        except (ValueError, TypeError):
            raise BadValue(f"{path}, line {number}: x0, y0, x1 and y1 are whole numbers of pixels") from None
        of_image = boxes.setdefault(_image_of(row["image"], images, path), {})
        if row["part"] in of_image:
            raise BadValue(f"{path}, line {number}: {row['image']} has the part {row['part']!r} twice")
        of_image[row["part"]] = (left, top, right, bottom)
    if not boxes:
        raise BadValue(f"{path} has no boxes: give a line per image and part, {','.join(COLUMNS)}")
    return boxes


def _image_of(name: str, images: Sequence[GivenImage], path: Path) -> GivenImage:
    """The image that a table means, by its path or its file's name."""
    meant = [image for image in images if image.path == name] or [image for image in images if image.name == name]
    if len(meant) != 1:
        what = "which is none of the images" if not meant else f"which may be {' or '.join(i.path for i in meant)}"
        raise BadValue(
            f"{path} has boxes of {name!r}, {what}: give the image's name, or its path as on the command line"
        )
    return meant[0]


def _rows(path: Path) -> list[dict[str, str]]:
    from attribkit.errors import FileError

    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (table.fieldnames or ())]
            if missing:
                raise BadValue(f"{path} has no column {missing[0]!r}: its first line is {','.join(COLUMNS)}")
            return list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path} cannot be read: {error}") from error


def _files(
    out: Path, wanted: list[str], facts: dict[str, str], result: Invariance, parts: Correspondence | None
) -> list[str]:
    from attribkit.files import write_whole
    from attribkit.report.pictures import write_png
    from attribkit.studies.invariance_page import invariance_page
    from attribkit.studies.invariance_picture import picture

    files = studying.written(
        out / "invariance",
        wanted,
        {
            "html": lambda path: write_whole(path, invariance_page(result, parts, facts)),
            "png": lambda path: write_png(
                path, picture(f"{facts['model']}: features of moved pictures", result, parts), facts
            ),
            "npz": result.save,
            "csv": lambda path: write_whole(path, _csv(result)),
        },
    )
    if parts is None:
        return files
    of_parts = {"npz": parts.save, "csv": lambda path: write_whole(path, _csv_of_parts(parts))}
    return files + studying.written(out / "correspondence", wanted, of_parts)


def _csv(result: Invariance) -> bytes:
    """A line per image and move."""
    from attribkit.files import table

    head = ["image", "kind", "amount", *(f"distance {layer}" for layer in result.layers)]
    lines = (
        [name, kind, float(result.amounts[move]), *map(float, result.distance[image, :, move]),
         float(result.probability[image, move]), int(result.best[image, move]), float(result.border[image, move])]
        for image, name in enumerate(result.names)
        for move, kind in enumerate(result.kinds)
    )  # fmt: skip
    return table([[*head, "probability", "best", "border"], *lines])


def _csv_of_parts(result: Correspondence) -> bytes:
    """A line per part and layer, and one per draw of random boxes."""
    from attribkit.files import table

    lines = []
    for part, name in enumerate(result.parts):
        for layer, path in enumerate(result.layers):
            lines.append([name, path, "", float(result.distance[part, layer]), float(result.spread[part, layer])])
            lines += [[name, path, draw, float(each), ""] for draw, each in enumerate(result.control[part, layer])]
    return table([["part", "layer", "random draw", "distance", "deviation"], *lines])


def in_words(result: Invariance, parts: Correspondence | None) -> list[str]:
    """What was found, as lines."""
    from attribkit.studies.invariance_picture import part_lines, summary, table

    lines = [summary(result), "  mean distance over moves: " + ", ".join(result.layers)]
    lines += [f"  {name:15s} {'  '.join(cells[: len(result.layers)])}" for name, *cells in table(result)]
    for part, layer, own, spread, by_chance, below, _ in part_lines(parts) if parts is not None else ():
        lines.append(f"  {part} in {layer}: {own} (deviation {spread}), random boxes {by_chance}, {below} not above")
    return lines


def as_data(result: Invariance, parts: Correspondence | None) -> dict[str, Any]:
    """The same for a machine; NaN is null."""
    document: dict[str, Any] = {
        "layers": list(result.layers),
        "kinds": list(result.kinds),
        "amounts": result.amounts.tolist(),
        "images": [
            {
                "image": name,
                "target": result.target[i],
                "distance": _known(result.distance[i]),
                "other": _known(result.other[i]),
                "probability": _known(result.probability[i]),
                "best": result.best[i].tolist(),
                "border": result.border[i].tolist(),
            }
            for i, name in enumerate(result.names)
        ],
    }
    return document if parts is None else document | {"parts": _parts_as_data(parts)}


def _parts_as_data(parts: Correspondence) -> list[dict[str, Any]]:
    return [
        {
            "part": part,
            "pairs": int(parts.pairs[i]),
            "distance": _known(parts.distance[i]),
            "deviation": _known(parts.spread[i]),
            "random": _known(parts.control[i]),
        }
        for i, part in enumerate(parts.parts)
    ]


def _known(values: Any) -> Any:
    import numpy as np

    held = np.array(values, object)
    held[~np.isfinite(values)] = None
    return held.tolist()
