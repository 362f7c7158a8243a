"""What a model may hold: parameters in odd places, tensors of odd kinds, and things that nobody can copy."""

from __future__ import annotations

import atexit
import contextvars
import ctypes
import enum
import functools
import io
import itertools
import logging
import os
import queue
import re
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from ways_harness import RIGHT, Expected, OrRefused, Ways
from ways_originals import Around, attribute

ways = Ways("holdings")


def holding(
    name: str,
    make: Callable[[], Any],
    use: Callable[[Any, Tensor], Tensor] = lambda kept, x: x,
    twin: Callable[[Tensor], Tensor] = lambda x: x,
    expected: Expected = RIGHT,
    **options: Any,
) -> None:
    """Enter the network that holds what `make` gives, and does with it what `use` says."""
    ways.module(name, expected, lambda: Around(None, lambda net, x: twin(x)), **options)(
        lambda: Around(attribute("kept", make), lambda net, x: use(net.kept, x))
    )


# Parameters where torch does not look -----------------------------------------------------------------------


def parameter(value: float = 2.0) -> nn.Parameter:
    return nn.Parameter(torch.full((4, 1, 1), value))


class Bag:
    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight


class Slotted:
    __slots__ = ("weight",)

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight


def double(x: Tensor) -> Tensor:
    return x * 2


for _name, _make, _use in (
    ("a list", lambda: [parameter()], lambda kept, x: x * kept[0]),
    ("a tuple", lambda: (parameter(),), lambda kept, x: x * kept[0]),
    ("a dict", lambda: {"w": parameter()}, lambda kept, x: x * kept["w"]),
    ("a list of lists", lambda: [[parameter()]], lambda kept, x: x * kept[0][0]),
    ("an object", lambda: Bag(parameter()), lambda kept, x: x * kept.weight),
    ("an object with slots", lambda: Slotted(parameter()), lambda kept, x: x * kept.weight),
    ("a SimpleNamespace", lambda: types.SimpleNamespace(w=parameter()), lambda kept, x: x * kept.w),
    ("a partial", lambda: functools.partial(torch.mul, parameter()), lambda kept, x: kept(x)),
    ("a ParameterList", lambda: nn.ParameterList([parameter()]), lambda kept, x: x * kept[0]),
    ("a ParameterDict", lambda: nn.ParameterDict({"w": parameter()}), lambda kept, x: x * kept["w"]),
    ("a module in a list", lambda: [nn.Conv2d(4, 4, 1, bias=False)], lambda kept, x: x + 0 * kept[0](x)),
):
    _twin = (lambda x: x) if "module" in _name else double
    holding(f"a parameter in {_name}", _make, _use, _twin)
holding(
    "a parameter in a closure",
    lambda: (lambda weight: lambda x: x * weight)(parameter()),
    lambda kept, x: kept(x),
    double,
    OrRefused("kept"),
)


class Named(nn.Parameter):
    """A parameter of a class of one's own."""

    def gain(self) -> float:
        return 2.0


def tagged() -> nn.Parameter:
    weight = parameter()
    weight.gain = 2.0  # type: ignore[attr-defined]
    return weight


def sharded() -> nn.Parameter:
    weight = parameter()
    weight.meta = {"gain": torch.ones(1), "names": ["a"]}  # type: ignore[attr-defined]
    return weight


holding("a parameter with an attribute", tagged, lambda kept, x: x * kept.gain, double)
holding("a parameter with attributes of its own", sharded, lambda kept, x: x * kept * kept.meta["gain"], double)
holding("a parameter subclass", lambda: Named(torch.ones(3)), lambda kept, x: x * kept.gain(), double)
holding("a parameter's class", parameter, lambda kept, x: x * (2 if isinstance(kept, nn.Parameter) else 3), double)
holding("a frozen parameter", lambda: parameter().requires_grad_(False), lambda kept, x: x * kept, double)
holding("a buffer by nn.Buffer", lambda: nn.Buffer(torch.full((4, 1, 1), 2.0)), lambda kept, x: x * kept, double)
holding(
    "a float parameter in half",
    lambda: nn.Parameter(torch.full((), 2, dtype=torch.float16)),
    lambda k, x: x * k,
    double,
)
holding("a complex parameter", lambda: nn.Parameter(torch.tensor(2 + 0j)), lambda kept, x: x * kept.real, double)
holding("a sparse tensor", lambda: torch.eye(4).to_sparse(), lambda kept, x: x * kept.to_dense().sum() / 2, double)
holding("a meta tensor", lambda: torch.zeros(3, device="meta"), lambda kept, x: x * (kept.dim() + 1), double)
holding("an expanded tensor", lambda: torch.tensor(2.0).expand(4, 1, 1), lambda kept, x: x * kept, double)
holding(
    "a tensor with a graph", lambda: nn.Parameter(torch.ones(4, 1, 1)) * 2, lambda kept, x: x * kept.detach(), double
)
holding("a node of a graph", lambda: (nn.Parameter(torch.ones(1)) * 2).grad_fn, expected=OrRefused("kept"))
holding("a dict by tensors", lambda: {torch.ones(1): 2.0}, lambda kept, x: x * next(iter(kept.values())), double)


def through_hook(net: Any) -> None:
    """A gradient hook on a weight, which no map passes."""
    net.conv1.weight.register_hook(lambda signal: signal * 0)


def graded(net: Any) -> None:
    for weight in net.parameters():
        weight.grad = torch.ones_like(weight)


def changed(name: str, change: Callable[[Any], Any], expected: Expected = RIGHT, **options: Any) -> None:
    """Enter the network after a change of its weights, with itself as its twin."""
    make = lambda: Around(change, lambda net, x: x)  # noqa: E731
    ways.module(name, expected, make, **options)(make)


def share_storage(net: Any) -> None:
    net.register_buffer("part", net.conv2.weight.data[:2])


def alias(net: Any) -> None:
    net.other = nn.Conv2d(4, 4, 3, padding=1)
    net.other.weight.data = net.conv2.weight.data


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(-1)) / 2


changed("a hook on a weight", through_hook)
changed("weights with gradients", graded)
changed("a view of a weight as a buffer", share_storage)
changed("two weights of one storage", alias)
changed("tied weights", lambda net: setattr(net, "tied", net.conv2.weight))
changed("frozen weights", lambda net: net.requires_grad_(False))
changed("channels-last weights", lambda net: net.to(memory_format=torch.channels_last))
changed("pruned weights", lambda net: prune.l1_unstructured(net.conv2, "weight", 0.5), later=False)
changed("weight_norm", lambda net: parametrizations.weight_norm(net.conv2))
changed("spectral_norm", lambda net: parametrizations.spectral_norm(net.conv2), exact=False, later=False)
changed("orthogonal", lambda net: parametrizations.orthogonal(net.conv3), exact=False, later=False)
changed(
    "a parametrization of one's own", lambda net: parametrize.register_parametrization(net.conv2, "weight", Symmetric())
)


# Things -----------------------------------------------------------------------------------------------------


class Refusing:
    """Refuses to be copied, by another error than the usual one."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("I am the only one")


class RefusingByReduce:
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ValueError("not to be pickled")


class Delegating:
    """Looks for what it does not have in what it holds, also before it holds it: a copy recurses for ever."""

    def __init__(self) -> None:
        self.inner = {"gain": 1.0}

    def __getattr__(self, name: str) -> Any:
        return self.inner[name]


class Itself:
    def __deepcopy__(self, memo: Any) -> Itself:
        return self


class Mode(enum.Enum):
    ON = "on"


def deeply_nested() -> list[Any]:
    nested: list[Any] = []
    for _ in range(1500):
        nested = [nested]
    return nested


def running() -> Iterator[int]:
    yield from itertools.repeat(1)


def executor() -> ThreadPoolExecutor:
    return EXECUTOR


def under_lock(lock: Any, x: Tensor) -> Tensor:
    with lock:
        return x


EXECUTOR = ThreadPoolExecutor(1)
DEVNULL = open(os.devnull, "w")  # noqa: SIM115 (held by nets as long as the tests run)
atexit.register(DEVNULL.close)
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("VARIABLE", default=1)


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x * 1.0


UNCOPYABLE: dict[str, tuple[Callable[[], Any], Callable[[Any, Tensor], Tensor]]] = {
    "a lock": (threading.Lock, under_lock),
    "an RLock": (threading.RLock, lambda kept, x: x),
    "a condition": (threading.Condition, lambda kept, x: x),
    "an event": (threading.Event, lambda kept, x: x if not kept.is_set() else -x),
    "a semaphore": (threading.Semaphore, lambda kept, x: x),
    "a thread-local": (threading.local, lambda kept, x: x),
    "a queue": (queue.Queue, lambda kept, x: x if kept.empty() else -x),
    "an executor": (executor, lambda kept, x: x),
    "a future": (Future, lambda kept, x: x),
    "an open file": (lambda: DEVNULL, lambda kept, x: x if not kept.closed else -x),
    "a ctypes object": (lambda: ctypes.c_int(1), lambda kept, x: x * kept.value),
    "a ctypes pointer": (lambda: ctypes.pointer(ctypes.c_int(1)), lambda kept, x: x * kept.contents.value),
    "a ctypes library": (lambda: ctypes.CDLL(None), lambda kept, x: x * kept.abs(-1)),
    "a ctypes function": (lambda: ctypes.CDLL(None).abs, lambda kept, x: x * kept(-1)),
    "a module of Python": (lambda: torch, lambda kept, x: kept.mul(x, 1)),
    "a generator": (running, lambda kept, x: x * next(kept)),
    "a dict's keys": (lambda: {"a": 1}.keys(), lambda kept, x: x * len(kept)),
    "a mapping proxy": (lambda: types.MappingProxyType({"a": 1}), lambda kept, x: x * kept["a"]),
    "a memoryview": (lambda: memoryview(b"abc"), lambda kept, x: x * (len(kept) - 2)),
    "a context variable": (lambda: VARIABLE, lambda kept, x: x * kept.get()),
    "a scripted function": (lambda: scripted, lambda kept, x: kept(x)),
    "a scripted function in a list": (lambda: [scripted], lambda kept, x: kept[0](x)),
    "a lock in a dict": (lambda: {"lock": threading.Lock()}, lambda kept, x: x),
    "a lock in an object": (lambda: types.SimpleNamespace(lock=threading.Lock()), lambda kept, x: x),
    "a frame": (lambda: next(f for f in [__import__("sys")._getframe()]), lambda kept, x: x),
    "a thread": (threading.Thread, lambda kept, x: x),
    "what refuses to be copied": (Refusing, lambda kept, x: x),
    "what refuses to be reduced": (RefusingByReduce, lambda kept, x: x),
    "what recurses when copied": (Delegating, lambda kept, x: x * kept.inner["gain"]),
    "a list in a list, 1500 deep": (deeply_nested, lambda kept, x: x),
    "a weakref.proxy": (lambda: weakref.proxy(DEVNULL), lambda kept, x: x),
}
for _name, (_thing, _do) in UNCOPYABLE.items():
    holding(_name, _thing, _do, expected=OrRefused("kept"))

COPYABLE: dict[str, tuple[Callable[[], Any], Callable[[Any, Tensor], Tensor]]] = {
    "a lambda": (lambda: lambda x: x * 1, lambda kept, x: kept(x)),
    "a class": (lambda: Bag, lambda kept, x: x if kept is Bag else -x),
    "a builtin": (lambda: abs, lambda kept, x: x * kept(-1)),
    "a numpy array": (lambda: np.ones(2), lambda kept, x: x * kept[0]),
    "a numpy generator": (lambda: np.random.default_rng(0), lambda kept, x: x if kept.random() < 2 else -x),
    "a logger": (lambda: logging.getLogger("ways"), lambda kept, x: (kept.debug("seen"), x)[1]),
    "a compiled pattern": (lambda: re.compile("a"), lambda kept, x: x if kept.match("a") else -x),
    "a bytes stream": (lambda: io.BytesIO(b"a"), lambda kept, x: x * len(kept.getvalue())),
    "an iterator": (lambda: iter([1] * 99), lambda kept, x: x * next(kept)),
    "itertools.cycle": (lambda: itertools.repeat(1), lambda kept, x: x * next(kept)),
    "a weakref": (lambda: weakref.ref(Bag), lambda kept, x: x if kept() is Bag else -x),
    "a WeakValueDictionary": (weakref.WeakValueDictionary, lambda kept, x: x * (1 + len(kept))),
    "a WeakKeyDictionary": (weakref.WeakKeyDictionary, lambda kept, x: x * (1 + len(kept))),
    "an enum": (lambda: Mode.ON, lambda kept, x: x if kept is Mode.ON else -x),
    "a dtype, a device, a size": (
        lambda: [torch.float64, torch.device("cpu"), torch.Size([1])],
        lambda kept, x: x.to(kept[1], kept[0]).clone(),
    ),
    "a generator of torch's": (
        lambda: torch.Generator().manual_seed(1),
        lambda kept, x: x * (1 + 0 * torch.rand((), generator=kept)),
    ),
    "lru_cache": (lambda: functools.lru_cache(lambda size: size), lambda kept, x: x * kept(1)),
    "what copies as itself": (Itself, lambda kept, x: x),
    "an optimizer of nothing": (
        lambda: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1),
        lambda kept, x: x * kept.param_groups[0]["lr"] * 10,
    ),
    "a property": (lambda: property(lambda self: 1), lambda kept, x: x * kept.fget(None)),
    "slices": (lambda: (slice(None), ...), lambda kept, x: x[kept]),
    "an exception": (lambda: ValueError("kept"), lambda kept, x: x * len(kept.args)),
    "a list that holds itself": (lambda: (lambda a: (a.append(a), a)[1])([]), lambda kept, x: x * len(kept)),
    "None": (lambda: None, lambda kept, x: x if kept is None else -x),
}
for _name, (_thing, _do) in COPYABLE.items():
    holding(_name, _thing, _do, again="generator of torch" not in _name)


def removable(net: Any) -> None:
    net.kept = net.relu.register_forward_hook(lambda module, args, y: None)


changed("the handle of a hook", removable)
changed("an optimizer of its own weights", lambda net: setattr(net, "kept", torch.optim.SGD(net.parameters(), lr=0.1)))
changed("itself in a list", lambda net: setattr(net, "kept", [net]))
changed("a function of torch's", lambda net: setattr(net, "kept", F.relu))
