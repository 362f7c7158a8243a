"""What becomes of answers: files, and what is said of them."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attribkit.cli import done
from attribkit.cli.done import Done
from attribkit.errors import FileError

if TYPE_CHECKING:
    from attribkit import Unit
    from attribkit.cli.answers import Answer
    from attribkit.cli.pictures import GivenImage
    from attribkit.report.layout import Layout

_OTHER_FILES = ("bmp", "csv", "gif", "jpeg", "jpg", "pdf", "pt", "tif", "tiff", "txt", "webp", "zip")
"""Endings by which somebody means a file, of a kind that is not written."""

FORMATS = ("png", "svg", "html", "npz", "safetensors", "json")
PICTURES = ("png", "svg")


def formats(given: list[str], out: Path) -> list[str]:
    """What is to be written: what was asked for, or what --out ends in, or a picture."""
    if str(out) == "-" or (_ending(out) in _OTHER_FILES and not out.is_dir()):
        raise click.UsageError(f"--out {out} is no folder, nor a file that ends in {', '.join(FORMATS)}")
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
    """Results as files in the folder `out`, or as the one file of that name.

    `names` is a template of what an answer's files are called, `crop` leaves out of arrays what no unit sees, and
    `force` overwrites what earlier runs have written.
    Pictures are enlarged by `scale`, and are a "panel" for each answer or a "sheet" for many.
    """

    out: Path
    formats: list[str]
    view: str
    facts: dict[str, str]
    names: str | None = None
    crop: bool = False
    force: bool = False
    scale: int = 1
    layout: str = "panel"
    follows: tuple[str, ...] = ()
    """Digests of what results follow from and the facts do not say: the network's structure, files, the code."""
    written: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        settings = [self.formats, self.view, self.names, self.crop, self.scale, self.layout]
        self._for_one_file = tempfile.TemporaryDirectory(prefix="attribkit-") if _names_a_file(self.out) else None
        folder = Path(self._for_one_file.name) if self._for_one_file else self.out / done.FOLDER
        if self._for_one_file is None and folder.is_dir():
            from attribkit.files import swept

            swept(self.out)
        self.ledger = done.Ledger(folder, json.dumps([settings, self.facts, self.follows]), self.shows)

    @property
    def shows(self) -> bool:
        """Whether a file shows all answers together."""
        return "html" in self.formats or (self.layout == "sheet" and not set(self.formats).isdisjoint(PICTURES))

    def check(self, answers: int, methods: int) -> None:
        """Raise where one file was named and several would be written."""
        whole = self.formats == ["html"] or (self.layout == "sheet" and self.formats[0] in PICTURES)
        files = 1 if whole else answers * (1 if self.formats[0] in PICTURES else methods)
        if _names_a_file(self.out) and files > 1:
            raise click.UsageError(f"--out {self.out} is one file, but {files} are to be written: give a folder")

    def close(self) -> None:
        """Forget what was kept for one page only."""
        if self._for_one_file:
            self._for_one_file.cleanup()

    def key(self, source: GivenImage, content: bytes) -> str:
        """Under which an image's results are remembered."""
        return self.ledger.key(f"{source.path}\n{source.stem}", content)

    def find(self, key: str) -> Done | None:
        """What an earlier run of the same command made of an image, if it's all there."""
        found = None if self.force else self.ledger.find(key)
        self.written |= set(map(Path, found.files)) if found else set()
        return found

    def add(self, key: str, answers: Sequence[Answer]) -> Done:
        """Write the files of an image, and remember it."""
        paths = [[path for ending in self.formats for path in self._written(answer, ending)] for answer in answers]
        shown = [each for answer in answers for each in answer.shown()] if self.ledger.shows else []
        made = done.Done(
            key,
            explained=[as_data(answer, files) for answer, files in zip(answers, paths, strict=True)],
            words=[as_words(answer) for answer in answers],
            cautions=list(dict.fromkeys(line for answer in answers for line in cautions(answer))),
            files={str(path): done.digest(path) for files in paths for path in files},
        )
        self.ledger.keep(made, shown)
        return made

    def end(self, made: Sequence[Done]) -> list[Path]:
        """Write what shows all answers: the page, and sheets."""
        if not (self.ledger.shows and made):
            return []
        sheets = [path for ending in self.formats if ending in PICTURES for path in self._sheets(made, ending)]
        return [*sheets, *([self._page(made)] if "html" in self.formats else [])]

    def _page(self, made: Sequence[Done]) -> Path:
        from attribkit.report.page import Writer

        writer = Writer(sum(len(explained["units"]) for one in made for explained in one.explained), len(made))
        for one in made:
            for shown in self.ledger.shown(one.key):
                writer.add(shown)
        return self._placed("explain.html", writer.page(self.facts))

    def _sheets(self, made: Sequence[Done], ending: str) -> Iterator[Path]:
        """Sheets of some units each, so that each can be looked at."""
        from attribkit.report import many

        if self.layout != "sheet":
            return
        each = (shown for one in made for shown in self.ledger.shown(one.key))
        number = 0
        while some := list(itertools.islice(each, many.ROWS)):
            number += 1
            name = f"sheet-{number}.{ending}" if number > 1 else f"sheet.{ending}"
            yield self._placed(name, self._drawn(many.rows(some, self.view, [self._foot()]), ending, self.facts))

    def _placed(self, name: str, data: bytes) -> Path:
        """Write a file. Another content is not lost: the new one gets a number, or is refused where it cannot.

        What this run has written is never overwritten, not even by force.
        """
        from attribkit.files import beside, write_whole

        wanted = self.out if _names_a_file(self.out) else self.out / name
        path = beside(wanted, data, self.written, force=self.force)
        if path != wanted == self.out:
            raise FileError(f"{wanted} is there already and holds something else: --force overwrites it")
        if not path.is_file() or self.force:
            write_whole(path, data)
        self.written.add(path)
        return path

    def _written(self, answer: Answer, ending: str) -> Iterator[Path]:
        if ending in PICTURES:
            if self.layout == "panel":
                yield self._picture(answer, ending)
        elif ending != "html":
            for method, result in answer.results.items():
                name = f"{self._stem(answer)}.{method}.{ending}"
                yield self._placed(name, replace(result, about=self._about(answer)).encoded(name, crop=self.crop))

    def _stem(self, answer: Answer) -> str:
        """What the files of an answer are called, but for method and ending."""
        return answer.stem if self.names is None else self.names.format_map(answer.fields)

    def _about(self, answer: Answer) -> dict[str, str]:
        """Where a result comes from, for whoever finds the file alone."""
        return {"image": answer.source.path, **self.facts}

    def _picture(self, answer: Answer, ending: str) -> Path:
        from attribkit.report.layout import below
        from attribkit.report.panel import layout

        foot = [f"{self._foot()}; switches {', '.join(answer.question.switches)}"]
        panels = [layout(shown, self.view, foot=foot) for shown in answer.shown()]
        return self._placed(f"{self._stem(answer)}.{ending}", self._drawn(below(panels), ending, self._about(answer)))

    def _foot(self) -> str:
        return f"{self.facts['model']}, weights {self.facts['weights']}"

    def _drawn(self, layout: Layout, ending: str, about: dict[str, str]) -> bytes:
        from attribkit.report import pictures
        from attribkit.report.layout import drawn, svg

        if ending == "svg":
            return svg(layout, self.scale, about)
        return pictures.encode_png(drawn(layout, self.scale), about)


# What is said


def as_words(answer: Answer) -> str:
    """An answer for a person: what was explained, and what was chosen where nothing was said."""
    known = "the network's weights are random" if answer.loaded.weights == "none" else answer.likeliest
    lines = [f"{answer.source.name}: {known}" if known else answer.source.name]
    lines += [f"  {_unit_in_words(answer, unit)}" for unit in answer.units]
    sites = {method: result.sites_in_words for method, result in answer.results.items()}
    if len(set(sites.values())) == 1:
        sites = {", ".join(answer.question.methods): next(iter(sites.values()))}
    lines += [f"  {methods}: {words}" for methods, words in sites.items()]
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
    if unit.position is None:
        chosen = f" ({_chosen(answer)})" if question.channels in (None, "unusual") else ""
        return f"{channel}{chosen}, everywhere: activations sum to {unit.activation:.4g}"
    chosen = f" ({_chosen(answer)})" if _chosen(answer) else ""
    return f"{channel} at {unit.where}{chosen}: activation {unit.activation:.4g}{_box_in_words(unit)}"


def _chosen(answer: Answer) -> str:
    """By what a unit was chosen where not all of it was given."""
    question = answer.question
    inside = ", inside" if question.at == "inside" else ""
    if question.channels == "unusual":
        others = f"beside {answer.together - 1} other images" if question.usual is None else f"by {question.usual[0]}"
        return f"the most unusual channel {others}{inside}"
    if question.channels is None:
        strongest = {"max": "the strongest unit", "inside": "the strongest unit inside", "all": "the strongest"}
        return strongest[question.at] if isinstance(question.at, str) else "the strongest channel there"
    return f"where it is strongest{inside}" if question.at in ("max", "inside") else ""


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
        "sites": {method: [dict(vars(site)) for site in result.sites] for method, result in answer.results.items()},
        "files": [str(path) for path in files],
    }


def as_json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, default=str)
