"""`explain`: one call from a model and images to an `Attribution`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from attribkit.engine import rules
from attribkit.engine.plan import plan_of
from attribkit.engine.rewriting import Rewritten, rewrite_by
from attribkit.engine.rules import Relay, Rule, RuleFunction
from attribkit.engine.shadow import unwrapped
from attribkit.engine.switches import Switches
from attribkit.errors import BadType, BadValue
from attribkit.explaining import targets
from attribkit.explaining.attribution import Attribution
from attribkit.explaining.fields import Crop, ReceptiveField, receptive_field
from attribkit.explaining.targets import At, Unit

Method = str | Rule | RuleFunction


@overload
def explain(model: nn.Module, images: Tensor, method: Method = "guided", **options: Any) -> Attribution: ...
@overload
def explain(model: nn.Module, images: Tensor, method: Sequence[Method], **options: Any) -> dict[str, Attribution]: ...
def explain(  # type: ignore[misc]  # the options, which both forms share, are written once, here
    model: nn.Module,
    images: Tensor,
    method: Method | Sequence[Method] = "guided",
    *,
    layer: str | None = None,
    channel: int | Sequence[int] | Tensor | None = None,
    at: At = "max",
    target: int | Sequence[int] | Tensor | None = None,
    output: Callable[[Any], Tensor] | None = None,
    switches: str | Switches = "own",
    activations: Literal["rectifiers", "all"] = "rectifiers",
    overlap: Literal["add", "overwrite"] = "add",
    replay: Literal["down", "both"] = "down",
    norms: Literal["rule", "bypass", "gradient"] = "rule",
) -> Attribution | dict[str, Attribution]:
    """Which pixels made a unit fire?

        a = attribkit.explain(model, images, layer="features.28")      # the strongest unit of a layer
        a = attribkit.explain(model, images, target=281)               # a class; without target the predicted one

    `channel` names one channel of the layer, or several, each of which is explained for every image; `at` is a
    position, "max" (the strongest) or "all" (the whole channel). `target` is one class, or one for each image.
    `output` picks a tensor where the model's output is a tuple, a dict or an object. The other options are those
    of `rewrite`. Several methods share one forward pass and give a dict by name.

    The maps are in `values`, one a unit, image by image; a unit that sees a part of the image is explained on that
    part, where this changes nothing, and its map is zero elsewhere.
    """
    methods = [method] if isinstance(method, (str, Rule)) or callable(method) else method
    chosen = [rules.resolve(m) for m in methods]
    _check_names([rule.name for rule in chosen])
    _check(model, images, layer, channel, target)
    channels = targets.as_channels(target if layer is None else channel, len(images), per_image=layer is None)
    # Recorded switches point into whole planes; the others may carry to a unit what lies beside it.
    local = isinstance(switches, str) and replay == "down" and overlap == "add" and output is None
    local = local and at != "all" and not any(rule.function for rule in chosen)
    with torch.inference_mode(False):
        images = images.clone() if images.is_inference() else images
        net = rewrite_by(model, plan_of(Relay(chosen), activations, switches, overlap, replay, norms))
        task = _Task(net, images, layer, chosen, output or _the_tensor)
        # What `output` computes may look elsewhere than the layer's own units.
        field = receptive_field(model, layer if output is None else None, images)
        explained = task.on_crops(field, channels, at) if local and field.worth_cropping() else None
        units, values = explained or task.on_whole_images(field, channels, at)
    settings = {
        "switches": switches if isinstance(switches, str) else "recorded",
        "activations": activations,
        "overlap": overlap,
        "replay": replay,
        "norms": norms,
    }
    results = {
        rule.name: Attribution(
            values=maps,
            units=tuple(units),
            method=rule.name,
            model=type(model).__name__,
            sites=tuple(net.sites),
            settings=settings,
        )
        for rule, maps in zip(chosen, values, strict=True)
    }
    return results if methods is method else results[chosen[0].name]


Explained = tuple[list[Unit], list[Tensor]]


@dataclass(frozen=True)
class _Task:
    """What is run: a network under several rules, up to a layer or to the end."""

    net: Rewritten
    images: Tensor
    layer: str | None
    rules: Sequence[Rule]
    output: Callable[[Any], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.net(x) if self.layer is None else self.net.forward_to(self.layer, x))

    def on_whole_images(self, field: ReceptiveField, channels: Tensor | None, at: At) -> Explained:
        """Units chosen and explained in one forward pass; one backward pass a unit of an image, and a rule."""
        with torch.enable_grad():
            x = self.images.detach().requires_grad_()
            output = self.forward(x.clone())  # a clone, since a network may write into its input
        units = targets.choose(output, self.layer, channels, at)
        columns = list(zip(*units, strict=True))
        maps = [
            list(self.backward(output, x, column, last=column is columns[-1])) for column in columns
        ]  # K x rules x images
        values = [torch.stack([by_rule[r] for by_rule in maps], 1).flatten(0, 1) for r in range(len(self.rules))]
        return [replace(unit, box=field.box(unit.position)) for row in units for unit in row], values

    def on_crops(self, field: ReceptiveField, channels: Tensor | None, at: At) -> Explained | None:
        """Each unit explained on the part of the image that it sees; None where that part gives another activation."""
        with torch.no_grad():
            output = self.forward(self.images.detach().clone())
        units = [unit for row in targets.choose(output, self.layer, channels, at) for unit in row]
        crops = [field.crop(unit.position or ()) for unit in units]
        values = [self.images.new_zeros(len(units), *self.images.shape[1:]) for _ in self.rules]
        tolerance = 1e-4 * float(output.abs().max())
        for rows in _batches(crops, self.images):
            parts = torch.stack([self.images[units[r].image][crops[r].pixels] for r in rows])
            moved = [replace(units[r], position=crops[r].position) for r in rows]
            with torch.enable_grad():
                x = parts.detach().requires_grad_()
                output = self.forward(x.clone())
            found = torch.stack([row[unit.index] for row, unit in zip(output.detach(), moved, strict=True)])
            if not torch.allclose(found, found.new_tensor([u.activation for u in moved]), rtol=1e-3, atol=tolerance):
                return None
            for maps, gradient in zip(values, self.backward(output, x, moved, last=True), strict=True):
                for r, part in zip(rows, gradient, strict=True):
                    maps[r][crops[r].pixels] = part
        return [replace(unit, box=field.box(unit.position)) for unit in units], values

    def backward(self, output: Tensor, x: Tensor, units: Sequence[Unit], last: bool) -> Iterator[Tensor]:
        """One map an image, for each rule in turn; the graph is freed after the last."""
        if not output.requires_grad:
            raise BadValue("no gradient reaches the images: the model detaches its output from them")
        signal = targets.signal(output, units)
        for rule in self.rules:
            self.net.plan.rule.current = rule  # type: ignore[misc]
            keep = not (last and rule is self.rules[-1])
            (gradient,) = torch.autograd.grad(output, x, signal, retain_graph=keep)
            yield gradient


def _batches(crops: Sequence[Crop], images: Tensor) -> Iterator[list[int]]:
    """Numbers of crops of one shape, so many at a time that a batch is no larger than the images are."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for row, crop in enumerate(crops):
        by_shape.setdefault(crop.shape, []).append(row)
    for shape, rows in by_shape.items():
        size = max(1, images[:, 0].numel() // math.prod(shape))
        yield from (rows[i : i + size] for i in range(0, len(rows), size))


def _the_tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise BadType(f"the output is a {type(output).__name__}; pass output=, a function that picks a tensor from it")
    return output


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise BadValue("method is an empty list; give at least one")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        remedy = "each needs its own, as in attribkit.Rule('mine', function=lambda signal, gate: ...)"
        raise BadValue(f"{names.count(twice[0])} methods are called {twice[0]!r}; {remedy}")


def _check(model: nn.Module, images: Tensor, layer: str | None, channel: Any, target: Any) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise BadType(f"images are a float tensor of N x C x H x W, not {kind}; preprocess them first")
    if images.dim() == 3 and any(isinstance(m, nn.Conv2d) for m in model.modules()):
        raise BadValue("images have no batch dimension; write images[None] for one image")
    if images.numel() == 0:
        raise BadValue(f"there is nothing to explain in images of shape {tuple(images.shape)}")
    if layer is not None:
        targets.check_layer(unwrapped(model), layer)
    if layer is not None and target is not None:
        raise BadValue("target names a class of the output; with layer= write channel=")
    if layer is None and channel is not None:
        raise BadValue("channel goes with layer=; for a class of the output write target=")
