"""Images and a question in, answers out: what `attribkit explain` asks of the library."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from attribkit.errors import BadValue

if TYPE_CHECKING:
    from torch import Tensor

    from attribkit import Attribution, Unit
    from attribkit.adapters.images import ImageError
    from attribkit.adapters.source import LoadedModel
    from attribkit.cli.pictures import GivenImage
    from attribkit.explaining.targets import Asked
    from attribkit.report.shown import Shown


@dataclass(frozen=True)
class Question:
    """What is asked of every image."""

    methods: list[str]
    layers: list[str | None]
    channels: list[int] | None
    at: Literal["max", "all"] | tuple[int, ...]
    target: int | None
    size: int | None
    rewriting: Mapping[str, Any]
    """Options of an explainer that have no words of their own here: switches, activations, overlap..."""


@dataclass(frozen=True, eq=False)
class Answer:
    """One layer of one image, explained by every method."""

    source: GivenImage
    loaded: LoadedModel
    question: Question
    layer: str | None
    x: Tensor
    results: Mapping[str, Attribution]
    verdict: str
    seconds: float

    @property
    def stem(self) -> str:
        """What its files are called."""
        return self.source.stem if self.layer is None else f"{self.source.stem}.{self.layer}"

    @property
    def units(self) -> tuple[Unit, ...]:
        return next(iter(self.results.values())).units

    def label(self, unit: Unit) -> str | None:
        """What a class is called."""
        labels = self.loaded.labels
        return labels[unit.channel] if unit.layer is None and unit.channel < len(labels) else None

    def shown(self) -> Iterator[Shown]:
        """What pictures and pages show of it: a unit each."""
        from attribkit.report.shown import Shown

        picture = self.loaded.unpreprocess(self.x)
        for index, unit in enumerate(self.units):
            yield Shown(
                name=self.source.name,
                picture=picture,
                maps={method: result.values[index].cpu().float().numpy() for method, result in self.results.items()},
                unit=unit,
                label=self.label(unit) or self.verdict,
                sites={method: result.sites_told for method, result in self.results.items()},
            )


class Respondent:
    """Answers a question about any number of images, with one explainer per layer.

    Images of one size that follow each other are explained together: at most 16 of them, and fewer large ones.
    `failed` names those that could not be read, and why.
    """

    IMAGES, PIXELS = 16, 400_000

    def __init__(self, loaded: LoadedModel, question: Question) -> None:
        from attribkit import Explainer

        self.loaded = loaded
        self.question = question
        self.failed: list[tuple[GivenImage, ImageError]] = []
        methods, rewriting = question.methods, question.rewriting
        self.explainers = {layer: Explainer(loaded, methods, layer=layer, **rewriting) for layer in question.layers}

    def answers(self, sources: Iterable[GivenImage]) -> Iterator[list[Answer]]:
        """For each image that can be read, in their order, an answer per layer."""
        from attribkit.adapters.images import ImageError

        waiting: list[tuple[GivenImage, Tensor]] = []
        for source in sources:
            try:
                x = self.loaded.preprocess(source.read(), self.question.size)
            except ImageError as error:
                self.failed.append((source, error))
                continue
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
        logits, results = None, {}
        for layer, explainer in self.explainers.items():
            explained = explainer.explained(images, self._target(layer, len(images)))
            results[layer] = explainer.results(explained)
            logits = explained.output if layer is None and self.loaded.output is None else None
        verdicts = self._verdicts(images, logits)
        seconds = (time.perf_counter() - start) / len(waiting) / len(results)
        for number, (source, _) in enumerate(waiting):
            yield [
                Answer(
                    source=source,
                    loaded=self.loaded,
                    question=self.question,
                    layer=layer,
                    x=images[number],
                    results={method: result.of_image(number) for method, result in by_method.items()},
                    verdict=verdicts[number],
                    seconds=seconds,
                )
                for layer, by_method in results.items()
            ]

    def _target(self, layer: str | None, images: int) -> Asked:
        from attribkit.explaining.targets import Asked, as_channels

        question, name = self.question, "target" if layer is None else "channel"
        return Asked(layer, as_channels(question.target, question.channels, images, name), question.at)

    def _verdicts(self, images: Tensor, logits: Tensor | None) -> list[str]:
        """For each image the likeliest classes by a classifier; nothing by other networks."""
        import torch

        labels = self.loaded.labels
        if logits is None and labels:
            with torch.no_grad():
                logits = self.loaded.model(images.clone())
        if not isinstance(logits, torch.Tensor) or logits.shape != (len(images), len(labels)):
            return [""] * len(images)
        return [_likeliest(row, labels) for row in logits]


def _likeliest(logits: Tensor, labels: tuple[str, ...]) -> str:
    chances, classes = logits.float().softmax(0).topk(min(3, len(labels)))
    return ", ".join(f"{labels[i]} {chance:.0%}" for chance, i in zip(chances.tolist(), classes.tolist(), strict=True))


def class_number(text: str, loaded: LoadedModel) -> int:
    """The number of a class from its number, its name, or the beginning of one name only."""
    if text.isdecimal():
        return int(text)
    wanted = text.lower()
    labels = [label.lower() for label in loaded.labels]
    begun = [index for index, label in enumerate(labels) if label.startswith(wanted)]
    if wanted in labels or len(begun) == 1:
        return labels.index(wanted) if wanted in labels else begun[0]
    near = [label for label in labels if wanted in label] or difflib.get_close_matches(wanted, labels, 5)
    told = f"near it: {', '.join(near[:5])}" if near else "give its number"
    raise BadValue(f"{loaded.name} has no class {text!r}; {told}")
