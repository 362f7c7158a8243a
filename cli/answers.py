"""Images and a question in, answers out: what `attribkit explain` asks of the library."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from attribkit.errors import BadValue

if TYPE_CHECKING:
    from torch import Tensor

    from attribkit import Attribution, Switches, Unit
    from attribkit.adapters.source import LoadedModel
    from attribkit.cli.pictures import GivenImage
    from attribkit.report.shown import Shown


@dataclass(frozen=True)
class Question:
    """What is asked of every image."""

    methods: list[str]
    layers: list[str | None]
    channels: list[int] | None
    at: Literal["max", "all"] | tuple[int, ...]
    target: int | None
    switches: str | Switches
    activations: Literal["rectifiers", "all"]
    size: int | None


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


def answers(source: GivenImage, loaded: LoadedModel, question: Question) -> Iterator[Answer]:
    """An answer a layer."""
    from attribkit import explain
    from attribkit.cli.options import batch

    x = batch(loaded, loaded.preprocess(source.read(), question.size))
    says = verdict(loaded, x)
    for layer in question.layers:
        start = time.perf_counter()
        results = explain(
            loaded.model,
            x,
            question.methods,
            layer=layer,
            channel=question.channels,
            at=question.at,
            target=question.target,
            switches=question.switches,
            activations=question.activations,
            output=loaded.output if layer is None else None,
        )
        yield Answer(source, loaded, question, layer, x[0], results, says, time.perf_counter() - start)


def verdict(loaded: LoadedModel, x: Tensor) -> str:
    """The likeliest classes by a classifier; nothing by other networks."""
    import torch

    with torch.no_grad():
        logits = loaded.model(x.clone())
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, len(loaded.labels)):
        return ""
    chances, classes = logits[0].softmax(0).topk(min(3, len(loaded.labels)))
    told = zip(chances.tolist(), classes.tolist(), strict=True)
    return ", ".join(f"{loaded.labels[index]} {chance:.0%}" for chance, index in told)


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
