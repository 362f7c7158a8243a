"""The networks of "Striving for Simplicity" (Springenberg et al. 2014), and ZFNet (Zeiler & Fergus 2013).

A network is a row of steps. The twelve CIFAR nets are the paper's table: three bases, each in four variants
that differ only in how they make the map smaller.

    net = build("all_cnn_c")            # conv1, relu1, ... conv9, relu9, mean
    net(images)                         # N x 3 x H x W, any H and W that are large enough -> N x 10
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from attribkit.errors import BadValue


@dataclass(frozen=True)
class Conv:
    """A convolution and its ReLU. `width=None`: as many channels as there are classes."""

    kernel: int
    width: int | None
    stride: int = 1
    padding: int = 0
    rectified: bool = True


@dataclass(frozen=True)
class Pooling:
    kernel: int = 3
    stride: int = 2
    ceil_mode: bool = True


@dataclass(frozen=True)
class LRN:
    """Local response normalisation over 5 channels, as ZFNet has it."""


@dataclass(frozen=True)
class Drop:
    """Where a recipe may drop activations; nothing in the saved net. `share` is the paper's."""

    share: float = 0.5


Step = Conv | Pooling | LRN | Drop
Steps = tuple[Step, ...]

# The convolutions of stage 1 (96 channels) and of stage 2 (192) in each base, by the side of their kernels.
BASES: dict[str, tuple[int, ...]] = {"a": (5,), "b": (5, 1), "c": (3, 3)}

VARIANTS = ("model", "strided_cnn", "convpool_cnn", "all_cnn")


_HEAD: Steps = (Conv(3, 192), Conv(1, 192), Conv(1, None))


def _same(kernel: int, width: int, stride: int = 1) -> Conv:
    return Conv(kernel, width, stride, padding=kernel // 2)


def _stage(base: str, variant: str, width: int) -> Steps:
    """One stage with its way down to half the size, and the dropout after it."""
    *first, last = BASES[base]
    convs: Steps = tuple(_same(kernel, width) for kernel in first)
    ways: dict[str, Steps] = {
        "model": (_same(last, width), Pooling()),
        "strided_cnn": (_same(last, width, stride=2),),
        "convpool_cnn": (_same(last, width), _same(3, width), Pooling()),
        "all_cnn": (_same(last, width), _same(3, width, stride=2)),
    }
    return (*convs, *ways[variant], Drop())


def _cifar(base: str, variant: str) -> Steps:
    return (Drop(0.2), *_stage(base, variant, 96), *_stage(base, variant, 192), *_HEAD)


def _all_cnn_c_pooled() -> Steps:
    """All-CNN-C after `strides_to_pools`: the layers have the same names and weights, and max-pools do the striding."""
    stages = ((*(_same(3, width),) * 3, Pooling(2), Drop()) for width in (96, 192))
    return (Drop(0.2), *(step for stage in stages for step in stage), *_HEAD)


def _all_cnn_b_imagenet() -> Steps:
    return (
        *(Conv(11, 96, stride=4), Conv(1, 96), Conv(3, 96, stride=2)),
        *(_same(5, 256), Conv(1, 256), Conv(3, 256, stride=2)),
        *(_same(3, 384), Conv(1, 384), Conv(3, 384, stride=2), Drop()),
        *(_same(3, 1024), Conv(1, 1024), Conv(1, None)),
    )


def _large_all_cnn() -> Steps:
    steps: list[Step] = []
    for width, share in zip((320, 640, 960, 1280, 1600), (0.0, 0.1, 0.2, 0.3, 0.4), strict=True):
        drop = (Drop(share),) if share else ()
        steps += [Conv(2, width), *drop, Conv(2, width), *drop, Conv(2, width, stride=2)]
    return (*steps, Conv(2, 1920), Drop(), Conv(1, 1920), Conv(1, None))


def _zfnet() -> Steps:
    return (
        *(Conv(7, 96, stride=2, padding=1), Pooling(), LRN()),
        *(Conv(5, 256, stride=2), Pooling(), LRN()),
        *(_same(3, 384), _same(3, 384), _same(3, 256), Pooling(ceil_mode=False)),
        *(Conv(6, 4096), Drop(), Conv(1, 4096), Drop(), Conv(1, None, rectified=False)),
    )


@dataclass(frozen=True)
class Architecture:
    """The description of a network.

    Attributes:
        steps: Its layers, in order.
        side: The side of the images that it was made for.
        classes: The usual number of classes.
        slope: Of its LeakyReLUs; 0 where it has ReLUs.
    """

    steps: Steps
    side: int
    classes: int
    slope: float = 0.0


ARCHITECTURES: dict[str, Architecture] = {
    **{
        f"{variant}_{base}": Architecture(_cifar(base, variant), side=32, classes=10)
        for base in BASES
        for variant in VARIANTS
    },
    "all_cnn_c_pooled": Architecture(_all_cnn_c_pooled(), side=32, classes=10),
    "all_cnn_b_imagenet": Architecture(_all_cnn_b_imagenet(), side=224, classes=1000),
    "large_all_cnn": Architecture(_large_all_cnn(), side=126, classes=10, slope=1 / 3),
    "zfnet": Architecture(_zfnet(), side=224, classes=1000),
}

NAMES = tuple(ARCHITECTURES)


@dataclass(frozen=True)
class Training:
    """What a recipe puts between the layers while it trains; the saved net has none of it.

    Attributes:
        batch_norm: Whether a batch norm follows each convolution.
        input_dropout: The share of the input that is dropped.
        dropout: The share that is dropped where the paper drops half; its other shares change in proportion.
    """

    batch_norm: bool = False
    input_dropout: float = 0.0
    dropout: float = 0.0


def architecture(name: str) -> Architecture:
    """The description of a network.

    Args:
        name: One of `NAMES`.

    Returns:
        Its steps, and the images that it was made for.

    Raises:
        BadValue: There is no architecture of this name.
    """
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, NAMES, n=3, cutoff=0.4) or NAMES
        raise BadValue(f"there is no reference model {name!r}; try {', '.join(near)}")
    return ARCHITECTURES[name]


def takes(name: str, height: int, width: int) -> bool:
    """Whether a network can run on images of a size.

    Args:
        name: One of `NAMES`.
        height: Of the images, in pixels.
        width: Of the images, in pixels.

    Returns:
        False where a kernel would be larger than what is left of the image.
    """
    with torch.device("meta"):
        try:
            build(name)(torch.empty(1, 3, height, width))
        except RuntimeError:  # a kernel larger than what is left of the image
            return False
    return True


def build(
    name: str, classes: int | None = None, channels: int = 3, *, training: Training | None = None
) -> nn.Sequential:
    """Build a network with new weights: He's initialisation, biases at zero.

    Args:
        name: One of `NAMES`.
        classes: The number of classes; without it, the architecture's own.
        channels: The number of the input's colours.
        training: What a recipe adds while it trains. The layers have the same names with it and without, so that
            weights go from one to the other.

    Returns:
        The network.

    Raises:
        BadValue: There is no architecture of this name.
    """
    described = architecture(name)
    layers = OrderedDict(_layers(described, classes or described.classes, channels, training or Training()))
    net = nn.Sequential(layers)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=described.slope)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def _layers(
    described: Architecture, classes: int, channels: int, training: Training
) -> Iterator[tuple[str, nn.Module]]:
    number = {"conv": 0, "pool": 0, "lrn": 0}
    for index, step in enumerate(described.steps):
        if isinstance(step, Drop):
            # The paper's half becomes the recipe's share, and other shares in proportion.
            share = training.input_dropout if index == 0 else training.dropout * step.share / 0.5
            if share:
                yield f"drop{index}", nn.Dropout(share)
        elif isinstance(step, Pooling):
            number["pool"] += 1
            yield f"pool{number['pool']}", nn.MaxPool2d(step.kernel, step.stride, ceil_mode=step.ceil_mode)
        elif isinstance(step, LRN):
            number["lrn"] += 1
            yield f"lrn{number['lrn']}", nn.LocalResponseNorm(5)
        else:
            number["conv"] += 1
            width = step.width or classes
            yield from _conv(step, number["conv"], channels, width, described.slope, training.batch_norm)
            channels = width
    yield "mean", nn.AdaptiveAvgPool2d(1)
    yield "flat", nn.Flatten()


def _conv(
    step: Conv, number: int, channels: int, width: int, slope: float, batch_norm: bool
) -> Iterator[tuple[str, nn.Module]]:
    # A batch norm takes away what a bias adds.
    yield (
        f"conv{number}",
        nn.Conv2d(channels, width, step.kernel, step.stride, step.padding, bias=not batch_norm),
    )
    if batch_norm:
        yield f"norm{number}", nn.BatchNorm2d(width)
    if step.rectified:
        yield f"relu{number}", nn.LeakyReLU(slope) if slope else nn.ReLU()
