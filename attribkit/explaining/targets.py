"""What is explained: a class, a unit, a channel, several at once.

A target is a channel and a position of an output of shape N x C x ...; a logit is a channel without positions. Of
tokens, N x T x C, the feature is the channel and the token the position.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from attribkit.errors import BadType, BadValue
from attribkit.explaining.windows import ReceptiveField
from attribkit.units import Unit

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

At = Literal["max", "inside", "all"] | Sequence[int]
One = int | Sequence[int] | Tensor
Several = Sequence[int] | Sequence[Sequence[int]] | Tensor

Rows = list[list[Unit]]
"""For each image its units."""


class Target(Protocol):
    """Which units are asked for."""

    @property
    def has_positions(self) -> bool:
        """Whether each is one place in its map, and no whole channel."""

    def among(self, output: Tensor, field: ReceptiveField) -> Rows:
        """The units, looked for in an output whose units see this."""

    def unseen(self, shape: Sequence[int]) -> Rows | None:
        """The units in a map of this shape, with unknown activations; None where they have to be looked for."""

    def of_first(self, images: int) -> Target:
        """Those of the first images only."""


@dataclass(frozen=True)
class Asked:
    """Some channels (images x K) of each image, or the strongest one, at a position, the strongest, or everywhere."""

    layer: str | None
    channels: Tensor | None
    at: At

    @property
    def has_positions(self) -> bool:
        return not isinstance(self.at, str) or self.at != "all"

    def among(self, output: Tensor, field: ReceptiveField) -> Rows:
        return choose(output, self.layer, self.channels, self.at, field)

    def unseen(self, shape: Sequence[int]) -> Rows | None:
        if self.channels is None or isinstance(self.at, str):
            return None
        count, *plane = shape
        _check(self.channels, count, self.layer)
        place = position_at(_position(self.at, plane) or 0, plane)
        rows = enumerate(self.channels.tolist())
        return [[Unit(image, self.layer, channel, place, math.nan) for channel in row] for image, row in rows]

    def of_first(self, images: int) -> Target:
        return self if self.channels is None else replace(self, channels=self.channels[:images])


@dataclass(frozen=True)
class _Ranked:
    """Channels of each image that are chosen by how strong all of them are.

    Attributes:
        layer: The layer's path.
        at: As everywhere.
    """

    layer: str | None
    at: At

    @property
    def has_positions(self) -> bool:
        return self.at != "all"

    def among(self, output: Tensor, field: ReceptiveField) -> Rows:
        strengths, _ = _strengths(output, self.at, self.layer, field)
        return choose(output, self.layer, self.ranked(strengths), self.at, field)

    def ranked(self, strengths: Tensor) -> Tensor:
        """The channels, images x K, by the strengths of all, images x C."""
        raise NotImplementedError

    def unseen(self, shape: Sequence[int]) -> Rows | None:
        return None

    def of_first(self, images: int) -> Target:
        return self


@dataclass(frozen=True)
class Strongest(_Ranked):
    """The strongest channels of each image: `count` of them, the strongest first, or all in their order."""

    count: int | None

    def ranked(self, strengths: Tensor) -> Tensor:
        if self.count is None:
            return torch.arange(strengths.shape[1], device=strengths.device).expand(len(strengths), -1)
        _check(torch.tensor([self.count - 1]), strengths.shape[1], self.layer)
        return strengths.sort(dim=1, descending=True, stable=True).indices[:, : self.count]


@dataclass(frozen=True)
class Unusual(_Ranked):
    """The channel of each image that is furthest above what is usual for it: its mean over other images.

    Attributes:
        usual: For each channel its mean; None takes that over the other images of the batch.
    """

    usual: Tensor | None

    def ranked(self, strengths: Tensor) -> Tensor:
        return (strengths - self._usual(strengths)).argmax(1, keepdim=True)

    def _usual(self, strengths: Tensor) -> Tensor:
        if self.usual is None:
            if len(strengths) < 2:
                raise BadValue(
                    "what is unusual shows beside other images: explain several at once, or say what is usual"
                )
            return (strengths.sum(0) - strengths) / (len(strengths) - 1)
        if self.usual.shape != strengths.shape[1:]:
            count = f"{len(self.usual)} channels are known, and {self.layer!r} has {strengths.shape[1]}"
            raise BadValue(f"what is usual is known of another layer: {count}")
        return self.usual.to(strengths)


@dataclass(frozen=True)
class Given:
    """One known unit per image."""

    units: Sequence[Unit]

    @property
    def has_positions(self) -> bool:
        return all(unit.position is not None for unit in self.units)

    def among(self, output: Tensor, field: ReceptiveField) -> Rows:
        values = [float(output[image][unit.index].detach().sum()) for image, unit in enumerate(self.units)]
        return [[replace(u, image=i, activation=v)] for i, (u, v) in enumerate(zip(self.units, values, strict=True))]

    def unseen(self, shape: Sequence[int]) -> Rows | None:
        return [[replace(unit, image=image, activation=math.nan)] for image, unit in enumerate(self.units)]

    def of_first(self, images: int) -> Target:
        return Given(self.units[:images])


def channels_first(output: Tensor, image_dims: int) -> Tensor:
    """An output with its channels behind the images: of tokens (N x T x C), which no image is like, they come last."""
    return output.movedim(-1, 1) if output.dim() == TOKEN_DIMS != image_dims else output


IMAGE_DIMS, TOKEN_DIMS = 4, 3
"""How many dimensions a batch of images has, and one of tokens."""


def choose(
    output: Tensor, layer: str | None, channels: Tensor | None, at: At, field: ReceptiveField | None = None
) -> Rows:
    """For each image its units: in the given channels (images x K), or the strongest of all; "inside" needs a field."""
    strengths, where = _strengths(output, at, layer, field)
    if channels is None:
        channels = strengths.argmax(1, keepdim=True)
    channels = channels.to(strengths.device)
    _check(channels, output.shape[1], layer)
    whole = at == "all" or output.dim() == 2
    values = (_flat(output).sum(-1) if at == "all" else strengths).gather(1, channels).tolist()
    places = where.gather(1, channels).tolist()

    def position_of(place: int) -> tuple[int, ...] | None:
        return None if whole else position_at(place, output.shape[2:])

    return [
        [Unit(image, layer, channel, position_of(place), value) for channel, place, value in zip(*row, strict=True)]
        for image, row in enumerate(zip(channels.tolist(), places, values, strict=True))
    ]


def _strengths(output: Tensor, at: At, layer: str | None, field: ReceptiveField | None) -> tuple[Tensor, Tensor]:
    """Of each image and channel the strongest activation where units are looked for, and its flat position."""
    if output.dim() < 2 or not output.is_floating_point():
        raise BadType(
            f"cannot explain an output of shape {tuple(output.shape)} and type {output.dtype}; "
            "pass output=, a function that picks a float tensor of images x channels"
        )
    flat, position = _flat(output), _position(at, output.shape[2:])
    if position is not None:
        return flat[..., position], torch.full(flat.shape[:2], position, device=flat.device)
    if at == "inside":
        inside = _inside(field, output.shape[2:]).to(flat.device) if field is not None else torch.zeros(1)
        if not inside.any():
            raise BadValue(
                f"no unit of {layer or 'the output'} sees the inside of an image only: leave out at='inside'"
            )
        flat = flat.masked_fill(~inside, -math.inf)
    return tuple(flat.max(-1))  # type: ignore[return-value]


def _flat(output: Tensor) -> Tensor:
    return output.detach().flatten(2) if output.dim() > 2 else output.detach()[..., None]


def _inside(field: ReceptiveField, plane: Sequence[int]) -> Tensor:
    """Which positions of a map see nothing beyond the edges of the image, flat."""
    inside = torch.ones((), dtype=torch.bool)
    for window, size in zip(field.windows, plane, strict=True):
        line = torch.tensor([window.is_inside(i) for i in range(size)])
        inside = inside[..., None] & line
    return inside.flatten()


def signal(output: Tensor, units: Sequence[Unit]) -> Tensor:
    """Ones where the units are, one unit per image, and zeros elsewhere."""
    ones = torch.zeros_like(output)
    for row, unit in zip(ones, units, strict=True):
        row[unit.index] = 1
    return ones


# ----------------------------------------------------------------------------------------- how channels are written


def as_channels(one: object, several: object, images: int, name: str) -> Tensor | None:
    """Channels as images x K, from the two ways to name them: `name` for one per image, its plural for several."""
    plural = f"{name}s" if name == "target" else "channels"
    if one is not None and several is not None:
        raise BadValue(f"{name}= means one per image, {plural}= several for every image: give only one of them")
    if several is not None:
        return _several(_whole_numbers(several, plural), images, name, plural)
    return None if one is None else _one(_whole_numbers(one, name), images, name, plural)


def _one(channels: Tensor, images: int, name: str, plural: str) -> Tensor:
    if channels.dim() == 0:
        return channels.expand(images, 1)
    if channels.shape != (images,):
        raise BadValue(
            f"{name}={channels.tolist()} does not fit {images} images: give a number, or a list of one per image; "
            f"{plural}= takes several for every image"
        )
    return channels[:, None]


def _several(channels: Tensor, images: int, name: str, plural: str) -> Tensor:
    if channels.dim() == 0:
        raise BadValue(
            f"{plural}= takes a list, such as {plural}=[{channels}]; for a single one write {name}={channels}"
        )
    if channels.dim() == 1:
        channels = channels[None]
    if len(channels) not in (1, images) or channels.numel() == 0:
        raise BadValue(f"{len(channels)} lists of {plural} do not fit {images} images: give one list, or one per image")
    return channels.expand(images, -1)


def _whole_numbers(value: object, name: str) -> Tensor:
    try:
        numbers = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadType(f"{name}= takes whole numbers, not {value!r}") from error
    if numbers.numel() and (numbers.dtype not in INTEGERS or numbers.dim() > 2):
        raise BadType(f"{name}= takes whole numbers, not {value!r}")
    return numbers.long()


def _position(at: At, plane: Sequence[int]) -> int | None:
    """The flat index of a position; None where every position counts."""
    if isinstance(at, str):
        if at not in ("max", "inside", "all"):
            raise BadValue(f"at is 'max', 'inside', 'all' or a position such as (4, 7), not {at!r}")
        return None
    return flat_index(at, plane)


def flat_index(at: Sequence[int], plane: Sequence[int], what: str = "a map") -> int:
    """The flat index of a position in a plane; negative numbers count from the end."""
    try:
        at = [operator.index(i) for i in at]
    except TypeError:
        raise BadType(
            f"at is 'max', 'inside', 'all' or a position in whole numbers such as (4, 7), not {at!r}"
        ) from None
    if len(at) != len(plane) or not all(-size <= i < size for i, size in zip(at, plane, strict=True)):
        raise BadValue(f"no position {tuple(at)} in {what} of {'x'.join(map(str, plane)) or 'no positions'}")
    index = 0
    for i, size in zip(at, plane, strict=True):
        index = index * size + i % size
    return index


def position_at(flat: int, plane: Sequence[int]) -> tuple[int, ...]:
    """The position of a flat index."""
    position: list[int] = []
    for size in reversed(plane):
        flat, i = divmod(flat, size)
        position.insert(0, i)
    return tuple(position)


def _check(channels: Tensor, count: int, layer: str | None) -> None:
    if bool(((channels < 0) | (channels >= count)).any()):
        what = f"the layer {layer!r} has {count} channels" if layer else f"the model has {count} outputs"
        wrong = channels[(channels < 0) | (channels >= count)][0].item()
        raise BadValue(f"{what}, 0 to {count - 1}; there is no {wrong}")
