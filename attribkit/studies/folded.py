"""Batch norms multiplied into the convolutions before them, in a copy that shares all other weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from attribkit.engine.shadow import shadow


class Readers:
    """Which batch norm reads what which convolution gives, as is seen in one run of a network.

    Whether something else reads it as well is not seen, so that whoever folds compares the answers with the model's.
    """

    def __init__(self, modules: Iterable[tuple[str, nn.Module]]) -> None:
        self.known = {name: module for name, module in modules if _is_known(module)}
        self.made: dict[int, tuple[str, Tensor]] = {}  # which holds the tensors, so that no address is used twice
        self.found: list[tuple[str, str]] = []
        self.calls: Counter[str] = Counter()

    def look(self, name: str, inputs: Any, output: Any) -> None:
        """See the call of one that is known."""
        self.calls[name] += 1
        if type(self.known[name]) is nn.Conv2d:
            self.made[id(output)] = name, output
        elif inputs and id(inputs[0]) in self.made:
            self.found.append((self.made[id(inputs[0])][0], name))

    def pairs(self) -> list[tuple[str, str]]:
        """Convolutions with the batch norms that read them; each is called once."""
        readers = Counter(conv for conv, _ in self.found)
        return [pair for pair in self.found if readers[pair[0]] == 1 and all(self.calls[name] == 1 for name in pair)]


def folded(model: nn.Module, pairs: list[tuple[str, str]]) -> nn.Module:
    """A shadow of `model`, which stays as it is, without these batch norms, each multiplied into its convolution."""
    net = shadow(model)
    for conv, norm in pairs:
        _fold(net.get_submodule(conv), net.get_submodule(norm))
    return net


def _fold(conv: Any, norm: Any) -> None:
    statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    for name, value in zip(("weight", "bias"), fuse_conv_bn_weights(conv.weight, conv.bias, *statistics), strict=True):
        setattr(conv, name, nn.Parameter(value.detach(), requires_grad=False))
    norm.forward = _passed_on


def _is_known(module: nn.Module) -> bool:
    """Whether it is a convolution or a batch norm with a forward pass of torch's own."""
    norm = type(module) is nn.BatchNorm2d and module.running_mean is not None
    plain = not module._forward_hooks and not module._forward_pre_hooks and "forward" not in vars(module)
    return plain and (norm or type(module) is nn.Conv2d)


def _passed_on(x: Any) -> Any:
    return x
