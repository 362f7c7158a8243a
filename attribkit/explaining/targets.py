"""What is explained: a class, a unit, a channel, several at once.

A target is a channel and a position of an output of shape N x C x ...; a logit is a channel without positions.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from attribkit.errors import BadType, BadValue

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

At = Literal["max", "all"] | Sequence[int]


@dataclass(frozen=True)
class Unit:
    """One thing explained, and the part of the image that it sees.

    `layer` is None for the model's output, `position` None for a logit or a whole channel (its activation is then
    the sum). `box` is where the unit looks: first the starts, then the ends, so top, left, bottom, right.
    """

    image: int
    layer: str | None
    channel: int
    position: tuple[int, ...] | None
    activation: float
    box: tuple[int, ...] | None = None

    @property
    def index(self) -> tuple[int, ...]:
        """Where the unit is in the output for one image; for a whole channel, its first dimension only."""
        return self.channel, *(self.position or ())


def choose(output: Tensor, layer: str | None, channels: Tensor | None, at: At) -> list[list[Unit]]:
    """For each image its units: in the given channels (images x K), or the strongest of all."""
    if output.dim() < 2 or not output.is_floating_point():
        raise BadType(
            f"cannot explain an output of shape {tuple(output.shape)} and type {output.dtype}; "
            "pass output=, a function that picks a float tensor of images x channels"
        )
    flat = output.detach().flatten(2) if output.dim() > 2 else output.detach()[..., None]
    position = _position(at, output.shape[2:])
    seen = flat[..., position : position + 1] if position is not None else flat
    strength, where = seen.max(-1)
    if channels is None:
        channels = strength.argmax(1, keepdim=True)
    channels = channels.to(flat.device)
    _check(channels, output, layer)
    whole = at == "all" or output.dim() == 2
    values = (flat.sum(-1) if at == "all" else strength).gather(1, channels).tolist()
    places = where.gather(1, channels).tolist()

    def position_of(place: int) -> tuple[int, ...] | None:
        index = torch.unravel_index(torch.tensor(place if position is None else position), output.shape[2:])
        return tuple(int(i) for i in index)

    return [
        [
            Unit(image, layer, channel, None if whole else position_of(place), value)
            for channel, place, value in zip(*row, strict=True)
        ]
        for image, row in enumerate(zip(channels.tolist(), places, values, strict=True))
    ]


def signal(output: Tensor, units: Sequence[Unit]) -> Tensor:
    """Ones where the units are, one unit an image, and zeros elsewhere."""
    ones = torch.zeros_like(output)
    for row, unit in zip(ones, units, strict=True):
        row[unit.index] = 1
    return ones


def as_channels(value: int | Sequence[int] | Tensor | None, images: int, per_image: bool) -> Tensor | None:
    """Channels as images x K: one for all, a list of K for all, or (`per_image`) a list of one an image."""
    if value is None:
        return None
    try:
        channels = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadType(f"channels and classes are whole numbers or lists of them, not {value!r}") from error
    if channels.dtype not in INTEGERS or channels.dim() > 2:
        raise BadType(f"channels and classes are whole numbers or lists of them, not {value!r}")
    if channels.dim() < 2:
        channels = channels.reshape(-1, 1) if per_image else channels.reshape(1, -1)
    if channels.shape[0] not in (1, images) or channels.numel() == 0:
        raise BadValue(f"{channels.shape[0]} targets do not fit {images} images: give one, or one an image")
    return channels.long().expand(images, -1)


def _position(at: At, plane: Sequence[int]) -> int | None:
    """The flat index of a position; None where every position counts."""
    if isinstance(at, str):
        if at not in ("max", "all"):
            raise BadValue(f"at is 'max', 'all' or a position such as (4, 7), not {at!r}")
        return None
    at = [int(i) for i in at]
    if len(at) != len(plane) or not all(-size <= i < size for i, size in zip(at, plane, strict=True)):
        raise BadValue(f"no position {tuple(at)} in a map of {'x'.join(map(str, plane)) or 'no positions'}")
    flat = 0
    for i, size in zip(at, plane, strict=True):
        flat = flat * size + i % size
    return flat


def _check(channels: Tensor, output: Tensor, layer: str | None) -> None:
    count = output.shape[1]
    if bool(((channels < 0) | (channels >= count)).any()):
        what = f"the layer {layer!r} has {count} channels" if layer else f"the model has {count} outputs"
        wrong = channels[(channels < 0) | (channels >= count)][0].item()
        raise BadValue(f"{what}, 0 to {count - 1}; there is no {wrong}")


def check_layer(model: nn.Module, layer: str) -> None:
    """Raise, with the nearest names, unless the model has a module of this name."""
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        near = difflib.get_close_matches(layer, names, n=3, cutoff=0.4) or names[-3:]
        raise BadValue(f"no layer {layer!r} in {type(model).__name__}; near it: {', '.join(near)}")
