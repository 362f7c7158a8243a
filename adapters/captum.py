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
from captum._utils.common import _format_output, _format_tensor_into_tuples, _is_tuple
from captum._utils.gradient import construct_neuron_grad_fn
from captum.attr import GradientAttribution, NeuronAttribution
from captum.log import log_usage
from torch import Tensor, nn

from attribkit.engine.rewriting import Rewritten, rewrite
from attribkit.engine.shadow import unwrapped
from attribkit.errors import BadType, BadValue

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
