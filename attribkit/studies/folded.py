"""Batch norms multiplied into the convolutions before them, in a copy that shares all other weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from attribkit.engine.shadow import shadow
from attribkit.explaining.watching import inside, watched


def folded(model: nn.Module, run: Callable[[nn.Module], object], kept: str | None) -> nn.Module | None:
    """A shadow of `model` without the batch norms that get what a convolution gives.

    Which they are is seen in one run. Whether something else reads the convolution as well is not, so that whoever
    uses the copy compares its answers with the model's.

    Args:
        model: It stays as it is.
        run: Calls a copy once.
        kept: A layer whose output stays as it is.

    Returns:
        The copy; None where nothing can be folded.
    """
    net = shadow(model)
    pairs = _pairs(net, run)
    pairs = [(conv, norm) for conv, norm in pairs if kept is None or conv is not net.get_submodule(kept)]
    for conv, norm in pairs:
        _fold(conv, norm)
    return net if pairs else None


def _fold(conv: Any, norm: Any) -> None:
    statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    for name, value in zip(("weight", "bias"), fuse_conv_bn_weights(conv.weight, conv.bias, *statistics), strict=True):
        setattr(conv, name, nn.Parameter(value.detach(), requires_grad=False))
    norm.forward = _passed_on


def _pairs(net: nn.Module, run: Callable[[nn.Module], object]) -> list[tuple[Any, Any]]:
    """Convolutions with the batch norms that read them; each is called once, and has a forward pass of torch's own."""
    modules = dict(inside(net))
    made: dict[int, tuple[str, Tensor]] = {}  # which holds the tensors, so that no address is used twice
    pairs: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()

    def look(name: str, inputs: Any, output: Any) -> None:
        calls[name] += 1
        if type(modules[name]) is nn.Conv2d:
            made[id(output)] = name, output
        elif inputs and id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], name))

    with watched([(name, module) for name, module in modules.items() if _is_known(module)], look), torch.no_grad():
        run(net)
    readers = Counter(conv for conv, _ in pairs)
    single = [(conv, norm) for conv, norm in pairs if calls[conv] == calls[norm] == readers[conv] == 1]
    return [(modules[conv], modules[norm]) for conv, norm in single]


def _is_known(module: nn.Module) -> bool:
    norm = type(module) is nn.BatchNorm2d and module.running_mean is not None
    plain = not module._forward_hooks and not module._forward_pre_hooks and "forward" not in vars(module)
    return plain and (norm or type(module) is nn.Conv2d)


def _passed_on(x: Any) -> Any:
    return x
