"""Captum's class signatures over our engine: change one import, and functional ReLUs and ReLU6 follow the rule too.

    from attribkit.adapters.captum import GuidedBackprop      # instead of: from captum.attr import GuidedBackprop
    maps = GuidedBackprop(model).attribute(images, target=281)

The classes are Captum's own kind, so `NoiseTunnel`, `captum.metrics` and `isinstance` take them. Two things differ.
The model runs in eval mode whatever mode it is in, and where it has no rectifier at all there is an error
(`NothingToRewrite`) and not a plain gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr
import torch
from captum._utils.common import _format_output, _format_tensor_into_tuples, _is_tuple
from captum._utils.gradient import construct_neuron_grad_fn
from captum.attr import GradientAttribution, NeuronAttribution
from captum.log import log_usage
from torch import Tensor, nn

from attribkit.engine.rewriting import Rewritten, rewrite
from attribkit.engine.shadow import unwrapped
from attribkit.errors import BadType, BadValue
from attribkit.studies.incremental import Patches, Runner
from attribkit.studies.occlusion import starts

Tensors = Tensor | tuple[Tensor, ...]
Gradients = Callable[..., tuple[Tensor, ...]]


def _attribute(
    net: Rewritten, gradients: Gradients, inputs: Tensors, target: Any, additional_forward_args: Any
) -> Tensors:
    """What Captum's classes do around a gradient, for a network under a rule, without touching the inputs."""
    tensors = tuple(tensor.detach().requires_grad_() for tensor in _format_tensor_into_tuples(inputs))
    return _format_output(_is_tuple(inputs), gradients(net, tensors, target, additional_forward_args))


class _ByRule(GradientAttribution):  # type: ignore[misc]  # Captum has no types
    rule: str

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            raise BadType(f"{type(self).__name__} takes an nn.Module, not {type(model).__name__}")
        super().__init__(model)
        self.model = model

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(self, inputs: Tensors, target: Any = None, additional_forward_args: Any = None) -> Tensors:
        """The map of an output for each input, as Captum's class of this name gives it.

        Args:
            inputs: A tensor, or a tuple of tensors.
            target: Which output to explain, as Captum takes it.
            additional_forward_args: What else the model is called with.

        Returns:
            A map for each input, of its shape.
        """
        return _attribute(rewrite(self.model, self.rule), self.gradient_func, inputs, target, additional_forward_args)


class GuidedBackprop(_ByRule):
    """`captum.attr.GuidedBackprop`, at every rectifier.

    Args:
        model: The network.
    """

    rule = "guided"


class Deconvolution(_ByRule):
    """`captum.attr.Deconvolution`, at every rectifier.

    Args:
        model: The network.
    """

    rule = "deconvnet"


class _NeuronByRule(NeuronAttribution, GradientAttribution):  # type: ignore[misc]
    rule: str

    def __init__(self, model: nn.Module, layer: nn.Module, device_ids: list[int] | None = None) -> None:
        NeuronAttribution.__init__(self, model, layer, device_ids)
        GradientAttribution.__init__(self, model)
        self.model = model

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensors,
        neuron_selector: Any,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Tensors:
        """The map of a neuron for each input, as Captum's class of this name gives it.

        Args:
            inputs: A tensor, or a tuple of tensors.
            neuron_selector: Which neuron of the layer to explain, as Captum takes it.
            additional_forward_args: What else the model is called with.
            attribute_to_neuron_input: Whether to explain the layer's input and not its output.

        Returns:
            A map for each input, of its shape.
        """
        net = rewrite(self.model, self.rule)
        layer = _same_place(self.layer, self.model, net)
        gradients = construct_neuron_grad_fn(layer, neuron_selector, None, attribute_to_neuron_input)
        return _attribute(net, gradients, inputs, None, additional_forward_args)


class NeuronGuidedBackprop(_NeuronByRule):
    """`captum.attr.NeuronGuidedBackprop`, at every rectifier.

    Args:
        model: The network.
        layer: The module whose neurons are explained.
        device_ids: As for Captum's class.
    """

    rule = "guided"


class NeuronDeconvolution(_NeuronByRule):
    """`captum.attr.NeuronDeconvolution`, at every rectifier.

    Args:
        model: The network.
        layer: The module whose neurons are explained.
        device_ids: As for Captum's class.
    """

    rule = "deconvnet"


class GuidedGradCam(captum.attr.GuidedGradCam):  # type: ignore[misc]
    """`captum.attr.GuidedGradCam`: Captum's Grad-CAM times guided backprop at every rectifier.

    Args:
        model: The network.
        layer: The module on which Grad-CAM looks.
        device_ids: As for Captum's class.
    """

    def __init__(self, model: nn.Module, layer: nn.Module, device_ids: list[int] | None = None) -> None:
        super().__init__(model, layer, device_ids)
        self.guided_backprop = GuidedBackprop(model)


def _same_place(layer: nn.Module, model: nn.Module, net: Rewritten) -> nn.Module:
    """The module of a rewritten network that stands where `layer` stands in the model."""
    for name, module in unwrapped(model).named_modules():
        if module is layer:
            return net.model.get_submodule(name)  # type: ignore[union-attr]  # a shadow, not a function
    raise BadValue(f"the layer {type(layer).__name__} is not a part of the model {type(model).__name__}")


class Occlusion(captum.attr.Occlusion):  # type: ignore[misc]
    """`captum.attr.Occlusion`, with only what a window changes computed again.

    That goes for images N x C x H x W whose windows have all of C, with the same baseline for all, and a module whose
    output is images x classes. Anything else is Captum's own work: other shapes, several inputs, feature masks.
    """

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensors,
        sliding_window_shapes: Any,
        strides: Any = None,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Tensors:
        """The map for each input: arguments and result are those of Captum's class of this name.

        `perturbations_per_eval` changes nothing where windows are followed, whose batches are chosen here.
        """
        question = _asked(inputs, sliding_window_shapes, strides, baselines, target, additional_forward_args)
        if question is not None and isinstance(self.forward_func, nn.Module):
            found = _occluded(self.forward_func, *question)
            if found is not None:
                return _format_output(_is_tuple(inputs), (found,))
        return super().attribute(
            inputs,
            sliding_window_shapes,
            strides,
            baselines,
            target,
            additional_forward_args,
            perturbations_per_eval,
            show_progress,
        )


Question = tuple[Tensor, tuple[int, int], tuple[int, int], float, list[int]]
"""Images, window, stride, what covers, and the class of each image."""


def _asked(inputs: Tensors, shapes: Any, strides: Any, baselines: Any, target: Any, more: Any) -> Question | None:
    """The question where windows can be followed; None where it is Captum's."""
    images, shape, stride, baseline = (_only(each) for each in (inputs, shapes, strides, baselines))
    if not isinstance(images, Tensor) or images.dim() != 4 or more is not None or not images.is_floating_point():
        return None
    stride = (1, 1, 1) if stride is None else (stride,) * 3 if isinstance(stride, int) else stride
    if not isinstance(shape, tuple) or len(shape) != 3 or shape[0] != images.shape[1] or len(stride) != 3:
        return None
    sides = zip(shape[1:], stride[1:], images.shape[2:], strict=True)
    if any(side > size or (step > side and side < size) for side, step, size in sides):
        return None  # which Captum refuses
    if not isinstance(baseline, int | float | None):
        return None
    targets = torch.as_tensor(target).flatten().tolist() if isinstance(target, int | list | Tensor) else []
    if len(targets) not in (1, len(images)) or not all(isinstance(each, int) for each in targets):
        return None
    targets = targets * len(images) if len(targets) == 1 else targets
    return images.detach(), (shape[1], shape[2]), (stride[1], stride[2]), float(baseline or 0), targets


def _only(value: Any) -> Any:
    """The one of a tuple of one, in which Captum takes several inputs and what belongs to them."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _occluded(
    model: nn.Module, images: Tensor, window: tuple[int, int], stride: tuple[int, int], baseline: float, target: Any
) -> Tensor | None:
    """Captum's map: what each window takes from the class's output, as the mean over the windows that cover a pixel."""
    height, width = window
    tops, lefts = (starts(n, w, s, "overhang") for n, w, s in zip(images.shape[2:], window, stride, strict=True))
    runner = Runner(model, None)
    maps = torch.zeros_like(images)
    count = torch.zeros_like(images[0, 0])
    try:
        for image, map_, wanted in zip(images, maps, target, strict=True):
            patches = Patches(image, torch.full_like(image, baseline), tops, lefts, height, width)
            clean = runner.run(runner.net, image[None], None)[0][0, wanted]
            outputs = runner.answers(patches, None)[0][:, wanted]
            count.zero_()
            for (top, left), output in zip(patches.corners(), outputs, strict=True):
                map_[:, top : top + height, left : left + width] += clean - output
                count[top : top + height, left : left + width] += 1
    except BadType:  # the output is something else than images x classes
        return None
    return maps / count.clamp(min=1)
