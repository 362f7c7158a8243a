"""What becomes of answers: files, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attribkit.errors import FileError

if TYPE_CHECKING:
    from attribkit import Unit
    from attribkit.cli.answers import Answer
    from attribkit.report.shown import Shown

FORMATS = ("png", "html", "npz", "safetensors", "json")


def formats(given: list[str], out: Path) -> list[str]:
    """What is to be written: what was asked for, or what --out ends in, or a picture."""
    if not _names_a_file(out):
        return given or ["png"]
    ending = _ending(out)
    if given not in ([], [ending]):
        raise click.UsageError(f"--out {out} names one {ending} file: give a folder for --format {','.join(given)}")
    return [ending]


def _ending(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")


def _names_a_file(out: Path) -> bool:
    return _ending(out) in FORMATS and not out.is_dir()


@dataclass
class Files:
    """Results as files in the folder `out`, or as the one file of that name."""

    out: Path
    formats: list[str]
    view: str
    facts: dict[str, str]
    force: bool = False
    waiting: list[Shown] = field(default_factory=list)

    def check(self, answers: int, methods: int) -> None:
        """Raise where one file was named and several would be written."""
        files = 1 if self.formats == ["html"] else answers * (1 if self.formats == ["png"] else methods)
        if _names_a_file(self.out) and files > 1:
            raise click.UsageError(f"--out {self.out} is one file, but {files} are to be written: give a folder")

    def add(self, answer: Answer) -> list[Path]:
        """Write an answer's own files."""
        written = [path for ending in self.formats for path in self._written(answer, ending)]
        if "html" in self.formats:
            self.waiting += answer.shown()
        return written

    def end(self) -> list[Path]:
        """Write the page that shows all answers."""
        if not self.waiting:
            return []
        from attribkit.report.page import page

        return [self._placed("explain.html", page(self.waiting, self.facts))]

    def _placed(self, name: str, data: bytes) -> Path:
        """Write a file. Another content is not lost: the new one gets a number, or is refused where it cannot."""
        from attribkit.files import write_whole

        one = _names_a_file(self.out)
        path, number = self.out if one else self.out / name, 2
        while not self.force and path.is_file() and path.read_bytes() != data:
            if one:
                raise FileError(f"{path} is there already and holds something else: --force overwrites it")
            path, number = self.out / f"{Path(name).stem}-{number}{Path(name).suffix}", number + 1
        if not path.is_file() or self.force:
            write_whole(path, data)
        return path

    def _written(self, answer: Answer, ending: str) -> Iterator[Path]:
        if ending == "png":
            yield self._picture(answer)
        elif ending != "html":
            for method, result in answer.results.items():
                name = f"{answer.stem}.{method}.{ending}"
                yield self._placed(name, replace(result, about=self._about(answer)).encoded(name))

    def _about(self, answer: Answer) -> dict[str, str]:
        """Where a result comes from, for whoever finds the file alone."""
        return {"image": answer.source.path, **self.facts}

    def _picture(self, answer: Answer) -> Path:
        from attribkit.report import pictures
        from attribkit.report.panel import panel

        foot = [
            f"{self.facts['model']}, weights {self.facts['weights']}; switches {', '.join(answer.question.switches)}"
        ]
        panels = [panel(shown, self.view, foot=foot) for shown in answer.shown()]
        return self._placed(f"{answer.stem}.png", pictures.encode_png(_stacked(panels), self._about(answer)))


def _stacked(pictures: list[Any]) -> Any:
    """Pictures below each other on white."""
    import numpy as np

    width = max(picture.shape[1] for picture in pictures)
    padding = [((0, 0), (0, width - picture.shape[1]), (0, 0)) for picture in pictures]
    rows = [np.pad(picture, pad, constant_values=255) for picture, pad in zip(pictures, padding, strict=True)]
    return np.concatenate(rows)


# What is said


def as_words(answer: Answer, files: list[Path]) -> str:
    """An answer for a person: what was explained, what was chosen where nothing was said, and where it is."""
    known = "the network's weights are random" if answer.loaded.weights == "none" else answer.likeliest
    lines = [f"{answer.source.name}: {known}" if known else answer.source.name]
    lines += [f"  {_unit_in_words(answer, unit)}" for unit in answer.units]
    sites = {method: result.sites_in_words for method, result in answer.results.items()}
    if len(set(sites.values())) == 1:
        sites = {", ".join(answer.question.methods): next(iter(sites.values()))}
    lines += [f"  {methods}: {words}" for methods, words in sites.items()]
    lines.append(f"  {answer.seconds:.1f} s  {' '.join(map(str, files))}".rstrip())
    return "\n".join(lines)


def cautions(answer: Answer) -> list[str]:
    """What a reader should know before believing the maps of an answer."""
    from attribkit.report.shown import caution

    said = [f"caution: {text}" for unit in answer.units if (text := caution(unit, answer.results))]
    met = [site for result in answer.results.values() for site in result.sites if site.calls]
    if list(answer.question.switches) != ["own"] and not any(site.kind == "pool" for site in met):
        said.append("note: no max-pool lies below, so that switches change nothing")
    return list(dict.fromkeys(said))


def _unit_in_words(answer: Answer, unit: Unit) -> str:
    question = answer.question
    if unit.layer is None:
        chosen = ", the predicted one" if question.classes is None else ""
        name = f" ({label})" if (label := answer.label(unit)) else ""
        return f"class {unit.channel}{name}{chosen}: {unit.activation:.4g}"
    channel = f"{unit.layer}, channel {unit.channel}"
    by_strength = question.channels is None
    if unit.position is None:
        chosen = " (the strongest)" if by_strength else ""
        return f"{channel}{chosen}, everywhere: activations sum to {unit.activation:.4g}"
    strongest = {
        (True, True): " (the strongest unit)",
        (True, False): " (the strongest channel there)",
        (False, True): " (where it is strongest)",
    }.get((by_strength, question.at == "max"), "")
    place = ",".join(map(str, unit.position))
    return f"{channel} at {place}{strongest}: activation {unit.activation:.4g}{_box_in_words(unit)}"


def _box_in_words(unit: Unit) -> str:
    if unit.box is None or len(unit.box) != 4:
        return ""
    top, left, bottom, right = unit.box
    return f"; sees rows {top} to {bottom - 1} and columns {left} to {right - 1}"


def as_data(answer: Answer, files: list[Path]) -> dict[str, Any]:
    """An answer for a machine; the same for the same command."""
    return {
        "image": answer.source.path,
        "layer": answer.layer,
        "likeliest": answer.likeliest,
        "units": [asdict(unit) | {"label": answer.label(unit)} for unit in answer.units],
        "sites": {method: [asdict(site) for site in result.sites] for method, result in answer.results.items()},
        "files": [str(path) for path in files],
    }


def as_json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, default=str)
