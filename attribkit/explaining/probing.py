"""Where units look, measured: a signal goes down from five units of a layer to the pixels that it reaches.

The network runs under a rule that stops nothing (no gate, no rectifier, max-pools spread evenly), so that a signal
reaches every pixel that can matter. For one layer it goes down to the image. For all layers at once it goes down to
the nearest layers below, of which is known what they see: while one forward pass goes up, the graph is cut at each
layer whose units move evenly over those below.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attribkit.engine.plan import probing_plan
from attribkit.engine.rewriting import Rewritten, rewrite_by
from attribkit.engine.torch_private import disable_torch_function
from attribkit.explaining.failing import NetworkFails, tried
from attribkit.explaining.windows import Window

Span = tuple[int, int]
"""The first pixel that is seen along a dimension, and the one after the last."""

Lines = list[list[int]]
"""For each dimension the numbers of some lines of a map."""

PERIOD = 65_521
"""How many random weights are drawn: a prime, so that rows of a weight are not alike."""

POSITIONS: tuple[Callable[[int], int], ...] = (
    lambda n: 0,
    lambda n: 1,
    lambda n: n // 2,
    lambda n: n - 2,
    lambda n: n - 1,
)
"""The first units, the middle and the last: what windows clipped on either side, and on none, can show."""


def probing_net(model: nn.Module) -> Rewritten:
    """A copy of a model that stops no signal. Its weights are positive: no path is shut, and none cancels another."""
    net = rewrite_by(model, probing_plan())
    random = torch.rand(PERIOD, generator=torch.Generator().manual_seed(0)) + 0.5
    new: dict[int, nn.Parameter] = {}
    for module in net.modules():
        for name, weight in module._parameters.items():
            if weight is None or not weight.is_floating_point():
                continue
            if id(weight) not in new:
                values = random / max(1, weight[0].numel()) if weight.dim() > 1 else random
                new[id(weight)] = nn.Parameter(_repeated(values.to(weight), weight.shape), requires_grad=False)
            module._parameters[name] = new[id(weight)]
    return net


def _repeated(values: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of this shape, filled with values over and over: drawing them all would take longer than the probe."""
    count = math.prod(shape)
    return values.repeat(-(-count // len(values)))[:count].reshape(shape)


def noise_like(images: Tensor) -> Tensor:
    """One image of noise, the same every time, of the size, type and device of others."""
    random = torch.Generator().manual_seed(0)
    return torch.rand(1, *images.shape[1:], generator=random).to(images)


def probed(plane: Sequence[int]) -> list[tuple[int, ...]]:
    """Five positions in a map: not its diagonal, so that a net which swaps rows and columns is found out."""
    turns = range(len(POSITIONS))
    return [tuple(min(POSITIONS[(k + 2 * d) % len(turns)](n), n - 1) for d, n in enumerate(plane)) for k in turns]


# --------------------------------------------------------------------------------------------------------- signals


class Ground:
    """A tensor that signals are followed down to.

    Attributes:
        ref: Leads to it, for as long as a graph does.
        sees: For each dimension what each line sees of the image; None for a line that sees nothing.
        windows: Those of its units, where it is a layer's output.
    """

    def __init__(self, tensor: Tensor, sees: Sequence[Sequence[Span | None]], windows: tuple[Window, ...] = ()) -> None:
        self.ref = weakref.ref(tensor)
        self.sees = sees
        self.windows = windows

    def lines(self) -> Lines | None:
        """Those that the last signal has reached; None where it has not come here."""
        tensor = self.ref()
        if tensor is None or tensor.grad is None:
            return None
        reached = tensor.grad.abs().amax(1)[0] != 0
        tensor.grad = None
        dims = range(reached.dim())
        return [reached.movedim(d, 0).reshape(reached.shape[d], -1).any(1).nonzero().flatten().tolist() for d in dims]


class Signals:
    """Sends signals down from units to whatever grounds are below them: at first, the image."""

    def __init__(self, image: Tensor) -> None:
        self.plane = image.shape[2:]
        self.grounds = [Ground(image, [[(i, i + 1) for i in range(size)] for size in self.plane])]
        self.random = torch.Generator().manual_seed(0)

    def send(self, units: Tensor, position: Sequence[int]) -> dict[Ground, Lines]:
        """The lines that a signal from all channels of a position reaches."""
        signal = torch.zeros_like(units)
        # Random strengths, so that equal and opposite paths do not cancel.
        signal[0][everywhere(position)] = (torch.rand(units.shape[1], generator=self.random) + 0.5).to(signal)
        with tried():
            torch.autograd.backward([units], [signal], retain_graph=True)
        return {ground: lines for ground in self.grounds if (lines := ground.lines()) is not None}

    def forget_what_is_gone(self) -> None:
        """Leave out grounds that no graph leads to any more."""
        self.grounds = [ground for ground in self.grounds if ground.ref() is not None]

    def ground_of(self, units: Tensor) -> Ground | None:
        """The ground of which this is the copy that went on from there."""
        node = units.grad_fn
        if node is None or node.name() != "CloneBackward0":
            return None
        below = getattr(node.next_functions[0][0], "variable", None)
        return next((ground for ground in self.grounds if ground.ref() is below), None)

    def windows(self, positions: Sequence[Sequence[int]], reached: Sequence[dict[Ground, Lines]]) -> tuple[Window, ...]:
        """Those that explain what units at these positions reach; where there are none, they see everything."""
        found = []
        for d, size in enumerate(self.plane):
            spans = [_hull(g.sees[d][line] for g, lines in signal.items() for line in lines[d]) for signal in reached]
            at = sorted((p[d], span or (0, size)) for p, span in zip(positions, spans, strict=True))
            found.append(_window(size, *zip(*at, strict=True)))
        return tuple(found)


def everywhere(position: Sequence[int]) -> tuple[slice | int, ...]:
    """The index of all channels at a position."""
    return slice(None), *position


def _hull(spans: Iterable[Span | None]) -> Span | None:
    """The shortest span that holds all of these."""
    real = [span for span in spans if span is not None]
    return (min(start for start, _ in real), max(stop for _, stop in real)) if real else None


def _window(size: int, positions: Sequence[int], spans: Sequence[Span]) -> Window:
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

    def fits(i: int, span: Span) -> bool:
        # At an edge, holes of a dilated window may make the span shorter than the box.
        start, stop = window.box(i)
        return (start == span[0] or 0 == start < span[0]) and (stop == span[1] or size == stop > span[1])

    return window if stride > 0 and all(map(fits, positions, spans)) else Window(size)


# ------------------------------------------------------------------------------------------- all layers in one pass


def all_windows(model: nn.Module, layers: Sequence[str], image: Tensor) -> dict[str, tuple[Window, ...]]:
    """The windows of these layers' units, found in one forward pass on noise like `image`.

    Args:
        model: It stays as it is.
        layers: In the order in which their first calls end.
        image: One, as a batch.
    """
    net, noise = probing_net(model), noise_like(image).requires_grad_()
    climb = _Climb(noise)
    for layer in layers:
        net.model.get_submodule(layer).register_forward_hook(climb.at(layer))  # type: ignore[union-attr]
    try:
        with tried(), torch.enable_grad():
            net.forward_to(layers[-1], noise.clone())  # since a network may write into its input
    except NetworkFails:
        pass  # what lies above is not known
    return {layer: climb.windows.get(layer, climb.everything) for layer in layers}


class _Climb:
    """Probes each layer when the forward pass has come to it, and cuts the graph there if it can."""

    def __init__(self, image: Tensor) -> None:
        self.signals = Signals(image)
        self.everything = tuple(Window(size) for size in image.shape[2:])
        self.windows: dict[str, tuple[Window, ...]] = {}
        self.passed: set[str] = set()

    def at(self, layer: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        """The forward hook for a layer."""

        def hook(module: nn.Module, args: Any, output: Any) -> Tensor | None:
            if layer in self.passed or not self.can_be_probed(output):
                self.passed.add(layer)
                return None
            self.passed.add(layer)
            with disable_torch_function():
                return self.cut(layer, output)

        return hook

    def can_be_probed(self, output: Any) -> bool:
        """Whether it is a map for one image, and a signal can go down from it."""
        return (
            isinstance(output, Tensor)
            and output.requires_grad
            and output.dim() == len(self.everything) + 2
            and len(output) == 1
        )

    def cut(self, layer: str, units: Tensor) -> Tensor | None:
        """Probe a layer; what goes on from here in place of its output."""
        self.signals.forget_what_is_gone()
        same = self.signals.ground_of(units)  # the output of the last layer within is this one's, too
        if same is not None and same.windows:
            self.windows[layer] = same.windows
            return None
        positions = probed(units.shape[2:])
        try:
            by_position = {position: self.signals.send(units, position) for position in set(positions)}
        except NetworkFails:
            return None
        reached = [by_position[position] for position in positions]
        windows = self.signals.windows(positions, reached) if min(units.shape[2:]) > 1 else self.everything
        self.windows[layer] = windows
        sees = [_sees(d, n, positions, reached) for d, n in enumerate(units.shape[2:])]
        if any(lines is None for lines in sees):
            return None
        tensor = units.detach().requires_grad_()
        self.signals.grounds.append(Ground(tensor, [lines for lines in sees if lines is not None], windows))
        return tensor.clone()  # which, unlike a leaf of the graph, may be written into


def _sees(
    d: int, count: int, positions: Sequence[Sequence[int]], reached: Sequence[dict[Ground, Lines]]
) -> list[Span | None] | None:
    """What each line of a dimension sees of the image; None where the lines do not move evenly over those below."""
    spans: list[list[Span | None]] = [[] for _ in range(count)]
    for ground in {ground for signal in reached for ground in signal}:
        below = ground.sees[d]
        at = [
            (p[d], signal[ground][d] if ground in signal else []) for p, signal in zip(positions, reached, strict=True)
        ]
        lines_of = _even(at, count, len(below))
        if lines_of is None:
            return None
        for i, seen in enumerate(spans):
            seen += [below[line] for line in lines_of(i)]
    return [_hull(seen) for seen in spans]


def _even(at: Sequence[tuple[int, list[int]]], count: int, below: int) -> Callable[[int], list[int]] | None:
    """What each of `count` lines reaches of the lines below, if that is the same for all but for its place.

    `at` has some lines and what they reach: all of them everything, or the middle one's pattern, moved by a stride.
    """
    by_line = dict(at)
    if count == 1 or all(len(lines) == below for _, lines in at):
        same = at[0][1]
        return (lambda i: same) if all(lines == same for _, lines in at) else None
    first, second, last_but_one, last = (by_line[i] for i in (0, 1, count - 2, count - 1))
    stride = 0
    if first and second and last_but_one and last:
        stride = max(second[-1] - first[-1], last[0] - last_but_one[0])
    pattern = [line - stride * (count // 2) for line in by_line[count // 2]]

    def lines_of(i: int) -> list[int]:
        return [line for offset in pattern if 0 <= (line := stride * i + offset) < below]

    return lines_of if stride > 0 and all(lines_of(i) == lines for i, lines in at) else None
