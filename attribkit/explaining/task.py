"""What an explainer runs for one batch of images: up to a layer or to the end, and down again by each rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribkit.engine.plan import Site
from attribkit.engine.rewriting import Rewritten
from attribkit.engine.rules import Relay
from attribkit.errors import BadType, BadValue
from attribkit.explaining import targets
from attribkit.explaining.calls import Address
from attribkit.explaining.parts import OWN_PASS, cost, together
from attribkit.explaining.passes import Pass
from attribkit.explaining.targets import Target
from attribkit.explaining.windows import ReceptiveField
from attribkit.units import Unit


@dataclass(frozen=True, eq=False)
class Explained:
    """Units explained.

    Attributes:
        units: Image by image.
        maps: For each rule the maps of all units.
        finite: Whether these are numbers throughout.
        sites: What the rules met on the way.
        output: That in which the units were looked for, where there was one.
    """

    units: list[Unit]
    maps: list[Tensor]
    finite: bool
    sites: tuple[Site, ...]
    output: Tensor | None


@dataclass(frozen=True)
class Question:
    """What does not change from call to call.

    Attributes:
        layer: Whose units are asked about; None is the model's output.
        output: Picks a tensor from the output.
        precision: "bfloat16", or None for that of the images.
        local: Whether a unit's map hangs on no more than what the unit sees.
        fast: Whether a quicker copy of the model computes.
    """

    layer: str | None
    output: Callable[[Any], Tensor] | None
    precision: str | None
    local: bool
    fast: bool = False


@dataclass(frozen=True, eq=False)
class Task:
    """A network under one rule or several, and what is asked of it.

    Attributes:
        net: The network.
        question: What is asked.
        at: The address of the layer that is asked about.
        channels_last: Whether images are laid out so.
    """

    net: Rewritten
    question: Question
    at: Address | None = None
    channels_last: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """What is asked about, for these images."""
        pick = self.question.output
        if self.channels_last and x.dim() == targets.IMAGE_DIMS:
            x = x.contiguous(memory_format=torch.channels_last)
        with self.computing(x):
            output = self.net(x) if self.at is None else self.net.forward_to(self.at[0], x, call=self.at[1] or 0)
            output = output if pick is None else pick(output)
        if not isinstance(output, Tensor):
            kind = type(output).__name__
            raise BadType(f"the output is a {kind}; pass output=, a function that picks a tensor from it")
        if output.dim() and len(output) != len(x):
            raise BadValue(
                f"the output has the shape {tuple(output.shape)}: its first dimension must be the {len(x)} images"
            )
        return targets.channels_first(output, x.dim())

    def computing(self, x: Tensor) -> AbstractContextManager[Any]:
        """The precision in force, forwards and backwards."""
        coarse = self.question.precision is not None
        return torch.autocast(x.device.type, dtype=torch.bfloat16) if coarse else nullcontext()

    def looked_at(self, images: Tensor) -> Tensor:
        """The output alone."""
        with torch.no_grad():
            return self.forward(images.detach().clone())  # since a network may write into its input

    def on_whole_images(self, images: Tensor, field: ReceptiveField, target: Target) -> Explained:
        """Units looked for and explained in one forward pass; one backward pass per unit of an image, and rule."""
        up = Pass(self.forward, images)
        units = target.among(up.output, field)
        columns = list(zip(*units, strict=True))
        # K x rules x images
        maps = [list(self.ways_down(up, column, last=column is columns[-1])) for column in columns]
        by_rule = [torch.stack(one, 1).flatten(0, 1) if len(one) > 1 else one[0] for one in zip(*maps, strict=True)]
        boxed = [replace(unit, box=field.box(unit.position)) for row in units for unit in row]
        return Explained(boxed, by_rule, all(map(_is_finite, by_rule)), tuple(self.net.sites), up.output.detach())

    def on_crops(
        self, images: Tensor, field: ReceptiveField, units: Sequence[Unit], output: Tensor | None
    ) -> Explained | None:
        """Units explained on the parts of images that they see; None where one has another activation there.

        Without the layer's output, in which they were looked for, their activations are those found on the parts.
        """
        crops = [field.crop(unit.position or ()) for unit in units]
        maps = [_zeros(len(units), images) for _ in range(self.ways)]
        found, finite = list(units), True
        for columns in together(crops, units, self.ways, images[:, 0].numel()):
            parts = torch.stack([images[units[r].image][crops[r].pixels] for r in columns[0]])
            up = Pass(self.forward, parts)
            seen = up.output.detach()
            for column in columns:
                moved = [replace(units[r], position=crops[r].position) for r in column]
                values = [float(row[unit.index]) for row, unit in zip(seen, moved, strict=True)]
                if output is not None and not _alike(values, [units[r].activation for r in column], output):
                    return None
                for r, value in zip(column, values, strict=True):
                    activation = value if output is None else units[r].activation
                    found[r] = replace(units[r], activation=activation, box=field.box(units[r].position))
                downs = self.ways_down(up, moved, last=column is columns[-1])
                for whole, part in zip(maps, downs, strict=True):
                    finite = finite and _is_finite(part)
                    for r, pixels in zip(column, part, strict=True):
                        whole[r][crops[r].pixels] = pixels
        return Explained(found, maps, finite, tuple(self.net.sites), output)

    def spares(self, images: Tensor, field: ReceptiveField, units: Sequence[Unit]) -> bool:
        """Whether the parts that units see take a tenth less than whole images do."""
        crops, count, size = [field.crop(unit.position or ()) for unit in units], len(images), images[:, 0].numel()
        downs = self.ways * len(units) // count
        parts = cost(together(crops, units, self.ways, size), crops, self.ways)
        return parts <= 0.9 * (size * (1 + downs) + OWN_PASS * downs)

    @property
    def ways(self) -> int:
        """How many rules signals go down by."""
        return len(self.net.rule.rules) if isinstance(self.net.rule, Relay) else 1

    def ways_down(self, up: Pass, units: Sequence[Unit], last: bool) -> Iterator[Tensor]:
        """One map per image, for each rule in turn; the graph is freed after the last."""
        signal, relay = targets.signal(up.output, units), self.net.rule
        for way in range(self.ways):
            if isinstance(relay, Relay):
                relay.current = relay.rules[way]
            with self.computing(up.images):
                yield up.down(signal, again=not last or way < self.ways - 1).contiguous()


def _zeros(count: int, images: Tensor) -> Tensor:
    """Maps like these images. What nobody writes to or reads of them takes no memory, and no time to clear."""
    if type(images) is not Tensor or not images.is_cpu:
        return images.new_zeros(count, *images.shape[1:])
    shape = (count, *images.shape[1:])
    cleared = np.zeros(math.prod(shape) * images.element_size(), np.uint8)  # which the system clears page by page
    return torch.from_numpy(cleared).view(images.dtype).view(shape)


def _is_finite(maps: Tensor) -> bool:
    """In one pass, without a mask as large as the maps; NaN is the smallest and the largest of whatever holds one."""
    return not maps.numel() or all(math.isfinite(end) for end in maps.aminmax())


def _alike(values: Sequence[float], others: Sequence[float], output: Tensor) -> bool:
    """Whether activations are the same, as far as the output's type and its largest value can show."""
    rounding = torch.finfo(output.dtype).eps
    bound = max(1e-4, 4 * rounding) * float(output.abs().max())
    share = max(1e-3, 4 * rounding)
    return all(math.isclose(a, b, rel_tol=share, abs_tol=bound) for a, b in zip(values, others, strict=True))
