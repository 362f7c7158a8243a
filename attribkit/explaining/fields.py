"""Where in the image a unit looks, found by probing the network itself.

A network under a rule that stops nothing (no gate, no rectifier, max-pools spread evenly) passes a signal to every
pixel that can matter. Probing five units of a layer gives the window of all of them, wherever windows move evenly
with the unit; where they do not (global operations, uneven grids) every unit is said to see the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from attribkit.engine.plan import probing_plan
from attribkit.engine.rewriting import Rewritten, rewrite_by
from attribkit.engine.shadow import shadow
from attribkit.explaining.targets import check_layer

Result = TypeVar("Result")


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
        """The box of unit i, begun on a multiple of the stride, not behind the unit itself."""
        start, stop = self.box(i)
        start = min(start, i * self.stride)
        return start - start % self.stride, stop


@dataclass(frozen=True)
class ReceptiveField:
    """The windows of a layer's units, one a dimension. `exact_on_crops`: a unit gives the same on what it sees."""

    windows: tuple[Window, ...]
    exact_on_crops: bool

    def box(self, position: Sequence[int] | None) -> tuple[int, ...]:
        """What the unit at a position sees: starts, then ends. Without a position the whole image."""
        if not position:
            return (*(0 for _ in self.windows), *(w.size for w in self.windows))
        spans = [w.box(i) for w, i in zip(self.windows, position, strict=True)]
        return (*(s for s, _ in spans), *(e for _, e in spans))

    def share(self) -> float:
        """The part of an image that a unit's crop makes up, at the most."""
        return math.prod(w.longest() / w.size for w in self.windows)

    def worth_cropping(self) -> bool:
        """Whether a unit is explained with at most half of the arithmetic on the part that it sees."""
        return self.exact_on_crops and self.share() <= 0.5

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
    if layer is None or images.dim() < 3:
        return _sees_everything(images)
    known = _known.setdefault(model, {})
    key = (layer, images.shape[1:], images.dtype, images.device)
    structure = _structure(model)
    if key not in known or known[key][0] != structure:
        probe = shadow(model)
        check_layer(probe, layer)
        _randomise(probe)
        known[key] = structure, _probe(rewrite_by(probe, probing_plan()), layer, images)
    return known[key][1]


# What was probed holds until the model's structure changes. Its weights may: the probe does not use them.
_known: WeakKeyDictionary[nn.Module, dict[Any, tuple[int, ReceptiveField]]] = WeakKeyDictionary()


def _structure(model: nn.Module) -> int:
    """A hash of what decides where a network looks: modules, settings, hooks, and tensors that are no weights."""
    parts: list[Any] = []
    for name, module in model.named_modules():
        parts += [name, type(module), *(tuple(p.shape) for p in module.parameters(recurse=False))]
        for key, value in vars(module).items():
            if key == "training":  # the probe is in eval mode, whatever the model is in
                continue
            if isinstance(value, (bool, int, float, str, tuple, list, type(None))):
                parts += [key, str(value)]
            elif key.endswith("_hooks"):
                parts += [id(hook) for hook in value.values()]
            elif isinstance(value, Tensor):
                parts += _contents(value)
            elif isinstance(value, dict) and not key.startswith("_"):
                parts += [key, str(value)]
        for buffer in module.buffers(recurse=False):
            parts += _contents(buffer)
    return hash(tuple(parts))


def _contents(tensor: Tensor) -> list[Any]:
    flat = tensor.detach().cpu().reshape(-1).contiguous()
    return [tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()]


def _sees_everything(images: Tensor) -> ReceptiveField:
    return ReceptiveField(tuple(Window(size) for size in images.shape[2:]), exact_on_crops=False)


def _probe(net: Rewritten, layer: str, images: Tensor) -> ReceptiveField:
    random = torch.Generator().manual_seed(0)
    noise = torch.rand(1, *images.shape[1:], generator=random).to(images)
    with torch.no_grad():
        units = _or_none(lambda: net.forward_to(layer, noise.clone()))  # since a network may write into its input
    if not isinstance(units, Tensor) or units.dim() != images.dim() or min(units.shape[2:]) < 2:
        return _sees_everything(images)
    # Other pairs than the diagonal, so that a net which swaps rows and columns is found out.
    turn = range(len(POSITIONS))
    probes = [[POSITIONS[(k + 2 * d) % 5](n) for d, n in enumerate(units.shape[2:])] for k in turn]
    spans = _or_none(lambda: _spans(net, layer, noise, probes, random))
    if spans is None:
        return _sees_everything(images)
    windows = tuple(
        _window(size, *zip(*sorted((p[d], s[d]) for p, s in zip(probes, spans, strict=True)), strict=True))
        for d, size in enumerate(images.shape[2:])
    )
    field = ReceptiveField(windows, exact_on_crops=True)
    if field.share() <= 0.5 and all(_same_on_crop(net, layer, noise, units, field, p) for p in probes):
        return field
    return ReceptiveField(windows, exact_on_crops=False)


# The first units, the middle and the last: what windows clipped on either side, and on none, can tell.
POSITIONS: tuple[Callable[[int], int], ...] = (
    lambda n: 0,
    lambda n: 1,
    lambda n: n // 2,
    lambda n: n - 2,
    lambda n: n - 1,
)


def _randomise(model: nn.Module) -> None:
    """Positive weights: no path is closed by a zero, and none cancels another."""
    random = torch.Generator().manual_seed(0)
    new: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is None or not weight.is_floating_point():
                continue
            if id(weight) not in new:
                values = torch.rand(weight.shape, generator=random) + 0.5
                values /= max(1, weight[0].numel()) if weight.dim() > 1 else 1
                new[id(weight)] = nn.Parameter(values.to(weight), requires_grad=False)
            module._parameters[name] = new[id(weight)]


def _or_none(run: Callable[[], Result]) -> Result | None:
    try:
        return run()
    except Exception:  # a network may fail in any way on a size or batch that it was not made for: see all, then
        return None


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
        row[_everywhere(position)] = (torch.rand(len(row), generator=random) + 0.5).to(signal)
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

    def fits(i: int, span: tuple[int, int]) -> bool:
        # At an edge, holes of a dilated window may make the span shorter than the box.
        start, stop = window.box(i)
        return (start == span[0] or 0 == start < span[0]) and (stop == span[1] or size == stop > span[1])

    return window if stride > 0 and all(map(fits, positions, spans)) else Window(size)


def _same_on_crop(
    net: Rewritten, layer: str, noise: Tensor, units: Tensor, field: ReceptiveField, position: Sequence[int]
) -> bool:
    crop = field.crop(position)
    with torch.no_grad():
        cropped = _or_none(lambda: net.forward_to(layer, noise[0][crop.pixels][None].clone()))
    if cropped is None or not all(0 <= i < n for i, n in zip(crop.position, cropped.shape[2:], strict=True)):
        return False
    whole, part = units[0][_everywhere(position)], cropped[0][_everywhere(crop.position)]
    return torch.allclose(part, whole, rtol=1e-5, atol=1e-5 * float(units.abs().max()))


def _everywhere(position: Sequence[int]) -> tuple[slice | int, ...]:
    """The index of all channels at a position."""
    return slice(None), *position
