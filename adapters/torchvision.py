"""Models of torchvision, of every kind, with the metadata of their default weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.optical_flow import RAFT
from torchvision.transforms import functional

from attribkit.adapters.images import Picture, to_rgb
from attribkit.adapters.preprocessing import Preprocess, Size, shape, sides, unnormalised
from attribkit.adapters.source import LoadedModel, UnknownModel
from attribkit.adapters.weights import StateDict, Weights, WeightsError, is_file, load_weights, read_weights
from attribkit.errors import BadValue

if TYPE_CHECKING:
    from PIL.Image import Image

STILL = 16
"""Frames of a clip that stands still, where one picture is given and the model does not ask for a number."""


@cache
def names() -> tuple[str, ...]:
    """Every model, the quantized ones too, so that `build` can say why it refuses them."""
    return tuple(models.list_models())


def build(name: str, weights: Weights, classes: int | None) -> LoadedModel:
    """The model with the default weights of torchvision, without, or with those of a file."""
    if name.startswith("quantized_"):
        float_name = name.removeprefix("quantized_")
        raise UnknownModel(f"torchvision:{name} is quantized and has no gradient: load torchvision:{float_name}")
    default = models.get_model_weights(name).DEFAULT
    if weights == "default":
        model = _pretrained(name, default, classes)
    else:
        state = read_weights(weights) if is_file(weights) else None
        model = models.get_model(name, weights=None, **_options(name, classes, state))
        if state is not None:
            load_weights(model, weights, state)
    labels = default.meta.get("categories", ())
    return LoadedModel(
        f"torchvision:{name}",
        _on_pairs(model) if isinstance(model, RAFT) else model,
        _preprocess(default),
        tuple(labels) if classes in (None, len(labels)) else (),
        _output(name),
    )


def _pretrained(name: str, default: models.WeightsEnum, classes: int | None) -> nn.Module:
    if classes is not None:
        raise WeightsError(
            f"torchvision's weights for {name} come with their own classes: leave classes= out, or pass a file"
        )
    try:
        return models.get_model(name, weights=default)
    except OSError as error:
        raise WeightsError(
            f"the weights of torchvision:{name} cannot be fetched (no network?): "
            f"pass weights=FILE, with a copy of {default.url}, or weights='none'"
        ) from error


def is_here(name: str) -> bool:
    """Whether an earlier download has left the default weights on this machine."""
    if name.startswith("quantized_"):
        return False
    file = Path(models.get_model_weights(name).DEFAULT.url).name
    return (Path(torch.hub.get_dir()) / "checkpoints" / file).is_file()


def _options(name: str, classes: int | None, state: StateDict | None) -> dict[str, Any]:
    """What makes a model without weights the same as the one that torchvision makes for its own."""
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": False, "transform_input": True}  # its usual initialisation takes a minute
    module = models.get_model_builder(name).__module__
    if module.endswith(".vision_transformer"):  # its own size has to be that of its preprocessing
        options["image_size"] = models.get_model_weights(name).DEFAULT.meta["min_size"][0]
    if module.startswith(("torchvision.models.detection", "torchvision.models.segmentation")):
        options["weights_backbone"] = None
    if ".segmentation." in module and any(key.startswith("aux_classifier.") for key in state or ()):
        options["aux_loss"] = True
    return options


def _output(name: str) -> Callable[[Any], Tensor] | None:
    """What to explain where the output is more than one tensor."""
    module = models.get_model_builder(name).__module__
    if ".segmentation." in module:
        return _segmentation
    return _flow if ".optical_flow." in module else None


def _segmentation(output: dict[str, Tensor]) -> Tensor:
    return output["out"]


def _flow(output: list[Tensor]) -> Tensor:
    return output[-1]


class RAFTOnPairs(RAFT):  # type: ignore[misc]  # torchvision has no types
    """RAFT on one tensor, in which the two pictures lie one on the other: N x 6 x H x W."""

    def forward(self, pairs: Tensor) -> list[Tensor]:
        return super().forward(*pairs.chunk(2, dim=1))


def _on_pairs(model: RAFT) -> RAFT:
    model.__class__ = RAFTOnPairs  # and not a module around it, which would put a word before every layer's name
    return model


def _preprocess(weights: models.WeightsEnum) -> Preprocess:
    preset = weights.transforms()
    kind = type(preset).__name__
    if kind == "OpticalFlow":
        return PairPreprocess(preset)
    if kind == "VideoClassification":
        return ClipPreprocess(preset, max(weights.meta.get("min_temporal_size", 1), STILL))
    return TorchvisionPreprocess(preset)


@dataclass(frozen=True, eq=False)
class TorchvisionPreprocess(Preprocess):
    """What torchvision's preset for a set of weights says."""

    preset: Any

    def transform(self, size: Size | None) -> Callable[[Image], Tensor]:
        return self.preset if size is None else _resized(self.preset, size)

    def restore(self, x: Tensor) -> Tensor:
        return unnormalised(x, *_normalisation(self.preset))


@dataclass(frozen=True, eq=False)
class ClipPreprocess(Preprocess):
    """For video models: a list of frames, or one picture that stands still; 3 x frames x H x W."""

    preset: Any
    frames: int

    def __call__(self, picture: Picture | Sequence[Picture], size: Size | None = None) -> Tensor:
        preset = self.preset if size is None else _resized(self.preset, size)
        return preset(_stack(_several(picture) or [picture] * self.frames))

    def restore(self, x: Tensor) -> Tensor:
        return unnormalised(x.movedim(-3, -4), *_normalisation(self.preset))


@dataclass(frozen=True, eq=False)
class PairPreprocess(Preprocess):
    """For optical flow: two pictures of one size, which come to lie one on the other; 6 x H x W."""

    preset: Any

    def __call__(self, picture: Picture | Sequence[Picture], size: Size | None = None) -> Tensor:
        pictures = _several(picture)
        if pictures is None or len(pictures) != 2:
            raise BadValue("optical flow needs two pictures: give a list of two")
        pair = _stack(pictures)
        return torch.cat(self.preset(*(pair if size is None else functional.resize(pair, list(shape(size))))))

    def restore(self, x: Tensor) -> Tensor:
        return (x.unflatten(-3, (2, 3)) + 1) / 2  # the preset has no fields: it says so in its code

    def example(self) -> Tensor:
        return self([np.full((224, 224, 3), 128, np.uint8)] * 2)


def _several(picture: Picture | Sequence[Picture]) -> list[Any] | None:
    """The frames of a list or of an array with one dimension more; None for one picture."""
    if isinstance(picture, (list, tuple)) or (isinstance(picture, np.ndarray) and picture.ndim == 4):
        return list(picture)
    return None


def _stack(pictures: Sequence[Any]) -> Tensor:
    """Frames x 3 x H x W bytes."""
    frames = [torch.from_numpy(to_rgb(picture)) for picture in pictures]
    if len({frame.shape for frame in frames}) > 1:
        raise BadValue("the pictures of a clip or a pair must have one size")
    return torch.stack(frames).permute(0, 3, 1, 2)


def _normalisation(preset: Any) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation; presets without any leave colours between 0 and 1."""
    return getattr(preset, "mean", [0.0] * 3), getattr(preset, "std", [1.0] * 3)


def _resized(preset: Any, size: Size) -> Callable[[Any], Tensor]:
    """The preset for another size of input, with the same margin around what it crops."""
    changed = copy.copy(preset)
    if hasattr(preset, "crop_size"):
        changed.crop_size = list(sides(size))
        grown = max(new / old for new, old in zip(sides(size), preset.crop_size * 2, strict=False))
        changed.resize_size = [round(side * grown) for side in preset.resize_size]
    elif hasattr(preset, "resize_size"):
        changed.resize_size = list(shape(size))
    else:
        return _Resizing(preset, size)
    return changed


@dataclass(frozen=True)
class _Resizing:
    """A preset that does not resize, after a resize."""

    preset: Any
    size: Size

    def __call__(self, image: Image) -> Tensor:
        return self.preset(functional.resize(image, list(shape(self.size))))
