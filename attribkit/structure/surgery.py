"""Changes of a model's structure: strides to pools, batch norms folded away.

Both give a changed copy and leave the model that they are given as it is.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import itertools
import warnings
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.fusion import fuse_conv_bn_weights

from attribkit.engine.rewriting import Rewritten, unwrapped
from attribkit.errors import BadType, BadValue

_CONVS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.MaxPool1d,
    nn.Conv2d: nn.MaxPool2d,
    nn.Conv3d: nn.MaxPool3d,
}

# Models read these of a convolution that they own (to match a weight's type, to size the next layer).
_ASKED_OF_THE_CONV = frozenset(nn.Conv2d.__constants__) - {"stride"} | {"weight", "bias"}

_NAMES_SHOWN = 8


# Strides to pools


class PooledConv(nn.Sequential):
    """A convolution at stride 1 (`conv`), then the max-pool that strides in its stead (`pool`).

    What models read of a convolution (`weight`, `in_channels`, ...) it hands on; `stride` is that of the
    whole.
    """

    def __init__(self, conv: nn.Module, pool: nn.Module) -> None:
        super().__init__(OrderedDict(conv=conv, pool=pool))

    @property
    def stride(self) -> tuple[int, ...]:
        return cast("tuple[int, ...]", self.pool.stride)

    def __getattr__(self, name: str) -> Any:
        if name in _ASKED_OF_THE_CONV:
            return getattr(super().__getattr__("conv"), name)
        return super().__getattr__(name)


def strides_to_pools(model: nn.Module, layers: Iterable[str] | None = None) -> nn.Module:
    """A copy of `model` whose convolutions of stride s run at stride 1, each followed by an s by s max-pool.

    This is how Springenberg et al. give an All-CNN switches without training it again. `layers` names the
    convolutions to change (`["conv3", "stage2.0.conv"]`); without it all that stride are changed. Strides may
    differ from one dimension to the next. Every layer's output keeps its size: of the m + 1 outputs at stride
    1, a pool of size s that keeps its last, partial window makes ceil((m + 1) / s) = floor(m / s) + 1. For
    the same input each value is at least what the strided convolution gave, which is one of those that the
    pool chooses from.

    The weights stay the same but are found one name deeper: `conv3.weight` becomes `conv3.conv.weight`. A
    convolution class with a `forward` of its own is tried out on small inputs and refused with a `ValueError`
    when it does not do as said above. Strides inside someone's `F.conv2d` call cannot be changed.
    """
    model = _changeable(model)
    chosen = _chosen(model, [layers] if isinstance(layers, str) else layers)
    aside = _held_aside(model)
    for name, conv in chosen.items():
        if conv in aside:
            raise BadValue(f"{name!r} is also held in a plain attribute, where it cannot be replaced")
        if reason := _reason_against(conv):
            raise BadValue(f"{name!r} ({type(conv).__name__}) cannot run at stride 1 with a pool: {reason}")
    changed = copy.deepcopy(model)
    swaps = {changed.get_submodule(name): _pooled(changed.get_submodule(name)) for name in chosen}
    return _replaced(changed, swaps)


def _chosen(model: nn.Module, layers: Iterable[str] | None) -> dict[str, Any]:
    """The convolutions to change under one name each, also where they have several."""
    modules = dict(model.named_modules(remove_duplicate=False))
    striding = {name: module for name, module in modules.items() if _strides(module)}
    layers = list(striding if layers is None else layers)
    for name in layers:
        if name not in modules:
            raise BadValue(f"the model has no layer {name!r}{_nearest(name, striding)}")
        if name not in striding:
            what = str(modules[name]).partition("\n")[0]
            raise BadValue(f"{name!r} is no convolution with a stride but {what}{_nearest(name, striding)}")
    if not layers:
        raise BadValue(f"nothing to change: no convolution with a stride {'named' if striding else 'found'}")
    once = {striding[name]: name for name in layers}
    return {name: module for module, name in once.items()}


def _strides(module: Any) -> bool:
    return isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and any(step > 1 for step in module.stride)


def _nearest(name: str, names: Iterable[str]) -> str:
    names = list(names)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    return f"; the nearest that stride: {', '.join(map(repr, near))}" if near else "; none strides"


def _pooled(conv: Any) -> PooledConv:
    """`conv` itself, set to stride 1, and the pool to follow it."""
    stride = tuple(conv.stride)
    pool = next(pool for kind, pool in _CONVS.items() if isinstance(conv, kind))
    conv.stride = (1,) * len(stride)
    return PooledConv(conv, cast(Any, pool)(stride, stride, ceil_mode=True)).train(conv.training)


def _reason_against(conv: Any) -> str | None:
    if isinstance(conv, LazyModuleMixin):
        return "it is not initialised yet, run the model once first"
    if _is_plain(conv):
        return None
    try:
        keeps = _keeps_its_windows(conv)
    except Exception as error:  # whatever someone's forward may raise: it is told
        return f"trying it out failed: {error}"
    return None if keeps else f"its outputs at stride 1 do not contain those at stride {conv.stride}"


def _is_plain(conv: Any) -> bool:
    """Whether it computes as torch's own class does: then only its attributes matter."""
    base = next(kind for kind in _CONVS if isinstance(conv, kind))
    kind = type(conv)
    return kind.forward is base.forward and kind._conv_forward is cast(Any, base)._conv_forward


def _keeps_its_windows(conv: Any) -> bool:
    """Whether each output of `conv` is one of those at stride 1 that the pool chooses from, by trying it.

    "Same" padding, for one, depends on stride and size: there the strided output is not the first of its
    window but, depending on the size modulo the stride, another one. Hence several sizes.
    """
    sample = _rehearsal(conv)
    pooled = _pooled(_rehearsal(conv))
    for extra in range(min(max(conv.stride), 8)):
        signal = _noise(conv, extra)
        strided, full = sample(signal), pooled.conv(signal)
        places = itertools.product(*map(range, conv.stride))
        found = any(_equal(_every(full, conv.stride, place), strided) for place in places)
        if not found or pooled.pool(full).shape != strided.shape:
            return False
    return True


def _every(full: Tensor, stride: Iterable[int], place: Iterable[int]) -> Tensor:
    """The values of `full` at `place` in each window."""
    index: tuple[Any, ...] = (
        ...,
        *(slice(start, None, step) for start, step in zip(place, stride, strict=True)),
    )
    return full[index]


# Folding batch norms


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode whose batch norms are part of the layers before them.

    A batch norm that is fed by a convolution or linear layer, and by nothing else, and is the only one to
    read it, is multiplied into that layer's weight and bias; an `nn.Identity` takes its place, or what came
    after the norm inside the same module (timm's `BatchNormAct2d`: `drop`, `act`). The structure of the model
    stays as it is. Norms that cannot be folded stay too, and a warning names them and says why; when there is
    none that can be, a `ValueError` does.

    Who feeds whom is found by tracing the model with `torch.fx`, which takes over every module call in the
    process for a moment: fold before other threads start to run models. Parts that cannot be traced are left
    as they are. A `BatchNorm1d` after a linear layer is taken to see N x features, as nearly all do.
    """
    folded = copy.deepcopy(_changeable(model)).eval()
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
    told = "; ".join(f"{_listed(names)} ({reason})" for reason, names in left.items())
    if not swaps:
        raise BadValue(f"no batch norm could be folded: {told or 'the model has none'}")
    if left:
        warnings.warn(f"fold_batch_norm left {sum(map(len, left.values()))} as they are: {told}", stacklevel=2)
    return _replaced(folded, swaps)


class _Stays(Exception):
    """Why a norm is not folded; the same words for every norm of the same case."""


def _is_norm(module: nn.Module) -> bool:
    """Torch's own, and others that keep a running mean and variance (frozen ones have no common class)."""
    kept = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return isinstance(module, _BatchNorm) or all(isinstance(statistic, Tensor) for statistic in kept)


def _fold(norm: Any, layer: Any) -> nn.Module:
    """Multiply `norm` into `layer`, and give what is to stand in its place."""
    fused, rest = _rehearsal(layer), nn.Sequential(OrderedDict(norm.named_children()))
    try:
        _fuse(fused, _rehearsal(norm))
        agrees = _agrees(fused, layer, norm)
    except Exception as error:  # whatever someone's layer may raise: it is told, and the layer left alone
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
    noise = _noise(layer)
    layer, norm, bare = _rehearsal(layer), _rehearsal(norm), _rehearsal(norm)
    rest = nn.Sequential(*_rehearsal(norm).children())
    for name, _ in list(norm.named_children()):
        setattr(bare, name, nn.Identity())
    return _equal(fused(noise), bare(layer(noise))) and _equal(rest(fused(noise)), norm(layer(noise)))


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
        if source is None or not isinstance(layer, _ConvNd | nn.Linear):
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
    return _Wiring(model, graph, Counter(called), hidden, frozenset(_held_aside(model)), holders)


class _Tracer(torch.fx.Tracer):
    """Follows a model down to norms and the layers that they can be folded into.

    A module that cannot be followed (its `forward` branches on a value, say) is one step of which nothing is
    known.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(param_shapes_constant=True)
        self.known = frozenset(model.modules())

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        foldable = isinstance(m, _ConvNd | nn.Linear) or _is_norm(m)
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


# Shared by both


def _changeable(model: nn.Module) -> nn.Module:
    """The model inside its wrappers, unless its structure is fixed."""
    if isinstance(model, Rewritten):
        raise BadType("this net is rewritten already: change the model's structure first, then rewrite it")
    model = unwrapped(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise BadType("a ScriptModule's structure is compiled and cannot be changed: pass the Python model")
    return model


def _replaced(model: nn.Module, swaps: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """`model` with each key of `swaps` replaced by its value, under every name that it has."""
    if model in swaps:
        return swaps[model]
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in swaps:
                parent._modules[name] = swaps[child]
    return model


def _held_aside(model: nn.Module) -> set[nn.Module]:
    """Modules also held in lists and the like, where a replacement would not reach them."""
    found: set[nn.Module] = set()
    for parent in model.modules():
        for name, value in vars(parent).items():
            held: Any = value.values() if isinstance(value, dict) else value
            if name != "_modules":
                items = [held] if isinstance(held, nn.Module) else held
                found.update(item for item in _each(items) if isinstance(item, nn.Module))
    return found


def _each(items: object) -> Iterable[object]:
    return items if isinstance(items, Collection) and not isinstance(items, str | Tensor) else ()


def _attribute(model: nn.Module, name: str) -> object:
    parent, _, last = name.rpartition(".")
    return getattr(model.get_submodule(parent), last, None)


def _rehearsal(module: Any) -> Any:
    """A copy to try things on, in double precision so that only true differences show."""
    return copy.deepcopy(module).cpu().double().eval().requires_grad_(False)


def _noise(layer: Any, extra: int = 0) -> Tensor:
    """A small input for a convolution or linear layer."""
    generator = torch.Generator().manual_seed(0)
    shape: tuple[int, ...] = (2, getattr(layer, "in_features", 0))
    if isinstance(layer, _ConvNd):
        reach = [d * (k - 1) + 1 + s for k, d, s in zip(layer.kernel_size, layer.dilation, layer.stride, strict=True)]
        shape = (2, layer.in_channels, *(side + extra for side in reach))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _equal(one: Tensor, other: Tensor) -> bool:
    """To double rounding, over the largest value."""
    if one.shape != other.shape:
        return False
    size = float(other.abs().max()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=0, atol=1e-10 * size, equal_nan=True)


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
