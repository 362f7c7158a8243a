"""Where in the image a unit looks, found by probing the network itself.

A network under a rule that stops nothing (no gate, no rectifier, max-pools spread evenly) passes a signal to every
pixel that can matter. Probing five units of a layer gives the window of all of them, wherever windows move evenly
with the unit; where they do not (global operations, uneven grids) every unit is said to see the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from attribkit.rewriting import Rewritten, plan_of, rewrite_by
from attribkit.rules import Rule

OPEN = Rule("open", gate=False, rectify=False)


@dataclass(frozen=True)
class Window:
    """Along one dimension, unit i sees from i * stride - before to i * stride + after; None: to the edge."""

    size: int
    stride: int = 1
    before: int | None = None
    after: int | None = None

    def box(self, i: int) -> tuple[int, int]:
        """The first pixel that unit i sees, and the one after the last."""
        start = 0 if self.before is None else max(0, i * self.stride - self.before)
        stop = self.size if self.after is None else min(self.size, i * self.stride + self.after)
        return start, stop

    def longest(self) -> int:
        """The most pixels that a crop for a unit has."""
        if self.before is None or self.after is None:
            return self.size
        return min(self.size, self.before + self.after + self.stride - 1)

    def crop(self, i: int) -> tuple[int, int]:
        """The box of unit i, begun on a multiple of the stride."""
        start, stop = self.box(i)
        return start - start % self.stride, stop


@dataclass(frozen=True)
class ReceptiveField:
    """The windows of a layer's units, one a dimension. `exact_on_crops`: a unit gives the same on what it sees."""

    windows: tuple[Window, ...]
    exact_on_crops: bool

    def box(self, position: Sequence[int] | None) -> tuple[int, ...]:
        """What the unit at a position sees: starts, then ends. Without a position the whole image."""
        if position is None:
            return (*(0 for _ in self.windows), *(w.size for w in self.windows))
        spans = [w.box(i) for w, i in zip(self.windows, position, strict=True)]
        return (*(s for s, _ in spans), *(e for _, e in spans))

    def worth_cropping(self) -> bool:
        """Whether a unit is explained with at most half of the arithmetic on the part that it sees."""
        sees = math.prod(w.longest() / w.size for w in self.windows)
        return self.exact_on_crops and sees <= 0.5

    def crop(self, position: Sequence[int]) -> Crop:
        """The part of an image on which to run the network for this unit."""
        spans = [w.crop(i) for w, i in zip(self.windows, position, strict=True)]
        moved = tuple(i - s // w.stride for w, i, (s, _) in zip(self.windows, position, spans, strict=True))
        return Crop((slice(None), *(slice(*span) for span in spans)), moved)


@dataclass(frozen=True)
class Crop:
    """`image[crop.pixels]` is what a unit sees, and `position` is its place in the output for that."""

    pixels: tuple[slice, ...]
    position: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The spatial size."""
        return tuple(span.stop - span.start for span in self.pixels[1:])


def receptive_field(model: nn.Module, layer: str | None, images: Tensor) -> ReceptiveField:
    """Where the units of a layer look, in images of this size; None is the model's output, which sees all."""
    if layer is None:
        return _sees_everything(images)
    known = _known.setdefault(model, {})
    key = (layer, images.shape[1:], images.dtype, images.device)
    state = hash((repr(model), *((p.data_ptr(), p._version) for p in model.parameters())))
    if key not in known or known[key][0] != state:
        known[key] = state, _probe(model, layer, images)
    return known[key][1]


# What was probed holds for as long as neither the model's structure nor its weights change.
_known: WeakKeyDictionary[nn.Module, dict[Any, tuple[int, ReceptiveField]]] = WeakKeyDictionary()


def _sees_everything(images: Tensor) -> ReceptiveField:
    return ReceptiveField(tuple(Window(size) for size in images.shape[2:]), exact_on_crops=False)


def _probe(model: nn.Module, layer: str, images: Tensor) -> ReceptiveField:
    net = rewrite_by(model, plan_of(OPEN, activations="all", switches="uniform"))
    plane = images.shape[2:]
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(1, *images.shape[1:], generator=random).to(images)
    with torch.no_grad():
        units = net.forward_to(layer, noise)
    if not isinstance(units, Tensor) or units.dim() != images.dim() or min(units.shape[2:]) < 2:
        return _sees_everything(images)
    probes = [[d(n) for n in units.shape[2:]] for d in (_first, _second, _middle, _last_but_one, _last)]
    spans = _spans(net, layer, noise, probes, random)
    windows = tuple(_window(size, [p[d] for p in probes], [s[d] for s in spans]) for d, size in enumerate(plane))
    field = ReceptiveField(windows, exact_on_crops=True)
    exact = all(_same_on_crop(net, layer, noise, units, field, probe) for probe in probes[1:4])
    return ReceptiveField(windows, exact)


def _everywhere(position: Sequence[int]) -> tuple[slice | int, ...]:
    """The index of all channels at a position."""
    return slice(None), *position


def _first(n: int) -> int:
    return 0


def _second(n: int) -> int:
    return 1


def _middle(n: int) -> int:
    return n // 2


def _last_but_one(n: int) -> int:
    return n - 2


def _last(n: int) -> int:
    return n - 1


def _spans(
    net: Rewritten, layer: str, noise: Tensor, probes: Sequence[Sequence[int]], random: torch.Generator
) -> list[list[tuple[int, int]]]:
    """For each probed position the span of pixels, in each dimension, that a signal from there reaches."""
    x = noise.expand(len(probes), *noise.shape[1:]).clone().requires_grad_()
    with torch.enable_grad():
        output = net.forward_to(layer, x.clone())
    signal = torch.zeros_like(output)
    for row, position in zip(signal, probes, strict=True):
        # Random strengths, so that equal and opposite paths do not cancel.
        row[_everywhere(position)] = torch.randn(len(row), generator=random).to(signal)
    (reached,) = torch.autograd.grad(output, x, signal)
    spans = []
    for pixels in (reached != 0).any(1):
        nonzero = pixels.nonzero()
        if len(nonzero) == 0:
            spans.append([(0, size) for size in pixels.shape])
        else:
            low, high = nonzero.min(0).values.tolist(), nonzero.max(0).values.tolist()
            spans.append([(a, b + 1) for a, b in zip(low, high, strict=True)])
    return spans


def _window(size: int, positions: Sequence[int], spans: Sequence[tuple[int, int]]) -> Window:
    """The window that explains all spans along one dimension, or one that sees everything."""
    (_, stop0), (_, stop1), _, (start2, _), (start3, _) = spans
    after = before = None
    stride = 0
    if stop1 < size:
        stride, after = stop1 - stop0, stop0
    if start2 > 0:
        stride = max(stride, start3 - start2)
        before = positions[4] * stride - start3
    window = Window(size, max(stride, 1), before, after)
    fits = all(window.box(i) == span for i, span in zip(positions, spans, strict=True))
    return window if stride > 0 and fits else Window(size)


def _same_on_crop(
    net: Rewritten, layer: str, noise: Tensor, units: Tensor, field: ReceptiveField, position: Sequence[int]
) -> bool:
    crop = field.crop(position)
    try:
        with torch.no_grad():
            cropped = net.forward_to(layer, noise[0][crop.pixels][None])
    except (RuntimeError, ValueError, AssertionError):
        return False  # a network that takes one size of image only
    whole, part = units[0][_everywhere(position)], cropped[0][_everywhere(crop.position)]
    return torch.allclose(part, whole, rtol=1e-3, atol=1e-4 * float(units.abs().max()))
