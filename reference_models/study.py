"""The study on switches from data to results: which networks and images, parts that are kept, one document."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attribkit import load
from attribkit.files import write_whole
from attribkit.reference_models import validation
from attribkit.reference_models.data import Data
from attribkit.reference_models.validation import Subject

WEIGHTS = ("trained", "untrained", "upper third random")


@dataclass(frozen=True)
class Settings:
    """What a reader may change. `asked` is the number of images for the metrics that run the network often."""

    images: int
    asked: int
    steps: int
    resamples: int
    seed: int = 0


FULL = Settings(images=500, asked=500, steps=10, resamples=2000)
QUICK = Settings(images=60, asked=24, steps=6, resamples=500)


@dataclass(frozen=True)
class Part:
    """One network with one kind of weights: what is run and kept as a whole."""

    network: str
    weights: str

    @property
    def file(self) -> str:
        return f"{self.network}-{self.weights.replace(' ', '-')}.json"


def parts(networks: Sequence[str]) -> list[Part]:
    return [Part(network, weights) for network in networks for weights in WEIGHTS]


def missing(networks: Iterable[str]) -> dict[str, str]:
    """The networks that cannot be had with trained weights, and why."""
    found = {}
    for network in networks:
        try:
            load(network)
        except (ValueError, OSError) as error:
            found[network] = " ".join(str(error).split())
    return found


def run(part: Part, data: Data, settings: Settings, folder: Path) -> None:
    """Score one part and keep it in the folder, unless it is there already with the same settings."""
    if kept(part, data, settings, folder) is not None:
        return
    one, labels = subject_of(part, data, settings)
    scored = validation.scores(one, asked=settings.asked, steps=settings.steps, seed=settings.seed)
    document = {
        "key": _key(part, data, settings),
        "without": one.without,
        "errors": {condition: _error(net, one.images, labels) for condition, net in _networks(one)},
        "scores": _rounded(scored),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / part.file, json.dumps(document).encode())


def kept(part: Part, data: Data, settings: Settings, folder: Path) -> dict[str, Any] | None:
    """What an earlier run left of a part; nothing if its settings, data or weights were others."""
    path = folder / part.file
    if not path.is_file():
        return None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document if document["key"] == _key(part, data, settings) else None


def _key(part: Part, data: Data, settings: Settings) -> str:
    """A digest of all that the scores of a part follow from."""
    digest = hashlib.sha256(json.dumps([asdict(part), asdict(settings), data.digest]).encode())
    for name, tensor in sorted(load(part.network).model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def subject_of(part: Part, data: Data, settings: Settings) -> tuple[Subject, Tensor]:
    """The network on its drawn images, and their labels."""
    drawn = _drawn(data.test.labels, settings.images, settings.seed)
    pictures = data.test.images[drawn].permute(0, 3, 1, 2).float() / 255
    loaded = load(part.network)
    images = torch.stack([loaded.preprocess(image) for image in data.test.images[drawn].numpy()])
    trained = validation.subject(part.network, "trained", loaded.model, _layers(loaded.model), images, pictures)
    subjects = chain([trained], validation.with_other_weights(trained, settings.seed))
    return next(one for one in subjects if one.weights == part.weights), data.test.labels[drawn]


def _drawn(labels: Tensor, count: int, seed: int) -> Tensor:
    """Numbers of images, equally many of each class."""
    generator = torch.Generator().manual_seed(seed)
    classes = labels.unique()
    each = count // len(classes)
    found = []
    for index in classes:
        members = (labels == index).nonzero()[:, 0]
        if len(members) < each:
            raise ValueError(f"there are {len(members)} test images of a class, and {each} of each are asked for")
        found.append(members[torch.randperm(len(members), generator=generator)[:each]])
    return torch.stack(found, 1).flatten()  # class after class in turn, so that groups hold all of them


def _layers(net: nn.Module) -> tuple[str, str]:
    """The middle one and the last one of the convolutions that see more than a pixel."""
    convolutions = [
        name for name, module in net.named_modules() if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
    ]
    return convolutions[len(convolutions) // 2], convolutions[-1]


def _networks(one: Subject) -> Iterator[tuple[str, nn.Module]]:
    yield "as it is", one.net
    if one.pooled is not None:
        yield "after strides_to_pools", one.pooled


@torch.no_grad()
def _error(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    named = torch.cat([net(part).argmax(1) for part in images.split(validation.BATCH)])
    return round(100 * float((named != labels).double().mean()), 2)


def _rounded(value: Any) -> Any:
    """To what is the same in each run on a machine; undefined scores as null, which JSON knows."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [None if score != score else round(score, 5) for score in value]


def results(documents: dict[Part, dict[str, Any]], settings: Settings, lacking: dict[str, str]) -> dict[str, Any]:
    """The document of the whole study: verdicts of the trained networks, and every figure behind them."""
    networks: dict[str, Any] = {}
    for part, document in documents.items():
        scored = {
            metric: {
                unit: {
                    condition: {rule: _defined(row) for rule, row in rules.items()}
                    for condition, rules in cells.items()
                }
                for unit, cells in kinds.items()
            }
            for metric, kinds in document["scores"].items()
        }
        found = validation.judged(scored, document["without"], resamples=settings.resamples, seed=settings.seed)
        network = networks.setdefault(part.network, {})
        is_trained = part.weights == "trained"  # the others are there to compare with
        if is_trained:
            network["verdict"] = validation.verdicts(found)
        network[part.weights] = {
            "errors": document["errors"],
            "without": document["without"],
            "figures": [_plain(asdict(one)) | ({} if is_trained else {"verdict": None}) for one in found],
        }
    return {"settings": asdict(settings), "margins": validation.MARGINS, "networks": networks, "missing": lacking}


def _plain(value: Any) -> Any:
    """Without the numbers that JSON does not know: the mean of nothing, an interval without end."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _defined(row: list[float | None]) -> list[float]:
    return [float("nan") if score is None else score for score in row]
