"""`attribkit occlude`: what does the network say while a part of the picture is covered?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attribkit.cli import options
from attribkit.cli.pictures import GivenImage, given_images

if TYPE_CHECKING:
    from torch import Tensor

    from attribkit import Occlusion
    from attribkit.adapters.source import LoadedModel
    from attribkit.studies.occlusion_picture import Covered

FORMATS = ("png", "html", "npz", "csv")


@click.command("occlude")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@options.model
@options.weights
@click.option("--window", type=click.IntRange(min=1), default=32, show_default=True, help="Its side in pixels.")
@click.option("--stride", type=click.IntRange(min=1), default=8, show_default=True, help="How far windows are apart.")
@click.option(
    "--fill", default="grey", show_default=True, metavar="grey|mean|blur|noise|NUMBER", help="What covers the picture."
)
@click.option("--layer", "-l", shell_complete=options.layer_names, help="Of the feature map.  [default: the last map]")
@click.option("--class", "target", metavar="NAME|N", help="Whose probability.  [default: the predicted one]")
@click.option(
    "--edge",
    type=click.Choice(["inside", "overhang"]),
    default="inside",
    show_default=True,
    help="Whether the last windows end at the edge or overhang it, as Captum's do.",
)
@options.method
@options.size
@options.out
@options.formats("png", FORMATS)
@options.device
@options.as_json
@options.silent
@options.debug
def command(
    images: tuple[str, ...],
    model: str,
    weights: str,
    device: str | None,
    out: Path,
    formats: list[str],
    as_json: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Cover a window of each picture, everywhere in turn, and map what the network says.

    Three maps as in Zeiler & Fergus 2013: the probability of a class, the activity of a layer's strongest feature map,
    and the most probable class; beside them that feature map's projection. What is found is kept in OUT/parts, so that
    a run that was stopped goes on where it was.

    \b
    attribkit occlude cat.jpg --model torchvision:resnet18 --window 32 --stride 16
    """
    pictures = given_images(images)
    study = _Study(options.loaded(model, weights, device), out, formats, asked)
    study.run(pictures, as_json, quiet)


@dataclass
class _Study:
    """The question, and where the answers go."""

    loaded: LoadedModel
    out: Path
    formats: list[str]
    asked: dict[str, Any]

    def __post_init__(self) -> None:
        self.asked["fill"] = _fill(self.asked["fill"])
        if self.asked["target"] is not None:
            self.asked["target"] = _class(self.asked["target"], self.loaded)
        self.key = self._key()

    def run(self, pictures: list[GivenImage], as_json: bool, quiet: bool) -> None:
        """Every picture; one that cannot be read is named at the end, and the others go on."""
        from attribkit.adapters.images import ImageError
        from attribkit.cli.progress import tracked

        documents: list[dict[str, Any]] = []
        failed: list[dict[str, str]] = []
        shown: list[Covered] = []
        for source in tracked(pictures, "covering", quiet or as_json):
            try:
                covered = self.covered(source)
            except ImageError as error:
                failed.append({"image": source.path, "error": str(error)})
                continue
            shown += [covered] if "html" in self.formats else []
            files = [str(path) for path in self.written(source, covered)]
            documents.append(_as_data(source, covered, files))
            if not as_json and not quiet:
                click.echo(f"{source.name}: {covered.summary}\n  {covered.occlusion.computed}\n  {' '.join(files)}")
        pages = [self.page(shown)] if shown else []
        if as_json:
            document = {"model": self.loaded.name, "occluded": documents, "failed": failed, "pages": pages}
            click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        elif pages and not quiet:
            click.echo(pages[0])
        if failed:
            raise click.ClickException("; ".join(failure["error"] for failure in failed))

    def covered(self, source: GivenImage) -> Covered:
        """One image's answer, kept from an earlier run or found now."""
        from attribkit import Explainer
        from attribkit.studies.occlusion_picture import Covered

        x = options.batch(self.loaded, self.loaded.preprocess(source.read(), self.asked["size"]))
        result = self.kept(source, x)
        projection = None
        if result.layer is not None:
            explainer = Explainer(self.loaded, self.asked["method"], layer=result.layer)
            projection = explainer(x, channel=result.channel[0], at="all").values[0].cpu().float().numpy()
        picture = self.loaded.unpreprocess(x[0])
        return Covered(source.name, picture, result, self.loaded.labels, projection, self.asked["method"])

    def kept(self, source: GivenImage, x: Tensor) -> Occlusion:
        """From OUT/parts, under a name that says all that it follows from."""
        from attribkit import Occlusion, occlude

        digest = hashlib.sha256(self.key.encode() + x.cpu().numpy().tobytes()).hexdigest()[:16]
        path = self.out / "parts" / f"{source.stem}.{digest}.npz"
        if not path.is_file():
            names = ("window", "stride", "fill", "layer", "target", "edge")
            occlude(self.loaded, x, **{name: self.asked[name] for name in names}).save(path)
        return Occlusion.load(path)

    def _key(self) -> str:
        """All that a part follows from, but for the image."""
        asked = {name: value for name, value in self.asked.items() if name != "method"}
        return json.dumps(
            [self.loaded.name, asked, self.loaded.digest, options.followed(self.loaded), options.versions()]
        )

    def written(self, source: GivenImage, covered: Covered) -> Iterator[Path]:
        """The files of one image."""
        from attribkit.files import placed, write_whole
        from attribkit.report.pictures import encode_png
        from attribkit.studies.occlusion_picture import drawn

        makers: dict[str, Callable[[Path], object]] = {
            "png": lambda path: write_whole(path, encode_png(drawn(covered))),
            "npz": covered.occlusion.save,
            "csv": lambda path: write_whole(path, _csv(covered)),
        }
        for ending, make in makers.items():
            if ending in self.formats:
                yield placed(self.out / f"{source.stem}.occlusion.{ending}", make)

    def page(self, shown: list[Covered]) -> str:
        from attribkit.files import placed, write_whole
        from attribkit.studies.occlusion_page import page

        html = page(shown, options.facts(self.loaded))
        return str(placed(self.out / "occlude.html", lambda path: write_whole(path, html)))


def _fill(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _class(text: str, loaded: LoadedModel) -> int:
    from attribkit.explaining.labels import class_number

    return int(text) if text.isdecimal() else class_number(text, loaded.labels)


def _as_data(source: GivenImage, covered: Covered, files: list[str]) -> dict[str, Any]:
    """An answer for a machine; the same for the same command."""
    result = covered.occlusion
    return {
        "image": source.path,
        "layer": result.layer,
        "channel": result.channel[0] if result.layer else None,
        "target": {"number": result.target[0], "label": covered.label(result.target[0])},
        "uncovered": {
            "probability": float(result.clean[0, 0]),
            "activity": float(result.clean[0, 1]) if result.layer else None,
            "best": covered.label(int(result.clean[0, 2])),
        },
        "lowest": float(result.probability.min()),
        "correlation": covered.correlation,
        "best": [{"class": name, "share": share} for _, name, share in covered.legend],
        "computed": result.computed,
        "files": files,
    }


def _csv(covered: Covered) -> bytes:
    """A line per window."""
    from attribkit.files import table

    result = covered.occlusion
    lines: list[list[Any]] = [["top", "left", "probability", "activity", "best", "label"]]
    for row, top in enumerate(result.rows):
        for column, left in enumerate(result.columns):
            best = int(result.best[0, row, column])
            values = (float(result.probability[0, row, column]), float(result.activity[0, row, column]))
            lines.append([top, left, *map(repr, values), best, covered.label(best)])
    return table(lines)
