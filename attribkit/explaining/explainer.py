"""`Explainer`, made once and asked often, and `explain`, one question asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from attribkit.engine import rules
from attribkit.engine.plan import plan_of
from attribkit.engine.rules import Relay
from attribkit.engine.switches import Switches
from attribkit.errors import BadValue
from attribkit.explaining import targets
from attribkit.explaining.attribution import Attribution
from attribkit.explaining.drawing import Inputs
from attribkit.explaining.given import (
    Method,
    Model,
    Pick,
    check_images,
    check_names,
    has_function,
    is_one,
    named,
    unloaded,
)
from attribkit.explaining.labels import numbered
from attribkit.explaining.misfit import said_of_images
from attribkit.explaining.nets import Nets
from attribkit.explaining.targets import Asked, At, Given, One, Several, Target
from attribkit.explaining.task import Explained, Question
from attribkit.units import Unit

Result = TypeVar("Result")


Classes = One | str | Sequence[str]
"""One class per image: its number or its name, or a list of these."""


class Explainer(Generic[Result]):
    """A model that is prepared once and explained often: which pixels made a unit fire?

        explainer = attribkit.Explainer(model, "guided", layer="features.28")
        for images in batches:
            a = explainer(images)                       # the strongest unit of the layer, for each image
        a = explainer(images, channel=7, at=(4, 4))     # this one

    Several threads may use it at once. It uses the model's own weights, so it sees when they change. If a part of the
    model is replaced, set or hooked, it prepares the model again; each call checks this.

    Args:
        model: A network, or what `attribkit.load` returned. It is not changed.
        method: "backprop", "deconvnet", "guided", a `Rule`, a function of `(signal, gate)`, or a mapping from patterns
            to these, which gives each part of the network a rule of its own. A list of methods shares the forward
            pass, and answers are dicts by name.
        layer: The path of the layer whose units are explained, or the module. Without it, the output is explained.
        output: Picks the tensor to explain where the output is a tuple, a dict or an object.
        switches: How a signal passes max-pools: "own", recorded `Switches`, "uniform", "center" or "corner".
        activations: "all" makes the smooth ones (GELU, SiLU...) follow the rule too.
        overlap: Where windows of a pool overlap, signals "add" up, or the last one is kept ("overwrite").
        replay: "both" makes the forward pass follow the switches as well.
        norms: Whether local response normalisation is bypassed: by the deconvnet only ("rule"), always ("bypass") or
            never ("gradient").
        precision: "bfloat16" computes in bfloat16, forwards and backwards, as `torch.autocast` does. Maps have the
            type of the images nevertheless.
        fast: Compute with a copy of the model whose batch norms are folded and whose channels come last: the same to
            rounding. Weights that change are seen where torch counts it, so not behind `tensor.data`.

    Raises:
        BadValue: An argument makes no sense, or the model has no such layer.
        CannotRewrite: The model has no faithful copy.
    """

    @overload
    def __init__(
        self: Explainer[Attribution],
        model: Model,
        method: Method = "guided",
        *,
        layer: str | nn.Module | None = None,
        output: Pick | None = None,
        switches: str | Switches = "own",
        activations: Literal["rectifiers", "all"] = "rectifiers",
        overlap: Literal["add", "overwrite"] = "add",
        replay: Literal["down", "both"] = "down",
        norms: Literal["rule", "bypass", "gradient"] = "rule",
        precision: Literal["bfloat16"] | None = None,
        fast: bool = False,
    ) -> None: ...
    @overload
    def __init__(
        self: Explainer[dict[str, Attribution]],
        model: Model,
        method: Sequence[Method],
        *,
        layer: str | nn.Module | None = None,
        output: Pick | None = None,
        switches: str | Switches = "own",
        activations: Literal["rectifiers", "all"] = "rectifiers",
        overlap: Literal["add", "overwrite"] = "add",
        replay: Literal["down", "both"] = "down",
        norms: Literal["rule", "bypass", "gradient"] = "rule",
        precision: Literal["bfloat16"] | None = None,
        fast: bool = False,
    ) -> None: ...
    def __init__(
        self,
        model: Model,
        method: Method | Sequence[Method] = "guided",
        *,
        layer: str | nn.Module | None = None,
        output: Pick | None = None,
        switches: str | Switches = "own",
        activations: Literal["rectifiers", "all"] = "rectifiers",
        overlap: Literal["add", "overwrite"] = "add",
        replay: Literal["down", "both"] = "down",
        norms: Literal["rule", "bypass", "gradient"] = "rule",
        precision: Literal["bfloat16"] | None = None,
        fast: bool = False,
    ) -> None:
        self._loaded = model
        self.model, loaded_output, self.labels = unloaded(model)
        self.layer = layer = named(layer, self.model)
        self.output = output or (loaded_output if layer is None else None)
        self._several = not is_one(method)
        methods: Sequence[Any] = method if self._several else [method]  # type: ignore[assignment]
        self._rules = [rules.resolve(each) for each in methods]
        check_names([rule.name for rule in self._rules])
        if precision not in (None, "bfloat16"):
            raise BadValue(f"precision is 'bfloat16' or None, not {precision!r}")
        self.precision = precision
        rule = self._rules[0] if len(self._rules) == 1 else Relay(self._rules)
        plan = plan_of(rule, activations, switches, overlap, replay, norms)
        # Recorded switches point into whole planes; signals that overwrite may carry to a unit what lies beside it.
        local = isinstance(switches, str) and replay == "down" and overlap == "add" and self.output is None
        local = local and not any(map(has_function, self._rules))
        self._nets = Nets(self.model, plan, Question(layer, self.output, precision, local, fast))
        self.settings: dict[str, Any] = {
            "switches": switches if isinstance(switches, str) else "recorded",
            "activations": activations,
            "overlap": overlap,
            "replay": replay,
            "norms": norms,
        }
        self.settings |= {"precision": precision} if precision else {}
        self.settings |= {"fast": True} if fast else {}

    @property
    def methods(self) -> list[str]:
        """The names of the methods, in their order."""
        return [rule.name for rule in self._rules]

    def __call__(
        self,
        images: Tensor,
        *,
        channel: One | None = None,
        channels: Several | None = None,
        at: At = "max",
        target: Classes | None = None,
        targets: Several | Sequence[str] | None = None,
    ) -> Result:
        """Explain a unit of each image, or several.

        Args:
            images: N x C x H x W, floats.
            channel: One channel of the layer: a number, or a list with one per image. Without it, the strongest.
            channels: Several channels of every image: a flat list, or a list for each image.
            at: A position in the layer's map, "max" (the strongest), "inside" (the strongest that sees nothing beyond
                the image's edges) or "all" (the whole channel). Of a layer of tokens a token's number, or the row and
                the column of the patch that it stands for.
            target: One class: a number, a label, or a list with one per image. Without it, the predicted one.
            targets: Several classes of every image.

        Returns:
            The maps, one per unit, image by image. A unit that sees a part of its image is explained on that part,
            where this changes nothing; its map is zero elsewhere. For a list of methods, a dict by their names.

        Raises:
            BadValue: An argument does not fit the model or the other arguments.
            NothingToRewrite: The rule has nothing to act on in this model.
        """
        check_images(images, self.model, self.precision)
        asked = Asked(self.layer, self._channels(len(images), channel, channels, target, targets), at)
        results = self.results(self.explained(images, asked))
        inputs = Inputs.of(self._loaded, images)
        if isinstance(results, dict):
            return {name: replace(result, inputs=inputs) for name, result in results.items()}  # type: ignore[return-value]
        return replace(results, inputs=inputs)  # type: ignore[type-var]

    def maps(self, images: Tensor, units: Sequence[Unit]) -> dict[str, Tensor]:
        """The maps of known units.

        Args:
            images: N x C x H x W, floats.
            units: One per image; their channels and positions count.

        Returns:
            For each method, by its name, one map per image.
        """
        check_images(images, self.model, self.precision)
        explained = self.explained(images, Given(units))
        return dict(zip(self.methods, explained.maps, strict=True))

    def explained(self, images: Tensor, target: Target, seen: Tensor | None = None) -> Explained:
        """What `results` are made of, and the output in which units were looked for.

        Args:
            images: N x C x H x W, floats.
            target: The units that are asked for.
            seen: The layer's output for these images, where it is known already.
        """
        with torch.inference_mode(False), self._nets.lent() as net, said_of_images(self.model, images):
            return net.explained(images.clone() if images.is_inference() else images, target, seen)

    def results(self, explained: Explained) -> Result:
        """Results with everything that they say of themselves."""
        results = {
            name: Attribution(
                values=maps,
                units=tuple(explained.units),
                method=name,
                model=type(self.model).__name__,
                sites=explained.sites,
                settings=self.settings,
            )
            for name, maps in zip(self.methods, explained.maps, strict=True)
        }
        return results if self._several else results[self.methods[0]]  # type: ignore[return-value]

    # --------------------------------------------------------------------------------------- arguments, checked

    def _channels(
        self, images: int, channel: One | None, channels: Several | None, target: object, several: object
    ) -> Tensor | None:
        if self.layer is not None and not (target is None and several is None):
            raise BadValue("target names a class of the output; with layer= write channel=")
        if self.layer is None and not (channel is None and channels is None):
            raise BadValue("channel goes with layer=; for a class of the output write target=")
        if self.layer is None:
            one, more = numbered(target, self.labels), numbered(several, self.labels)
            return targets.as_channels(one, more, images, "target")
        return targets.as_channels(channel, channels, images, "channel")


# ---------------------------------------------------------------------------------------------------------- explain


@overload
def explain(  # type: ignore[overload-overlap]  # a str is a sequence of str, but one method
    model: Model,
    images: Tensor,
    method: Method = "guided",
    *,
    layer: str | nn.Module | None = None,
    channel: One | None = None,
    channels: Several | None = None,
    at: At = "max",
    target: Classes | None = None,
    targets: Several | Sequence[str] | None = None,
    output: Pick | None = None,
    switches: str | Switches = "own",
    activations: Literal["rectifiers", "all"] = "rectifiers",
    overlap: Literal["add", "overwrite"] = "add",
    replay: Literal["down", "both"] = "down",
    norms: Literal["rule", "bypass", "gradient"] = "rule",
    precision: Literal["bfloat16"] | None = None,
    fast: bool = False,
) -> Attribution: ...
@overload
def explain(
    model: Model,
    images: Tensor,
    method: Sequence[Method],
    *,
    layer: str | nn.Module | None = None,
    channel: One | None = None,
    channels: Several | None = None,
    at: At = "max",
    target: Classes | None = None,
    targets: Several | Sequence[str] | None = None,
    output: Pick | None = None,
    switches: str | Switches = "own",
    activations: Literal["rectifiers", "all"] = "rectifiers",
    overlap: Literal["add", "overwrite"] = "add",
    replay: Literal["down", "both"] = "down",
    norms: Literal["rule", "bypass", "gradient"] = "rule",
    precision: Literal["bfloat16"] | None = None,
    fast: bool = False,
) -> dict[str, Attribution]: ...
@overload
def explain(
    model: Model,
    images: tuple[Tensor, ...],
    method: Method | Sequence[Method] = "guided",
    *,
    layer: str | nn.Module | None = None,
    channel: One | None = None,
    channels: Several | None = None,
    at: At = "max",
    target: Classes | None = None,
    targets: Several | Sequence[str] | None = None,
    output: Pick | None = None,
    switches: str | Switches = "own",
    activations: Literal["rectifiers", "all"] = "rectifiers",
    overlap: Literal["add", "overwrite"] = "add",
    replay: Literal["down", "both"] = "down",
    norms: Literal["rule", "bypass", "gradient"] = "rule",
    precision: Literal["bfloat16"] | None = None,
    fast: bool = False,
) -> tuple[Any, ...]: ...
def explain(
    model: Model,
    images: Tensor | tuple[Tensor, ...],
    method: Method | Sequence[Method] = "guided",
    *,
    layer: str | nn.Module | None = None,
    channel: One | None = None,
    channels: Several | None = None,
    at: At = "max",
    target: Classes | None = None,
    targets: Several | Sequence[str] | None = None,
    output: Pick | None = None,
    switches: str | Switches = "own",
    activations: Literal["rectifiers", "all"] = "rectifiers",
    overlap: Literal["add", "overwrite"] = "add",
    replay: Literal["down", "both"] = "down",
    norms: Literal["rule", "bypass", "gradient"] = "rule",
    precision: Literal["bfloat16"] | None = None,
    fast: bool = False,
) -> Attribution | dict[str, Attribution] | tuple[Any, ...]:
    """Explain which pixels made a unit fire.

        a = attribkit.explain(model, images, layer="features.28")  # a layer's strongest unit
        a = attribkit.explain(model, images, target=281)  # a class; the predicted one by default

    To ask about one model often, make an `Explainer`, which takes the same options.

    Args:
        model: A network, or what `attribkit.load` returned. It is not changed.
        images: N x C x H x W, floats; for a model of several inputs a tuple of them.
        method: "backprop", "deconvnet", "guided", a `Rule`, a function of `(signal, gate)`, or a mapping from patterns
            to these, which gives each part of the network a rule of its own. A list of methods shares one forward
            pass and gives a dict by name.
        layer: The path of the layer whose units are explained, or the module. Without it, the output is explained.
        channel: One channel of the layer: a number, or a list with one per image. Without it, the strongest.
        channels: Several channels of every image: a flat list, or a list for each image.
        at: A position in the layer's map, "max" (the strongest), "inside" (the strongest of the units that see nothing
            beyond the image's edges) or "all" (the whole channel). Of a layer of tokens a token's number, or
            the row and the column of the patch that it stands for.
        target: One class: a number, a label, or a list with one per image. Without it, the predicted one.
        targets: Several classes of every image.
        output: Picks the tensor to explain where the output is a tuple, a dict or an object.
        switches: How a signal passes max-pools: "own", recorded `Switches`, "uniform", "center" or "corner".
        activations: "all" makes the smooth ones (GELU, SiLU...) follow the rule too.
        overlap: Where windows of a pool overlap, signals "add" up, or the last one is kept ("overwrite").
        replay: "both" makes the forward pass follow the switches as well.
        norms: Whether local response normalisation is bypassed: by the deconvnet only ("rule"), always ("bypass") or
            never ("gradient").
        precision: "bfloat16" computes in bfloat16, as `torch.autocast` does; maps have the type of the images.
        fast: Fold batch norms, and have channels last, in a copy: the same to rounding.

    Returns:
        The maps, one per unit, image by image. For a list of methods, a dict of results by their names. For a tuple of
        inputs, a tuple with the results of each.

    Raises:
        BadValue: An argument does not fit the model or the other arguments.
        NothingToRewrite: The rule has nothing to act on in this model.
    """
    options: dict[str, Any] = {
        "output": output,
        "switches": switches,
        "activations": activations,
        "overlap": overlap,
        "replay": replay,
        "norms": norms,
        "precision": precision,
        "fast": fast,
    }
    asked: dict[str, Any] = {"channel": channel, "channels": channels, "target": target, "targets": targets, "at": at}
    if isinstance(images, tuple):
        from attribkit.explaining.several import explain_each

        path = named(layer, unloaded(model)[0])
        return explain_each(explain, model, images, path, {"method": method, **options, **asked})
    explainer: Explainer[Any] = Explainer(model, method, layer=layer, **options)
    return explainer(images, **asked)
