"""Strides to pools: a network without max-pools gets some, and keeps its weights."""

from __future__ import annotations

import copy
import difflib
import itertools
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from attribkit.errors import BadValue
from attribkit.structure.changing import Failed, changeable, equal, held_aside, noise, rehearsal, replaced, trying

_CONVS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.MaxPool1d,
    nn.Conv2d: nn.MaxPool2d,
    nn.Conv3d: nn.MaxPool3d,
}

# Models read these of a convolution that they own (to match a weight's type, to size the next layer).
_ASKED_OF_THE_CONV = frozenset(nn.Conv2d.__constants__) - {"stride"} | {"weight", "bias"}


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

    This is how Springenberg et al. give an All-CNN switches without training it again. Strides may differ from one
    dimension to the next. Every layer's output keeps its size: of the m + 1 outputs at stride 1, a pool of size s
    that keeps its last, partial window makes ceil((m + 1) / s) = floor(m / s) + 1. For the same input each value is at
    least what the strided convolution gave, which is one of those that the pool chooses from.

    The weights stay the same but are found one name deeper: `conv3.weight` becomes `conv3.conv.weight`. Strides inside
    someone's `F.conv2d` call cannot be changed.

    Args:
        model: Any network; it stays as it is.
        layers: The convolutions to change, by name (`["conv3", "stage2.0.conv"]`). Without it, all that stride.

    Returns:
        The changed copy.

    Raises:
        BadValue: No convolution with a stride is there or is named, or one cannot be changed: a convolution class with
            a `forward` of its own is tried out on small inputs, and refused when it does not do as said above.
        BadType: The structure is fixed, as that of a ScriptModule or of a network that is rewritten already.
    """
    model = changeable(model)
    chosen = _chosen(model, [layers] if isinstance(layers, str) else layers)
    aside = held_aside(model)
    for name, conv in chosen.items():
        if conv in aside:
            raise BadValue(f"{name!r} is also held in a plain attribute, where it cannot be replaced")
        if reason := _reason_against(conv):
            raise BadValue(f"{name!r} ({type(conv).__name__}) cannot run at stride 1 with a pool: {reason}")
    changed = copy.deepcopy(model)
    swaps = {changed.get_submodule(name): _pooled(changed.get_submodule(name)) for name in chosen}
    return replaced(changed, swaps)


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
    except Failed as error:
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
    sample = rehearsal(conv)
    pooled = _pooled(rehearsal(conv))
    for extra in range(min(max(conv.stride), 8)):
        signal = noise(conv, extra)
        with trying():
            strided, full = sample(signal), pooled.conv(signal)
        places = itertools.product(*map(range, conv.stride))
        contained = any(equal(_every(full, conv.stride, place), strided) for place in places)
        if not contained or pooled.pool(full).shape != strided.shape:
            return False
    return True


def _every(full: Tensor, stride: Iterable[int], place: Iterable[int]) -> Tensor:
    """The values of `full` at `place` in each window."""
    index: tuple[Any, ...] = (
        ...,
        *(slice(start, None, step) for start, step in zip(place, stride, strict=True)),
    )
    return full[index]
