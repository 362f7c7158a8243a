"""Sanity checks: does a map change when the weights, or what is asked, do?"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from attribkit.engine.torch_private import AnyConvolution, AnyNorm
from attribkit.errors import BadValue
from attribkit.explaining.passes import Pass
from attribkit.metrics.maps import checked
from attribkit.metrics.similarity import mean_cosine_with_others


def cascade(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Copies of a model whose layers are made random from the top down: the last, the last two... (Adebayo et al.).

    A layer is a convolution or a linear module, with the norms that follow it; the top is what the model's constructor
    made last. Weights are drawn by He's rule, biases are zero, norms as new. Parameters of other modules stay, and a
    warning names these.

    Args:
        model: Any network with a convolution or a linear module; it stays as it is.
        seed: The same seed draws the same weights.

    Yields:
        The name of the layer that was lost, and a copy of the model without it and those above, the caller's to keep.
    """
    work = copy.deepcopy(model)
    for name in _randomise(work, seed):
        yield name, copy.deepcopy(work)


def with_upper_layers_random(model: nn.Module, share: float = 1 / 3, seed: int = 0) -> nn.Module:
    """The copy of `cascade` that has lost the upper share of its layers.

    Args:
        model: As for `cascade`.
        share: How much of the layers is lost: above 0 and at most 1, rounded to whole layers and at least one.
        seed: As for `cascade`.

    Returns:
        The copy.
    """
    if not 0 < share <= 1:
        raise BadValue(f"share must be above 0 and at most 1, not {share}")
    work = copy.deepcopy(model)
    count = max(1, round(share * len(_layers(work))))
    for _ in zip(range(count), _randomise(work, seed)):  # noqa: B905  # it stops at the count
        pass
    return work


def _randomise(model: nn.Module, seed: int) -> Iterator[str]:
    """Make one layer after the other random, in place, from the top; gives the name of each once that is done."""
    generator = torch.Generator().manual_seed(seed)
    for name, modules in reversed(_layers(model).items()):
        for module in modules:
            if isinstance(module, AnyConvolution | nn.Linear):
                # Drawn here whatever the device, so that a seed means the same everywhere.
                fresh = torch.empty(module.weight.shape)
                nn.init.kaiming_normal_(fresh, nonlinearity="relu", generator=generator)
                module.weight.data.copy_(fresh)
                if module.bias is not None:
                    module.bias.data.zero_()
            else:
                module.reset_parameters()  # type: ignore[operator]
        yield name


def _layers(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Each convolution and linear module by name, with the norms that follow; norms before the first go with it."""
    layers: dict[str, list[nn.Module]] = {}
    pending: list[nn.Module] = []
    kept = []
    for name, module in model.named_modules():
        own = module._parameters
        if isinstance(module, AnyConvolution | nn.Linear) and own.get("weight") is not None:
            pending = layers[name] = [*pending, module] if not layers else [module]
        elif isinstance(module, AnyNorm | nn.GroupNorm | nn.LayerNorm | nn.PReLU):
            pending.append(module)
        elif any(parameter is not None for parameter in own.values()):
            kept.append(f"{name or 'the model itself'} ({type(module).__name__})")
    if not layers:
        raise BadValue(f"{type(model).__name__} has no convolution and no linear module to make random")
    if kept:
        warnings.warn(f"these keep their parameters: {', '.join(kept)}", stacklevel=2)
    return layers


def maps_of_random_signals(
    forward: Callable[[Tensor], Tensor], images: Tensor, count: int = 8, seed: int = 0
) -> Tensor:
    """Maps of start signals of Gaussian noise, sent back to each image. All images have the same signals.

    Args:
        forward: Gives the output of a layer, in which the signals start: `lambda x: net.forward_to("conv5", x)` with a
            net of `attribkit.rewrite`, or anything else that autograd goes back through.
        images: N x C x H x W.
        count: How many signals.
        seed: The same seed draws the same signals.

    Returns:
        N x count x C x H x W.
    """
    if count < 1:
        raise BadValue(f"count must be at least 1, not {count}")
    generator = torch.Generator().manual_seed(seed)
    up = Pass(forward, images)
    maps = []
    for _ in range(count):
        signal = torch.randn(up.output.shape[1:], generator=generator).to(up.output).expand_as(up.output)
        maps.append(up.down(signal, again=True))
    return torch.stack(maps, 1)


def signal_convergence(maps: Tensor) -> Tensor:
    """How alike the maps of different start signals are: their mean pairwise cosine, image by image.

    1: the map does not depend on what is asked (Sixt et al. 2020). Maps that are zero everywhere are left out.

    Args:
        maps: Those of `maps_of_random_signals`, N x signals x C x H x W.

    Returns:
        One value per image; NaN where fewer than two maps are left.
    """
    if maps.dim() != 5 or maps.shape[1] < 2:
        raise BadValue(
            f"maps must be N x signals x C x H x W, of at least two signals, not of shape {tuple(maps.shape)}"
        )
    rows = checked(maps.flatten(0, 1)).flatten(1).unflatten(0, maps.shape[:2])
    return mean_cosine_with_others(rows).nanmean(-1)
