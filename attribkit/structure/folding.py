"""Batch norms folded away: each multiplied into the layer before it."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from attribkit.engine.torch_private import AnyBatchNorm, AnyConvolution
from attribkit.errors import BadValue
from attribkit.structure.changing import Failed, changeable, equal, held_aside, noise, rehearsal, replaced, trying

_NAMES_SHOWN = 8


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode whose batch norms are part of the layers before them.

    A batch norm that is fed by a convolution or linear layer, and by nothing else, and is the only one to
    read it, is multiplied into that layer's weight and bias; an `nn.Identity` takes its place, or what came
    after the norm inside the same module (timm's `BatchNormAct2d`: `drop`, `act`). The structure of the model
    stays as it is. Norms that cannot be folded stay too, and a warning names them and says why.

    Who feeds whom is found by tracing the model with `torch.fx`, which takes over every module call in the
    process for a moment: fold before other threads start to run models. Parts that cannot be traced are left
    as they are. A `BatchNorm1d` after a linear layer is taken to see N x features, as nearly all do.

    Args:
        model: Any network; it stays as it is.

    Returns:
        The folded copy.

    Raises:
        BadValue: There is no batch norm that can be folded; the message says why for each.
        BadType: The structure is fixed, as that of a ScriptModule or of a network that is rewritten already.
    """
    folded = copy.deepcopy(changeable(model)).eval()
    wiring = _wiring(folded)
    left: dict[str, list[str]] = defaultdict(list)
    swaps: dict[nn.Module, nn.Module] = {}
    for name, norm in folded.named_modules():
        if not _is_norm(norm):
            continue
        try:
            swaps[norm] = _fold(norm, wiring.layer_before(norm))
        except _Stays as reason:
            left[str(reason)].append(name)
    reasons = "; ".join(f"{_listed(names)} ({reason})" for reason, names in left.items())
    if not swaps:
        raise BadValue(f"no batch norm could be folded: {reasons or 'the model has none'}")
    if left:
        warnings.warn(f"fold_batch_norm left {sum(map(len, left.values()))} as they are: {reasons}", stacklevel=2)
    return replaced(folded, swaps)


class _Stays(Exception):
    """Why a norm is not folded; the same words for every norm of the same case."""


def _is_norm(module: nn.Module) -> bool:
    """Torch's own, and others that keep a running mean and variance (frozen ones have no common class)."""
    kept = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return isinstance(module, AnyBatchNorm) or all(isinstance(statistic, Tensor) for statistic in kept)


def _fold(norm: Any, layer: Any) -> nn.Module:
    """Multiply `norm` into `layer`, and give what is to stand in its place."""
    fused, rest = rehearsal(layer), nn.Sequential(OrderedDict(norm.named_children()))
    try:
        _fuse(fused, rehearsal(norm))
        agrees = _agrees(fused, layer, norm)
    except Failed as error:
        raise _Stays(f"fusing it with the layer before failed: {error}") from error
    if not agrees:
        raise _Stays("it and the layer before do not add up to one layer with that weight and bias")
    for name in ("weight", "bias"):
        value = getattr(fused, name).detach().to(layer.weight)
        setattr(layer, name, nn.Parameter(value, requires_grad=layer.weight.requires_grad))
    if all(isinstance(child, nn.Identity) for child in rest):
        return nn.Identity()
    return rest.eval()


def _fuse(layer: Any, norm: Any) -> None:
    with trying():
        layer.weight, layer.bias = fuse_conv_bn_weights(
            layer.weight,
            layer.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
            transpose=getattr(layer, "transposed", False),
        )


def _agrees(fused: nn.Module, layer: nn.Module, norm: nn.Module) -> bool:
    """Whether `fused` gives on noise what `layer` and `norm` give, with and without what the norm does after.

    Layers that standardise their weight, or normalise something else, do not.
    """
    signal = noise(layer)
    layer, norm, bare = rehearsal(layer), rehearsal(norm), rehearsal(norm)
    rest = nn.Sequential(*rehearsal(norm).children())
    for name, _ in list(norm.named_children()):
        setattr(bare, name, nn.Identity())
    with trying():
        pairs = ((fused(signal), bare(layer(signal))), (rest(fused(signal)), norm(layer(signal))))
    return all(equal(*pair) for pair in pairs)


@dataclass(frozen=True)
class _Wiring:
    """Which modules the model calls, how often, and with whose output."""

    model: nn.Module
    graph: torch.fx.Graph
    calls: Counter[nn.Module]
    hidden: frozenset[nn.Module]
    aside: frozenset[nn.Module]
    holders: Counter[Tensor]

    def layer_before(self, norm: Any) -> nn.Module:
        """The layer that `norm` can be folded into; `_Stays` when there is none."""
        if norm.running_mean is None or norm.running_var is None:
            raise _Stays("it keeps no running statistics")
        self._check_single(norm, "it")
        node = next(node for node in self._module_calls() if self._module(node) is norm)
        source = node.all_input_nodes[0] if len(node.all_input_nodes) == 1 else None
        layer = self._module(source) if source is not None and source.op == "call_module" else None
        if source is None or not isinstance(layer, AnyConvolution | nn.Linear):
            raise _Stays("it follows no convolution or linear layer directly")
        if len(source.users) > 1:
            raise _Stays("something else reads the output of the layer before, too")
        self._check_single(layer, "the layer before")
        if any(self.holders[parameter] > 1 for parameter in layer.parameters()):
            raise _Stays("the layer before shares its weight")
        return layer

    def _check_single(self, module: nn.Module, who: str) -> None:
        """Used once, where we can see it, and by nobody who would notice a change."""
        if module in self.hidden:
            raise _Stays(f"{who} belongs to a part that cannot be traced")
        if module in self.aside:
            raise _Stays(f"{who} is also held in a plain attribute")
        if self.calls[module] != 1:
            raise _Stays(f"{who} is called {self.calls[module]} times in eval mode")
        if any(getattr(module, f"_{kind}_hooks") for kind in ("forward", "forward_pre", "backward", "backward_pre")):
            raise _Stays(f"{who} has hooks")

    def _module_calls(self) -> Iterator[torch.fx.Node]:
        return (node for node in self.graph.nodes if node.op == "call_module")

    def _module(self, node: torch.fx.Node) -> nn.Module:
        return self.model.get_submodule(str(node.target))


def _wiring(model: nn.Module) -> _Wiring:
    before = set(vars(model))
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is not parameter.empty
    }
    try:
        graph = _Tracer(model).trace(model, concrete_args=defaults or None)
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        raise BadValue(f"{type(model).__name__} cannot be traced with torch.fx: {error}") from error
    finally:
        # The tracer hangs tensors that a `forward` makes on the model.
        for name in set(vars(model)) - before:
            delattr(model, name)
    called = [model.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"]
    hidden = frozenset(inner for outer in called for inner in outer.modules() if inner is not outer)
    read = [_attribute(model, str(node.target)) for node in graph.nodes if node.op == "get_attr"]
    held = [tensor for module in model.modules() for tensor in module._parameters.values()]
    holders = Counter(tensor for tensor in read + held if isinstance(tensor, Tensor))
    return _Wiring(model, graph, Counter(called), hidden, frozenset(held_aside(model)), holders)


class _Tracer(torch.fx.Tracer):
    """Follows a model down to norms and the layers that they can be folded into.

    A module that cannot be followed (its `forward` branches on a value, say) is one step of which nothing is
    known.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(param_shapes_constant=True)
        self.known = frozenset(model.modules())

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        foldable = isinstance(m, AnyConvolution | nn.Linear) or _is_norm(m)
        return foldable or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if m not in self.known:  # made inside a forward
            return forward(*args, **kwargs)
        stack = self.module_stack.copy()
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # tried as one step instead; what that raises goes up
            # What was followed so far stays in the graph: it can only add readers, so nothing wrong is folded.
            self.module_stack = stack
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def _attribute(model: nn.Module, name: str) -> object:
    parent, _, last = name.rpartition(".")
    return getattr(model.get_submodule(parent), last, None)


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
