"""Images and a question in, answers out: what `attribkit explain` asks of the library."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from attribkit.errors import BadValue

if TYPE_CHECKING:
    from torch import Tensor

    from attribkit import Attribution, Switches, Unit
    from attribkit.adapters.images import RGB
    from attribkit.adapters.source import LoadedModel
    from attribkit.cli.pictures import GivenImage
    from attribkit.explaining.targets import Target
    from attribkit.report.shown import Shown


Channels = list[int] | Literal["all", "unusual"] | int | None
"""These, all, so many of the strongest, the most unusual one, or (None) the strongest."""

FIELDS = ("image", "layer", "asked", "model")


@dataclass(frozen=True)
class Question:
    """What is asked of every image."""

    methods: list[str]
    layers: list[str | None]
    channels: Channels
    at: Literal["max", "inside", "all"] | tuple[int, ...]
    classes: Channels
    size: int | None
    switches: Mapping[str, str | Switches]
    """One way with switches or several, by their names."""
    rewriting: Mapping[str, Any]
    """Options of an explainer that have no words of their own here: activations, overlap..."""
    usual: tuple[str, str, Sequence[float]] | None = None
    """Where is said what is usual, of which layer, and the mean of each of its channels."""
    gallery: str = ""
    """The page of that gallery, from where results are."""

    def columns(self) -> Iterator[tuple[str, str, str]]:
        """Each method with each way, those of a method together: the column's name, method, way."""
        for method in self.methods:
            for way in self.switches:
                yield (method if len(self.switches) == 1 else f"{method}.{way}"), method, way


@dataclass(frozen=True, eq=False)
class Answer:
    """One layer of one image, explained by every method."""

    source: GivenImage
    loaded: LoadedModel
    question: Question
    layer: str | None
    x: Tensor
    results: Mapping[str, Attribution]
    """By the names of the question's columns."""
    likeliest: str
    seconds: float
    together: int = 1
    """How many images were explained at once."""

    @property
    def stem(self) -> str:
        """What its files are called: the image, and what was asked for beyond the usual."""
        channels, at = self.asked
        part = channels if self.layer is None else "-".join(filter(None, [self.layer, channels]))
        return ".".join(filter(None, [self.source.stem, part, at]))

    @property
    def fields(self) -> dict[str, str]:
        """What a template may name its files after."""
        fields = (
            self.source.stem,
            self.layer or "output",
            ".".join(filter(None, self.asked)) or "max",
            self.loaded.name.replace("/", "-"),
        )
        return dict(zip(FIELDS, fields, strict=True))

    @property
    def asked(self) -> tuple[str, str]:
        """The channels or classes, and the position, as far as they are not the usual ones."""
        question = self.question
        if self.layer is None:
            return _counted("class-", question.classes), ""
        at = _counted("at-", question.at) if not isinstance(question.at, str) else question.at.replace("max", "")
        return _counted("", question.channels), at

    @property
    def units(self) -> tuple[Unit, ...]:
        return next(iter(self.results.values())).units

    def label(self, unit: Unit) -> str | None:
        """What a class is called."""
        labels = self.loaded.known_labels
        return labels[unit.channel] if unit.layer is None and unit.channel < len(labels) else None

    def gallery(self, unit: Unit) -> str:
        """Where a page shows what a unit's channel looks for; nothing where there is none."""
        page, usual = self.question.gallery, self.question.usual
        return f"{page}#{unit.layer}-{unit.channel}" if page and usual and unit.layer == usual[1] else ""

    def shown(self) -> Iterator[Shown]:
        """What pictures and pages show of it: a unit each."""
        from attribkit.report.shown import Shown

        picture = self.loaded.unpreprocess(self.x)
        names = {name: column_in_words(name, way) for name, _, way in self.question.columns()}
        for index, unit in enumerate(self.units):
            yield Shown(
                name=self.source.name,
                picture=picture,
                maps={names[name]: result.values[index].cpu().float().numpy() for name, result in self.results.items()},
                unit=unit,
                label=self.label(unit) or self.likeliest,
                sites={names[name]: result.sites_in_words for name, result in self.results.items()},
                gallery=self.gallery(unit),
            )


class Respondent:
    """Answers a question about any number of images, with one explainer per layer and way with switches.

    Images of one size that follow each other are explained together: at most 16 of them, and fewer large ones.
    """

    IMAGES, PIXELS = 16, 400_000

    def __init__(self, loaded: LoadedModel, question: Question) -> None:
        from attribkit import Explainer

        self.loaded = loaded
        self.question = question
        self.explainers = {
            layer: {
                way: Explainer(loaded, question.methods, layer=layer, switches=switches, **question.rewriting)
                for way, switches in question.switches.items()
            }
            for layer in question.layers
        }

    def input(self, picture: RGB) -> Tensor:
        """What the network gets of a picture."""
        return self.loaded.preprocess(picture, self.question.size)

    def answers(self, inputs: Sequence[tuple[GivenImage, Tensor]]) -> Iterator[list[Answer]]:
        """For each image, in their order, an answer per layer."""
        waiting: list[tuple[GivenImage, Tensor]] = []
        for source, x in inputs:
            if waiting and not self._fits(x, waiting):
                yield from self._together(waiting)
                waiting = []
            waiting.append((source, x))
        if waiting:
            yield from self._together(waiting)

    def _fits(self, x: Tensor, waiting: list[tuple[GivenImage, Tensor]]) -> bool:
        first, count = waiting[0][1], len(waiting) + 1
        return x.shape == first.shape and count <= self.IMAGES and count * x[0].numel() <= self.PIXELS

    def _together(self, waiting: list[tuple[GivenImage, Tensor]]) -> Iterator[list[Answer]]:
        import torch

        from attribkit.cli.options import on_device

        start = time.perf_counter()
        images = on_device(self.loaded, torch.stack([x for _, x in waiting]))
        seen = self._seen(images) if self.question.layers != [None] else {}
        results = {layer: self._results(layer, images, seen) for layer in self.question.layers}
        likeliest = self._likeliest_classes(len(images), seen.get(None))
        seconds = (time.perf_counter() - start) / len(waiting) / len(results)
        for number, (source, _) in enumerate(waiting):
            yield [
                Answer(
                    source=source,
                    loaded=self.loaded,
                    question=self.question,
                    layer=layer,
                    x=images[number],
                    results={name: result.of_image(number) for name, result in by_column.items()},
                    likeliest=likeliest[number],
                    seconds=seconds,
                    together=len(waiting),
                )
                for layer, by_column in results.items()
            ]

    def _results(self, layer: str | None, images: Tensor, seen: dict[str | None, Any]) -> dict[str, Attribution]:
        """By the names of the columns; what the network says is kept in `seen` where it comes out."""
        by_way = {}
        for way, explainer in self.explainers[layer].items():
            explained = explainer.explained(images, self._target(layer, len(images)), seen.get(layer))
            by_way[way] = explainer.results(explained)
            if layer is None and self.loaded.output is None:
                seen[None] = explained.output
        return {name: by_way[way][method] for name, method, way in self.question.columns()}

    def _target(self, layer: str | None, images: int) -> Target:
        from attribkit.explaining.targets import Asked, Strongest, Unusual, as_channels

        name, asked = ("target", self.question.classes) if layer is None else ("channel", self.question.channels)
        if asked == "unusual":
            return Unusual(layer, self.question.at, self._usual(layer))
        if asked == "all" or isinstance(asked, int):
            return Strongest(layer, self.question.at, asked if isinstance(asked, int) else None)
        return Asked(layer, as_channels(None, asked, images, name), self.question.at)

    def _usual(self, layer: str | None) -> Tensor | None:
        import torch

        if self.question.usual is None:
            return None
        file, known, means = self.question.usual
        if known != layer:
            raise BadValue(f"{file} says what is usual in {known}, not in {layer}")
        return torch.tensor(means)

    def _seen(self, images: Tensor) -> dict[str | None, Any]:
        """What a classifier says of the images, under None, and its layers' outputs on the way there."""
        import torch

        from attribkit.engine.shadow import unwrapped
        from attribkit.explaining.watching import watched

        if not self.loaded.known_labels:
            return {}
        seen: dict[str | None, Any] = {}
        # In another precision a layer's output is another.
        layers = [layer for layer in self.question.layers if layer and not self.question.rewriting["precision"]]
        model = unwrapped(self.loaded.model)

        def keep(layer: str, inputs: Any, output: Any) -> None:
            if layer not in seen and isinstance(output, torch.Tensor):
                seen[layer] = output.clone()  # which may be written into further on

        with watched(((layer, model.get_submodule(layer)) for layer in layers), keep), torch.no_grad():
            seen[None] = self.loaded.model(images.clone())
        return seen

    def _likeliest_classes(self, images: int, logits: Any) -> list[str]:
        """For each image the likeliest classes by a classifier; nothing by other networks."""
        import torch

        labels = self.loaded.known_labels
        if not labels or not isinstance(logits, torch.Tensor) or logits.shape != (images, len(labels)):
            return [""] * images
        return [_in_words(row, labels) for row in logits]


def _counted(name: str, numbers: Sequence[int] | Channels) -> str:
    """Numbers in a file's name: not more than a few of them."""
    if not numbers:
        return ""
    if isinstance(numbers, (str, int)):
        return f"{name}{numbers if isinstance(numbers, str) else f'strongest-{numbers}'}"
    return name + (",".join(map(str, numbers)) if len(numbers) <= _FEW else f"{len(numbers)}-units")


_FEW = 6


def column_in_words(name: str, way: str) -> str:
    """What a column is called where people read it."""
    method, several, _ = name.partition(".")
    if not several:
        return method
    if way == "own":
        return f"{method}, own switches"
    none = way in ("uniform", "center", "corner")
    return f"{method}, without switches ({way})" if none else f"{method}, switches of {way}"


def _in_words(logits: Tensor, labels: tuple[str, ...]) -> str:
    chances, classes = logits.float().softmax(0).topk(min(3, len(labels)))
    from attribkit.report.shown import short

    return ", ".join(
        f"{short(labels[i])} {chance:.0%}" for chance, i in zip(chances.tolist(), classes.tolist(), strict=True)
    )
