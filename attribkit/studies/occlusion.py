"""Occlusion (Zeiler & Fergus 2013): what a network says while a window of an image is covered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attribkit.errors import BadType, BadValue
from attribkit.explaining.calls import check_layer
from attribkit.explaining.given import Model
from attribkit.explaining.targets import as_channels
from attribkit.studies.incremental import Patches, Runner, summed
from attribkit.studies.occlusion_fills import Fill, filling
from attribkit.studies.stored import Stored

Array = npt.NDArray[Any]
Edge = Literal["inside", "overhang"]
Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Occlusion(Stored):
    """What a network says of images while a window of them is covered.

    Attributes:
        probability: Of the target class, images x rows x columns: one number for each place of the window.
        activity: The sum of the layer's strongest feature map; NaN where there is no such layer.
        best: The most probable class.
        rows, columns: Where windows begin, which is what the maps' rows and columns stand for.
        window, stride: Height and width; how far windows are apart.
        edge: Whether the last windows end at the edge ("inside") or overhang it ("overhang").
        target, channel: For each image, the class whose probability it is, and the feature map.
        layer: The feature map's layer.
        clean: For each image probability, activity and best class without an occluder, images x 3.
        computed: How it was computed, in words.
    """

    _kind: ClassVar = "occlusion"
    _facts: ClassVar = ("window", "stride", "edge", "layer", "computed")

    probability: Array
    activity: Array
    best: Array
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    window: Pair
    stride: Pair
    edge: Edge
    target: tuple[int, ...]
    channel: tuple[int, ...]
    layer: str | None
    clean: Array
    computed: str

    def of_image(self, number: int) -> Occlusion:
        """What belongs to one image."""
        per_image = ("probability", "activity", "best", "target", "channel", "clean")
        return replace(self, **{name: getattr(self, name)[number : number + 1] for name in per_image})

    def effect(self, size: Sequence[int], image: int = 0, kind: str = "activity") -> Array:
        """How much each pixel's cover takes from the activity or the probability: the mean over its windows.

        Args:
            size: Height and width of the image.
            image: Its number.
            kind: "activity" or "probability".

        Returns:
            Height x width; what no window covers is 0.
        """
        values, clean = getattr(self, kind)[image], self.clean[image, ("probability", "activity").index(kind)]
        total, count = np.zeros(tuple(size)), np.zeros(tuple(size))
        for row, top in enumerate(self.rows):
            for column, left in enumerate(self.columns):
                here = np.s_[max(0, top) : top + self.window[0], max(0, left) : left + self.window[1]]
                total[here] += clean - values[row, column]
                count[here] += 1
        return total / np.maximum(count, 1)

    @classmethod
    def _made(cls, arrays: dict[str, Any], facts: dict[str, Any]) -> Occlusion:
        for name in ("rows", "columns", "target", "channel"):
            arrays[name] = tuple(arrays[name].tolist())
        facts["window"], facts["stride"] = tuple(facts["window"]), tuple(facts["stride"])
        return cls(**arrays, **facts)


def occlude(
    model: Model,
    images: Tensor,
    window: int | Pair = 32,
    stride: int | Pair = 8,
    fill: Fill = "grey",
    layer: str | None = None,
    target: int | Sequence[int] | Tensor | None = None,
    *,
    edge: Edge = "inside",
    output: Callable[[Any], Tensor] | None = None,
) -> Occlusion:
    """Cover a window of each image, everywhere in turn, and see what the network says.

    Only what a window changes is computed again, on whatever network allows it, which is the same to float rounding as
    running every covered image; `computed` of the result says where it was not possible.

    Args:
        model: A network, or what `attribkit.load` gives. It stays as it is.
        images: N x C x H x W.
        window: Side of the window in pixels, or height and width.
        stride: How many pixels windows are apart, or that for rows and columns.
        fill: What covers the window: "grey" (the middle grey of pictures; 0 for a bare module), "mean" (the image's,
            by colour), "blur" (the image, blurred), "noise" (of the image's mean and spread, the same every time), a
            number or a tensor in the input's own units.
        layer: The layer whose strongest feature map is looked at: the one with the largest sum when nothing is covered.
            Without it, the last layer that has a map.
        target: The class whose probability is looked at, or one per image; without it the predicted one.
        edge: "inside": the last windows end at the edge, closer to those before than the stride where need be.
            "overhang": all are a stride apart, and the last ones are cut off by the edge, as Captum has it.
        output: Picks the logits where the output is a tuple, a dict or an object.

    Returns:
        Three maps for each image: probability, activity and the most probable class.

    Raises:
        BadValue: The model has no such layer or class, or a window does not fit.
        BadType: The output is not images x classes, or the layer has no feature maps.
        CannotRewrite: The model is in training mode and has no copy that is not.
    """
    net, loaded_output, preprocess = _parts(model)
    if images.dim() != 4 or not images.is_floating_point() or not len(images):
        raise BadType(f"images are floats of N x C x H x W, not {images.dtype} of {tuple(images.shape)}")
    sides, strides = _pair(window, "window"), _pair(stride, "stride")
    rows, columns = (starts(n, w, s, edge) for n, w, s in zip(images.shape[2:], sides, strides, strict=True))
    if layer is not None:
        if not isinstance(net, nn.Module):
            raise BadType(f"layer={layer!r} needs an nn.Module, not a {type(net).__name__}")
        check_layer(net, layer)
    runner = Runner(net, output or loaded_output, layer)
    targets = as_channels(target, None, len(images), "target")
    study = _Study(runner, [None] * len(images) if targets is None else targets[:, 0].tolist())
    for number, image in enumerate(images.detach()):
        cover = filling(fill, image, sides, preprocess)
        study.add(number, Patches(image, cover, rows, columns, *sides))
    shape = (len(images), len(rows), len(columns))
    return Occlusion(
        probability=np.stack(study.probability).reshape(shape),
        activity=np.stack(study.activity).reshape(shape),
        best=np.stack(study.best).reshape(shape),
        rows=tuple(rows),
        columns=tuple(columns),
        window=sides,
        stride=strides,
        edge=edge,
        target=tuple(study.target),
        channel=tuple(study.channel),
        layer=runner.layer,
        clean=np.array(study.clean),
        computed=runner.in_words(),
    )


class _Study:
    """What is found out, image by image."""

    def __init__(self, runner: Runner, targets: list[int | None]) -> None:
        self.runner = runner
        self.targets = targets
        self.target: list[int] = []
        self.channel: list[int] = []
        self.clean: list[tuple[float, float, int]] = []
        self.probability: list[Array] = []
        self.activity: list[Array] = []
        self.best: list[Array] = []

    def add(self, number: int, patches: Patches) -> None:
        logits, activity, channel = self._uncovered(patches.image[None])
        best = int(logits[0].argmax())
        target = self._target(number, best, logits.shape[1])
        look = None if channel < 0 else partial(summed, channel=channel)
        outputs, activities = self.runner.answers(patches, look)
        chances = outputs.double().softmax(1)[:, target]
        self.target.append(target)
        self.channel.append(channel)
        self.clean.append((float(logits.double().softmax(1)[0, target]), float(activity[0]), best))
        self.probability.append(chances.cpu().numpy())
        self.activity.append(activities.cpu().numpy())
        self.best.append(outputs.argmax(1).cpu().numpy())

    def _uncovered(self, image: Tensor) -> tuple[Tensor, Tensor, int]:
        """What is said of the whole picture, and the sum and number of the strongest channel; -1 without a layer."""
        logits, given = self.runner.uncovered(image)
        layer = self.runner.layer
        if layer is None:
            return logits, torch.full((1,), torch.nan), -1
        if given is None:
            raise BadValue(f"the layer {layer!r} is not called for this image: name another")
        _check_map(given, layer)
        channel = int(given[0].double().flatten(1).sum(1).argmax())
        return logits, summed(given, channel), channel

    def _target(self, number: int, best: int, classes: int) -> int:
        if classes == 1:
            raise BadValue("a single output has no probability among classes: occlusion needs two classes or more")
        target = self.targets[number]
        if target is not None and not 0 <= target < classes:
            raise BadValue(f"the model has {classes} outputs, 0 to {classes - 1}; there is no {target}")
        return best if target is None else target


def starts(size: int, window: int, stride: int, edge: Edge) -> list[int]:
    """Where windows begin along a dimension."""
    if edge not in ("inside", "overhang"):
        raise BadValue(f"edge={edge!r} is neither 'inside' nor 'overhang'")
    if window > size:
        raise BadValue(f"a window of {window} is larger than the image, {size}: make it smaller")
    steps = -(-(size - window) // stride)
    begun = [step * stride for step in range(steps + 1)]
    return [min(start, size - window) for start in begun] if edge == "inside" else begun


def _check_map(output: Any, layer: str | None) -> None:
    if not isinstance(output, Tensor) or output.dim() != 4:
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise BadType(f"the layer {layer!r} gives {what}, which has no feature maps: name a layer before it")


def _pair(value: int | Pair, name: str) -> Pair:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(side, int) and side >= 1 for side in pair):
        raise BadValue(f"{name}={value!r}: give a number of pixels, or two for height and width")
    return pair


def _parts(model: Any) -> tuple[Any, Callable[[Any], Tensor] | None, Any]:
    """The network, what picks its output, and its preprocessing, of what `load` gives or of a bare one."""
    if isinstance(model, nn.Module) or not hasattr(model, "model"):
        return model, None, None
    return model.model, getattr(model, "output", None), getattr(model, "preprocess", None)
