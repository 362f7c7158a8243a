"""Rewritten networks of one model, kept for the next question: each answers one caller at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attribkit.engine.packing import Packings, pack
from attribkit.engine.plan import Plan
from attribkit.engine.rewriting import rewrite_by
from attribkit.engine.rules import Relay
from attribkit.engine.shadow import unwrapped
from attribkit.errors import BadType, BadValue, ModelChanged
from attribkit.explaining.calls import address, calls
from attribkit.explaining.failing import NetworkFails, tried
from attribkit.explaining.fields import KnownField, known_field
from attribkit.explaining.finite import check_finite
from attribkit.explaining.quick import quickened
from attribkit.explaining.snapshot import kept, snapshot
from attribkit.explaining.targets import Rows, Target, flat_index, position_at
from attribkit.explaining.task import Explained, Question, Task
from attribkit.explaining.tokens import Place, places
from attribkit.explaining.windows import ReceptiveField
from attribkit.units import Unit

ROUNDING = 1e-3
"""What a quick copy's outputs may be off, as a share of the largest."""

COMPARED = 4
"""So many images are enough to compare parts with, where nothing has to be looked for on whole ones."""


class Nets:
    """A network for each caller who asks at the same time, made anew when the model is no longer what it was."""

    def __init__(self, model: Any, plan: Plan, question: Question) -> None:
        self.model = model
        self.plan = plan
        self.question = question
        self.lock = threading.Lock()
        self.quick: tuple[Any, nn.Module, Packings] | None = None
        self.idle = [self.made(self.now())]

    @contextmanager
    def lent(self) -> Iterator[Net]:
        """A network, until it is given back."""
        now = self.now()
        with self.lock:
            self.idle = [net for net in self.idle if net.fits(now)]
            net = self.idle.pop() if self.idle else None
        net = net or self.made(now)
        try:
            with net.of_one_state():
                yield net
        finally:
            with self.lock:
                self.idle.append(net)

    def now(self) -> list[Any]:
        """The model's snapshot."""
        return snapshot(unwrapped(self.model) if isinstance(self.model, nn.Module) else self.model)

    def made(self, now: list[Any]) -> Net:
        """A network for the model as it is now."""
        layer, at = self.question.layer, None
        if layer is not None:
            if not isinstance(self.model, nn.Module):
                raise BadType(f"layer={layer!r} needs an nn.Module, not a {type(self.model).__name__}")
            at = address(unwrapped(self.model), layer)
        plan = self.plan
        if isinstance(plan.rule, Relay):  # of which each network needs its own: it is turned while signals go down
            plan = replace(plan, rule=Relay(plan.rule.rules))
        with torch.inference_mode(False):
            task = Task(rewrite_by(self.model, plan), self.question, at)
            if not self.question.fast:
                return Net(self.model, now, task)
            quick, packings = self.quickened(now)
            return Net(self.model, now, task, replace(task, net=rewrite_by(quick, plan), channels_last=True), packings)

    def quickened(self, now: list[Any]) -> tuple[nn.Module, Packings]:
        """A quick copy of the model and its packed weights, the same for all nets for as long as the weights stay."""
        with self.lock:
            state = now, versions(weights(self.model))
            if self.quick is None or self.quick[0] != state:
                self.quick = state, quickened(unwrapped(self.model)), {}
            return self.quick[1:]


class Net:
    """A rewritten network, and the snapshot of the model that it was made from."""

    def __init__(
        self, model: Any, snapshot: list[Any], task: Task, quick: Task | None = None, packings: Packings | None = None
    ) -> None:
        self.model = model
        self.snapshot = snapshot
        self.task = task
        self.quick = quick
        self.packings = {} if packings is None else packings
        self.question = task.question
        self.weights = weights(model)
        self.of = versions(self.weights)

    def fits(self, now: list[Any]) -> bool:
        """Whether it still is what would be made of the model; weights themselves are shared, but with a quick copy."""
        return self.snapshot == now and (not self.question.fast or self.of == versions(self.weights))

    @contextmanager
    def of_one_state(self) -> Iterator[None]:
        """Refuses what was computed while another thread changed the weights: a step of training, for one."""
        before = versions(self.weights)
        # Torch does not count what is written through `.data`, as some optimizers do.
        seen = samples(self.weights) if threading.active_count() > 1 else []
        try:
            yield
        except RuntimeError as error:  # torch's own, where a weight changed between the way up and the way down
            if versions(self.weights) == before:
                raise
            raise self.changed() from error
        if versions(self.weights) != before or (seen and not all(map(torch.equal, seen, samples(self.weights)))):
            raise self.changed()

    def changed(self) -> ModelChanged:
        return ModelChanged(
            f"the weights of {type(self.model).__name__} changed while it was explained: ask again,"
            " or explain a copy.deepcopy of it where another thread trains it"
        )

    def explained(self, images: Tensor, target: Target, seen: Tensor | None) -> Explained:
        """Units of these images, each with its maps; `seen` is the layer's output, where somebody has it already."""
        if self.quick is not None:
            self.task, self.quick = self._compared(self.quick, images), None
        known = self.known(images, target)
        target = self.addressed(known, images, target)
        explained = self.on_crops(known, images, target, seen)
        explained = explained or self.task.on_whole_images(images, known.field, target)
        check_finite(explained, self.task, images)
        tokens = any(unit.position is not None and len(unit.position) == 1 for unit in explained.units)
        name, places = self.name(images), self.places(known, images) if tokens else {}
        named = [replace(unit, layer=name, place=_place(unit, places)) for unit in explained.units]
        return replace(explained, units=named)

    def places(self, known: KnownField, images: Tensor) -> dict[int, Place]:
        """Those of the layer's tokens; of maps, which have the image's dimensions, none."""
        if self.question.layer is None or self.question.output is not None or known.field.shape is not None:
            return {}
        return places(self.model, self.question.layer, images, self.snapshot)

    def addressed(self, known: KnownField, images: Tensor, target: Target) -> Target:
        """The target by the numbers of tokens, where it is by their places."""
        at = getattr(target, "at", "all")
        if isinstance(at, str) or not hasattr(at, "__len__") or len(at) != 2:
            return target
        found = self.places(known, images)
        if not found:
            return target
        tokens = {place: token for token, place in found.items()}
        grid = [side + 1 for side in max(tokens)]
        row, column = position_at(flat_index(at, grid, "the patches' grid"), grid)
        return replace(target, at=(tokens[row, column],))  # type: ignore[type-var]

    def _compared(self, quick: Task, images: Tensor) -> Task:
        """The quick one, where it gives what the model gives, but for rounding in single precision."""
        exactly = replace(self.question, precision=None)
        models = replace(self.task, question=exactly).looked_at(images[:1])
        try:
            with tried():
                ours = replace(quick, question=exactly).looked_at(images[:1])
        except NetworkFails:  # it may look at memory as it lies, by `view`
            quick.net.to(memory_format=torch.contiguous_format)
            quick = replace(quick, channels_last=False)
            ours = replace(quick, question=exactly).looked_at(images[:1])
        else:
            pack(quick.net, self.packings)
        if ours.shape != models.shape or (ours - models).abs().max() > ROUNDING * models.abs().max():
            what = "the output" if self.question.layer is None else f"layer {self.question.layer!r}"
            raise BadValue(
                f"fast=True changes what {what} gives, as folding does to a convolution before its norm: ask for the"
                " norm, or leave fast out"
            )
        return quick

    def name(self, images: Tensor) -> str | None:
        """The layer's, with the number of its call where it is called several times and none was asked for."""
        if self.task.at is None or self.task.at[1] is not None:
            return self.question.layer
        path = self.task.at[0]
        key = ("calls", path, images.shape[1:])
        several = kept(self.model, self.snapshot, key, lambda: calls(self.task.net, path, images)) > 1
        return f"{path}:0" if several else path

    def known(self, images: Tensor, target: Target) -> KnownField:
        """What is known of the units' windows; what `output` computes may look elsewhere than the layer's own."""
        if self.question.layer is None or self.question.output is not None or not target.has_positions:
            return KnownField(ReceptiveField.everything(images.shape[2:]))
        return known_field(self.model, self.question.layer, images, self.snapshot)

    def on_crops(self, known: KnownField, images: Tensor, target: Target, seen: Tensor | None) -> Explained | None:
        """Units explained on the parts that they see, where that is exact and spares arithmetic; else None.

        Where channel and position are known, the parts are all that goes through the network; but not before they
        have been compared with the whole of some images.
        """
        if not self.question.local or not self._worth_cropping(known, images, target):
            return None
        shape = known.field.shape
        if not known.tried and seen is None and len(images) > COMPARED and shape and target.unseen(shape):
            self.on_crops(known, images[:COMPARED], target.of_first(COMPARED), None)
            return self.on_crops(known, images, target, None)
        rows, output = self._units(known, images, target, seen)
        explained = self.task.on_crops(images, known.field, [unit for row in rows for unit in row], output)
        if explained is None:
            known.no_crops()
        else:
            known.tried = True
        return explained

    def _worth_cropping(self, known: KnownField, images: Tensor, target: Target) -> bool:
        """Whether parts spare arithmetic; more so where units are known and need not be looked for on whole images."""
        field = known.field
        rows = target.unseen(field.shape) if field.exact_on_crops and field.shape is not None else None
        if rows is None or field.worth_cropping():
            return field.worth_cropping()
        return self.task.spares(images, field, [unit for row in rows for unit in row])

    def _units(
        self, known: KnownField, images: Tensor, target: Target, seen: Tensor | None
    ) -> tuple[Rows, Tensor | None]:
        """The units, and the output in which they were looked for; None where they are known without it."""
        # A network in which nothing is known to follow the rule is run to its end, once; for that a part may not do.
        begun = any(site.follows for site in self.task.net.sites)
        rows = target.unseen(known.field.shape) if known.tried and known.field.shape is not None and begun else None
        if rows is not None:
            return rows, None
        output = seen if seen is not None and begun else self.task.looked_at(images)
        return target.among(output, known.field), output


def _place(unit: Unit, places: dict[int, Place]) -> Place | None:
    return places.get(unit.position[0]) if places and unit.position is not None else None


def weights(model: Any) -> list[Tensor]:
    """What a map is made of and training changes."""
    held = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    return [tensor for tensor in held if not tensor.is_inference()]


def versions(tensors: Sequence[Tensor]) -> list[int]:
    """How often each has been written into, by torch's count."""
    return [tensor._version for tensor in tensors]


def samples(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The bytes of one value per channel of each that lies in the CPU's memory, as they are now."""
    plain = [t for t in tensors if type(t) in (Tensor, nn.Parameter) and t.is_cpu and t.layout == torch.strided]
    with torch.no_grad():
        values = [_one_per_channel(tensor).reshape(-1) for tensor in plain if tensor.numel()]
        return [value.clone(memory_format=torch.contiguous_format).view(torch.uint8) for value in values]


def _one_per_channel(tensor: Tensor) -> Tensor:
    while tensor.dim() > 1:
        tensor = tensor[..., 0]
    return tensor
