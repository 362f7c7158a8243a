"""Modules and functions, called and held in every way there is; and what stands around a call."""

from __future__ import annotations

import functools
import operator
import re
import types
import weakref
from collections import OrderedDict, deque, namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from ways_harness import HONEST, LOOSE, RIGHT, Calling, Expected, Net, Plain, Ways, image

ways = Ways("calls")


# By keyword, and past the door ------------------------------------------------------------------------------


@ways.module("every module called by keyword")
class ByKeyword(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(input=self.relu(input=self.norm(input=self.conv1(input=x))))
        return self.conv3(input=self.relu(input=self.conv2(input=x)))


class CallingOne(Net):
    """The network around one more module and a call of it."""

    def __init__(self, make: Any, call: Any) -> None:
        super().__init__()
        self.extra, self.call = make(), call

    def forward(self, x: Tensor) -> Tensor:
        x = self.call(self.extra, 3 * self.norm(self.conv1(x)))
        return self.conv3(self.call(self.extra, 4 * self.conv2(x)))


def with_one(name: str, make: Any, call: Any, twin: Any) -> None:
    """Enter a network around a module and a call of it; the twin is a function."""
    ways.module(name, plain=lambda: Calling(twin))(lambda: CallingOne(make, call))


for _kind, _twin in {
    nn.ReLU6: F.relu6,
    nn.LeakyReLU: F.leaky_relu,
    nn.PReLU: lambda x: F.prelu(x, torch.tensor([0.25])),
    nn.RReLU: F.rrelu,
}.items():
    with_one(f"{_kind.__name__}(input=x)", _kind, lambda m, x: m(input=x), _twin)
with_one("Hardtanh(0, 2)(input=x)", lambda: nn.Hardtanh(0, 2), lambda m, x: m(input=x), lambda x: F.hardtanh(x, 0, 2))
with_one("Threshold(input=x)", lambda: nn.Threshold(0.2, 0), lambda m, x: m(input=x), lambda x: F.threshold(x, 0.2, 0))

KEYWORDS: dict[str, Any] = {
    "F.relu(input=x)": lambda x: F.relu(input=x),
    "F.relu(input=x, inplace=True)": lambda x: F.relu(input=x.clone(), inplace=True),
    "torch.relu(input=x)": lambda x: torch.relu(input=x),
    "torch.clamp(input=x, min=0)": lambda x: torch.clamp(input=x, min=0),
    "x.clamp_min(min=0)": lambda x: x.clamp_min(min=0),
    "torch.clamp_min(input=x, min=0)": lambda x: torch.clamp_min(input=x, min=0),
    "torch.maximum(input=x, other=0)": lambda x: torch.maximum(input=x, other=torch.zeros(())),
    "torch.maximum(other=x, input=0)": lambda x: torch.maximum(other=x, input=torch.zeros(())),
    "x.maximum(other=0)": lambda x: x.maximum(other=x.new_zeros(1)),
    "torch.max(input=x, other=0)": lambda x: torch.max(input=x, other=x.new_zeros(1)),
    "F.threshold(input=x, threshold=0, value=0)": lambda x: F.threshold(input=x, threshold=0, value=0),
    "F.hardtanh(x, min_val=0, max_val=inf)": lambda x: F.hardtanh(x, min_val=0.0, max_val=float("inf")),
    "F.leaky_relu(x, negative_slope=0)": lambda x: F.leaky_relu(input=x, negative_slope=0.0),
    "torch.relu(x=x)": lambda x: torch.relu(x=x),  # NumPy's names, which torch takes, too
    "torch.clamp(a=x, min=0)": lambda x: torch.clamp(a=x, min=0),
    "torch.maximum(x1=x, x2=0)": lambda x: torch.maximum(x1=x, x2=torch.zeros(())),
    "torch.mul(x, x2=x > 0)": lambda x: torch.mul(x, x2=x > 0),
    "torch.masked_fill(x=x, ...)": lambda x: torch.masked_fill(x=x, mask=x < 0, value=0),
    "torch.threshold(x=x, ...)": lambda x: torch.threshold(x=x, threshold=0, value=0),
    "torch.prelu(x=x, ...)": lambda x: torch.prelu(x=x, weight=torch.zeros(1, dtype=x.dtype)),
    "aten.relu(self=x)": lambda x: torch.ops.aten.relu(self=x),
    "aten.clamp_min(self=x, min=0)": lambda x: torch.ops.aten.clamp_min(self=x, min=0),
    "Tensor.relu(x)": lambda x: Tensor.relu(x),
    "type(x).relu(x)": lambda x: type(x).relu(x),
    "getattr(F, 'relu')": lambda x: getattr(F, "re" + "lu")(x),
    "F.__dict__['relu']": lambda x: F.__dict__["relu"](x),
    "operator.methodcaller": operator.methodcaller("relu"),
    "a partial of F.relu": functools.partial(F.relu, inplace=False),
    "a partial of torch.clamp": functools.partial(torch.clamp, min=0.0),
    "map": lambda x: torch.cat(list(map(F.relu, x.split(1)))),
    "a comprehension": lambda x: torch.stack([F.relu(part) for part in x]),
    "functools.reduce": lambda x: functools.reduce(lambda y, f: f(y), [F.relu, torch.neg, torch.neg], x),
    "eval of a string": lambda x: eval("F.relu(x)"),
    "nn.ReLU made in forward": lambda x: nn.ReLU()(x),
    "nn.ReLU(inplace=True) made in forward": lambda x: nn.ReLU(True)(x.clone()),
    "nn.Sequential made in forward": lambda x: nn.Sequential(nn.Identity(), nn.ReLU())(x),
    "nn.PReLU(init=0) made in forward": lambda x: nn.PReLU(init=0.0)(x),
    "a subclass made in forward": lambda x: type("Act", (nn.ReLU,), {})()(x),
    "nn.ReLU().forward": lambda x: nn.ReLU().forward(x),
    "a list subscript": lambda x: [F.gelu, F.relu][1](x),
}
for _name, _function in KEYWORDS.items():
    ways.function(_name, _function)
for _name, _function in {
    "nn.MaxPool2d made in forward": lambda x: nn.MaxPool2d(3, 1, 1)(F.relu(x)),
    "F.max_pool2d(input=x, ...)": lambda x: F.max_pool2d(input=F.relu(x), kernel_size=3, stride=1, padding=1),
    "torch.max_pool2d": lambda x: torch.max_pool2d(F.relu(x), 3, 1, 1),
}.items():
    ways.function(_name, _function, twin=lambda x: F.max_pool2d(F.relu(x), 3, 1, 1))


def forward(name: str, expected: Expected = RIGHT, make: Any = Net, plain: Any = Plain, **options: Any) -> Any:
    """Enter a network with a `forward` of its own. What has to be made comes from `make`."""

    def entered(function: Any) -> Any:
        def build() -> nn.Module:
            net = make()
            net.__class__ = type(net.__class__.__name__, (net.__class__,), {"forward": function})
            return net

        ways.module(name, expected, plain, **options)(build)
        return function

    return entered


DOORS: dict[str, Any] = {
    "self.act.forward(x)": lambda m, x: m.forward(x),
    "self.act.forward(input=x)": lambda m, x: m.forward(input=x),
    "self.act.__call__(x)": lambda m, x: m.__call__(x),
    "nn.Module.__call__(self.act, x)": lambda m, x: nn.Module.__call__(m, x),
    "self.act._call_impl(x)": lambda m, x: m._call_impl(x),
    "type(self.act).__call__(self.act, x)": lambda m, x: type(m).__call__(m, x),
    "type(self.act).forward(self.act, x)": lambda m, x: type(m).forward(m, x),
    "super(type(self.act), self.act).__call__(x)": lambda m, x: super(type(m), m).__call__(x),
    "functional_call": lambda m, x: functional_call(m, dict(m.named_parameters()), (x,)),
    "vmap": lambda m, x: vmap(m)(x),
}


def enter_door(name: str, call: Any) -> None:
    @forward(f"{name}")
    def through(self: Any, x: Tensor) -> Tensor:
        x = call(self.pool, call(self.relu, self.norm(call(self.conv1, x))))
        return call(self.conv3, call(self.relu, call(self.conv2, x)))


for _name, _call in DOORS.items():
    enter_door(_name, _call)


@forward("nn.ReLU.forward(self.act, x), unbound")
def unbound(self: Any, x: Tensor) -> Tensor:
    x = nn.MaxPool2d.forward(self.pool, nn.ReLU.forward(self.relu, self.norm(nn.Conv2d.forward(self.conv1, x))))
    return self.conv3(nn.ReLU.forward(self.relu, self.conv2._conv_forward(x, self.conv2.weight, self.conv2.bias)))


@forward("vmap over images inside forward")
def over_images(self: Any, x: Tensor) -> Tensor:
    x = vmap(lambda one: self.pool(self.relu(self.norm(self.conv1(one[None]))))[0])(x)
    return vmap(lambda one: self.conv3(F.relu(self.conv2(one[None])))[0])(x)


# Held -------------------------------------------------------------------------------------------------------


class Holding(Net):
    """Holds an activation in the way that `hold` says; `act` fetches it."""

    fetch: Any

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.fetch(self)(self.norm(self.conv1(x))))
        return self.conv3(self.fetch(self)(self.conv2(x)))


def held(name: str, hold: Any, fetch: Any, expected: Expected = RIGHT, **options: Any) -> None:
    """Enter a network that is given an activation by `hold(net)`, which `fetch(net)` finds again."""

    def build() -> nn.Module:
        net = type("Holding", (Holding,), {"fetch": staticmethod(fetch)})()
        hold(net)
        return net

    ways.module(name, expected, **options)(build)


def put(value: Any) -> Any:
    """Sets the attribute `kept` to what `value` makes, past `nn.Module.__setattr__` if need be."""
    return lambda net: setattr(net, "kept", value())


Pair = namedtuple("Pair", ["act", "other"])


@dataclass
class Config:
    act: Any
    size: int = 3


class Slots:
    __slots__ = ("act",)

    def __init__(self, act: Any) -> None:
        self.act = act


for _name, _value, _fetch in (
    ("a list", lambda: [nn.ReLU()], lambda net: net.kept[0]),
    ("a tuple", lambda: (nn.ReLU(),), lambda net: net.kept[0]),
    ("a dict", lambda: {"act": nn.ReLU()}, lambda net: net.kept["act"]),
    ("an OrderedDict", lambda: OrderedDict(act=nn.ReLU()), lambda net: net.kept["act"]),
    ("a nested list", lambda: [[nn.ReLU()], []], lambda net: net.kept[0][0]),
    ("a set", lambda: {nn.ReLU()}, lambda net: next(iter(net.kept))),
    ("a deque", lambda: deque([nn.ReLU()]), lambda net: net.kept[0]),
    ("a namedtuple", lambda: Pair(nn.ReLU(), None), lambda net: net.kept.act),
    ("a dataclass", lambda: Config(nn.ReLU()), lambda net: net.kept.act),
    ("a SimpleNamespace", lambda: types.SimpleNamespace(act=nn.ReLU()), lambda net: net.kept.act),
    ("an object with slots", lambda: Slots(nn.ReLU()), lambda net: net.kept.act),
    ("a partial", lambda: functools.partial(nn.ReLU()), lambda net: net.kept),
    ("a bound method", lambda: nn.ReLU().forward, lambda net: net.kept),
    ("a bound __call__", lambda: nn.ReLU().__call__, lambda net: net.kept),
    ("a closure", lambda: (lambda act: lambda x: act(x))(nn.ReLU()), lambda net: net.kept),
    ("a default argument", lambda: lambda x, act=nn.ReLU(): act(x), lambda net: net.kept),  # noqa: B008
    ("a lambda", lambda: lambda x: F.relu(x), lambda net: net.kept),
    ("a class", lambda: nn.ReLU, lambda net: net.kept()),
    ("a list of functions", lambda: [torch.neg, F.relu], lambda net: net.kept[1]),
    ("a dict of functions", lambda: {"relu": F.relu}, lambda net: net.kept["relu"]),
    ("an object array of numpy", lambda: np.array([nn.ReLU(), None], dtype=object), lambda net: net.kept[0]),
    ("a ModuleList", lambda: nn.ModuleList([nn.ReLU(), nn.GELU()]), lambda net: net.kept[0]),
    ("a ModuleDict", lambda: nn.ModuleDict({"relu": nn.ReLU(), "gelu": nn.GELU()}), lambda net: net.kept["relu"]),
    ("a Sequential of one", lambda: nn.Sequential(nn.ReLU()), lambda net: net.kept),
    ("a Sequential, indexed", lambda: nn.Sequential(nn.Tanh(), nn.ReLU()), lambda net: net.kept[1]),
    ("a Sequential, sliced", lambda: nn.Sequential(nn.Tanh(), nn.ReLU()), lambda net: net.kept[1:]),
):
    # `strict` may refuse an activation that is held and never called.
    _expected = LOOSE if re.search("ModuleList|ModuleDict|Sequential, ", _name) else RIGHT
    held(f"held in {_name}", put(_value), _fetch, _expected)


held("held by a name with a number", lambda net: setattr(net, "act1", nn.ReLU()), lambda net: getattr(net, f"act{1}"))
held("held past __setattr__", lambda net: net.__dict__.update(kept=nn.ReLU()), lambda net: net.kept)
held("held by the class", lambda net: setattr(type(net), "kept", nn.ReLU()), lambda net: net.kept)
held("held twice", lambda net: (setattr(net, "a", net.relu), setattr(net, "b", net.relu)), lambda net: net.b)
held("held behind a weakref", lambda net: net.__dict__.update(kept=weakref.ref(net.relu)), lambda net: net.kept())
held("found by get_submodule", lambda net: None, lambda net: net.get_submodule("relu"))
held("found in _modules", lambda net: None, lambda net: net._modules["relu"])
held("found by attrgetter", lambda net: None, operator.attrgetter("relu"))
held("found among modules()", lambda net: None, lambda net: next(m for m in net.modules() if "ReLU" in str(type(m))))
SHARED = nn.ReLU()
held("held by the file", lambda net: None, lambda net: SHARED)
held("replaced in forward", lambda net: None, lambda net: net._modules.setdefault("late", nn.ReLU()))


class Described(Holding):
    """The activation behind a property, a cached property, a class method, a static method, a descriptor."""

    table: ClassVar = {"relu": F.relu}

    @property
    def by_property(self) -> Any:
        return self.relu

    @functools.cached_property
    def by_cached_property(self) -> Any:
        return nn.ReLU()

    @classmethod
    def by_class_method(cls) -> Any:
        return cls.table["relu"]

    @staticmethod
    def by_static_method(x: Tensor) -> Tensor:
        return F.relu(x)

    def by_method(self, x: Tensor) -> Tensor:
        return self.relu(x)

    by_descriptor = property(operator.attrgetter("relu"))
    by_class_attribute = staticmethod(F.relu)
    by_partial_method = functools.partialmethod(by_method)


def described(name: str, fetch: Any) -> None:
    ways.module(name)(lambda: type("Described", (Described,), {"fetch": staticmethod(fetch)})())


described("behind a property", lambda net: net.by_property)
described("behind a cached property", lambda net: net.by_cached_property)
described("behind a class method", lambda net: net.by_class_method())
described("behind a static method", lambda net: net.by_static_method)
described("behind a method", lambda net: net.by_method)
described("behind a descriptor", lambda net: net.by_descriptor)
described("behind a class attribute", lambda net: net.by_class_attribute)
described("behind a partial method", lambda net: net.by_partial_method)
described("behind a generator", lambda net: next(f for f in (net.relu, None)))


# Patched, hooked, decorated ---------------------------------------------------------------------------------


def patched(name: str, patch: Any, plain: Any = Plain, expected: Expected = RIGHT) -> None:
    """Enter the network after `patch(net)` has been at it."""

    def build() -> nn.Module:
        net = Plainly()
        patch(net)
        return net

    ways.module(name, expected, plain)(build)


class Plainly(Net):
    """The network, by its modules."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norm(self.conv1(x))))
        return self.conv3(self.relu(self.conv2(x)))


class Shifted(Net):
    """The twin of nets whose activation is shifted."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x)) + 0.1), 2)
        return self.conv3(F.relu(self.conv2(x) + 0.1))


class After(Net):
    """The twin of nets with a ReLU behind the second convolution's own."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(F.relu(self.conv1(x)))), 2)
        return self.conv3(F.relu(self.conv2(x)))


def bound(net: Any, name: str, function: Any) -> None:
    module = net.get_submodule(name)
    module.forward = types.MethodType(function, module)


PATCHES: dict[str, tuple[Any, Any]] = {
    "forward of an activation replaced": (
        lambda net: setattr(net.relu, "forward", lambda x: F.relu(x + 0.1)),
        Shifted,
    ),
    "forward of an activation replaced by a bound method": (
        lambda net: bound(net, "relu", lambda self, x: nn.ReLU.forward(self, x + 0.1)),
        Shifted,
    ),
    "forward of a convolution replaced": (
        lambda net: bound(net, "conv1", lambda self, x: F.conv2d(x, self.weight, self.bias)),
        Plain,
    ),
    "forward of a pool replaced": (lambda net: setattr(net.pool, "forward", lambda x: F.max_pool2d(x, 2)), Plain),
    "forward of the net replaced by a bound method": (
        lambda net: setattr(net, "forward", types.MethodType(Plainly.forward, net)),
        Plain,
    ),
    "a forward hook": (lambda net: net.conv1.register_forward_hook(lambda m, args, y: F.relu(y)), After),
    "a forward hook that calls a module": (
        lambda net: net.conv1.register_forward_hook(lambda m, args, y, act=nn.ReLU(): act(y)),  # noqa: B008
        After,
    ),
    "a forward hook with keywords": (
        lambda net: net.conv1.register_forward_hook(lambda m, args, kwargs, y: F.relu(y), with_kwargs=True),
        After,
    ),
    "a forward hook that is a method": (lambda net: net.conv1.register_forward_hook(Hook()), After),
    "a forward pre-hook": (lambda net: net.norm.register_forward_pre_hook(lambda m, args: F.relu(args[0])), After),
    "a forward pre-hook on the activation": (
        lambda net: net.relu.register_forward_pre_hook(lambda m, args: (args[0] + 0.1,)),
        Shifted,
    ),
    "a forward hook on the activation": (
        lambda net: net.relu.register_forward_hook(lambda m, args, y: F.relu(args[0] + 0.1)),
        Shifted,
    ),
    "a hook that only looks": (lambda net: net.relu.register_forward_hook(lambda m, args, y: None), Plain),
    "a backward hook that only looks": (lambda net: net.relu.register_full_backward_hook(lambda m, i, o: None), Plain),
    "a backward pre-hook that only looks": (
        lambda net: net.conv2.register_full_backward_pre_hook(lambda m, o: None),
        Plain,
    ),
}


class Hook:
    def __call__(self, module: nn.Module, args: Any, y: Tensor) -> Tensor:
        return F.relu(y)


for _name, (_patch, _plain) in PATCHES.items():
    patched(_name, _patch, _plain)


def through(name: str, decorate: Any, expected: Expected = RIGHT, **options: Any) -> None:
    """Enter the network with a decorated `forward`."""
    ways.module(name, expected, **options)(type("Decorated", (Plainly,), {"forward": decorate(Plainly.forward)}))


def timed(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Wrapper:
    """A decorator that is an object; bound like a function."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __get__(self, net: Any, kind: Any = None) -> Any:
        return functools.partial(self.function, net)


through("forward behind a decorator", timed)
through("forward behind a decorator that is an object", Wrapper)
through("forward that enables gradients", torch.enable_grad())
through("forward under autocast off", torch.autocast("cpu", enabled=False))
through("forward never compiled", torch.compiler.disable)
through("forward ignored by TorchScript", torch.jit.ignore)
through("forward behind two decorators", lambda f: timed(timed(f)))


# What stands around a call ----------------------------------------------------------------------------------


class Doubtful(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Dispatching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def under(name: str, context: Any, expected: Expected = RIGHT) -> None:
    @forward(f"under {name}", expected, Plainly)
    def inside(self: Any, x: Tensor) -> Tensor:
        with context():
            return Plainly.forward(self, x)


under("a device", lambda: torch.device("cpu"))
under("a function mode of one's own", Doubtful)
under("a dispatch mode of one's own", Dispatching)
under("the profiler's record_function", lambda: torch.profiler.record_function("forward"))
under("set_grad_enabled", lambda: torch.set_grad_enabled(torch.is_grad_enabled()))
under("saved_tensors_hooks", lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t))
under("hooks that keep numbers", lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t * 1, lambda t: t))
under("save_on_cpu", torch.autograd.graph.save_on_cpu)
under("fork_rng", lambda: torch.random.fork_rng(devices=[]))


@forward("parts in a thread pool that only looks", HONEST, Plainly)
def looked_at(self: Any, x: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(float, x.detach().sum()).result() is not None
    return Plainly.forward(self, x)


@ways.module("a small image", inputs=image(1, 3, 6, 6))
class Small(Plainly):
    pass
