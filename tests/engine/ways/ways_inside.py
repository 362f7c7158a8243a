"""What `forward` does with its own modules while it runs, and what it is fed with."""

from __future__ import annotations

import copy
import inspect
import pickle
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from ways_harness import HONEST, LOOSE, RIGHT, Expected, Net, OnlyBackprop, OrRefused, Plain, Ways, image

ways = Ways("inside")


def forward(name: str, expected: Expected = RIGHT, plain: Any = Plain, **options: Any) -> Callable[[Any], Any]:
    """Enter the network with this `forward`."""

    def entered(function: Any) -> Any:
        ways.module(name, expected, plain, **options)(type("Inside", (Net,), {"forward": function}))
        return function

    return entered


def second_half(self: Any, x: Tensor) -> Tensor:
    return self.conv3(self.relu(self.conv2(x)))


# Modules copied, changed and replaced in forward ------------------------------------------------------------

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "another of its class": lambda module: type(module)(**{k: getattr(module, k) for k in module.__constants__}),
    "a Sequential of it": lambda module: nn.Sequential(module),
    "an nn.ModuleList of it": lambda module: nn.ModuleList([module])[0],
    "its bound forward": lambda module: module.forward,
    "its bound __call__": lambda module: module.__call__,
    "a method of its class": lambda module: types.MethodType(type(module).forward, module),
    "its class's __call__": lambda module: lambda x: type(module).__call__(module, x),
    "eval()": lambda module: module.eval(),
    "to()": lambda module: module.to(torch.float64),
    "requires_grad_": lambda module: module.requires_grad_(False),
    "apply": lambda module: module.apply(lambda m: None),
}


def enter_copy(name: str, change: Callable[[Any], Any]) -> None:
    @forward(f"in forward: {name}")
    def changed(self: Any, x: Tensor) -> Tensor:
        x = change(self.pool)(change(self.relu)(self.norm(self.conv1(x))))
        return second_half(self, x)


for _name, _change in COPIES.items():
    enter_copy(_name, _change)


@forward("a setting changed before the call", plain=lambda: Pooled(3))
def new_setting(self: Any, x: Tensor) -> Tensor:
    self.pool.kernel_size, self.pool.stride, self.pool.padding = 3, 2, 1
    self.relu.inplace = True
    return second_half(self, self.pool(self.relu(self.norm(self.conv1(x)))))


class Pooled(Net):
    """The twin with another pool."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(size, 2, size // 2)

    def forward(self, x: Tensor) -> Tensor:
        return second_half(self, self.pool(F.relu(self.norm(self.conv1(x)))))


@forward("a module replaced in forward")
def replaced(self: Any, x: Tensor) -> Tensor:
    self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)
    return second_half(self, self.pool(self.relu(self.norm(self.conv1(x)))))


@forward("a forward assigned in forward", plain=lambda: Shifted())
def assigned(self: Any, x: Tensor) -> Tensor:
    self.relu.forward = lambda y: F.relu(y - 0.1)
    return second_half(self, self.pool(self.relu(self.norm(self.conv1(x)))))


class Shifted(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x)) - 0.1), 2)
        return self.conv3(F.relu(self.conv2(x) - 0.1))


@forward("a class assigned in forward", HONEST, lambda: Leaky())
def other_class(self: Any, x: Tensor) -> Tensor:
    self.relu.__class__, self.relu.negative_slope = nn.LeakyReLU, 0.3
    return second_half(self, self.pool(self.relu(self.norm(self.conv1(x)))))


class Leaky(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.leaky_relu(self.norm(self.conv1(x)), 0.3), 2)
        return self.conv3(F.leaky_relu(self.conv2(x), 0.3))


@forward("a slope that changes from call to call", plain=lambda: Slopes())
def slopes(self: Any, x: Tensor) -> Tensor:
    act = nn.LeakyReLU()
    act.negative_slope = 0.3
    x = self.pool(act(self.norm(self.conv1(x))))
    act.negative_slope = 0.05
    return self.conv3(act(self.conv2(x)))


class Slopes(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.leaky_relu(self.norm(self.conv1(x)), 0.3), 2)
        return self.conv3(F.leaky_relu(self.conv2(x), 0.05))


@forward("hooks put on and taken off in forward")
def hooked(self: Any, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = self.relu.register_forward_hook(lambda module, args, y: seen.append(y))
    self.relu(self.norm(self.conv1(x)))
    handle.remove()
    return second_half(self, self.pool(seen[0]))


@forward("features taken by hooks")
def by_hooks(self: Any, x: Tensor) -> Tensor:
    kept: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda module, args, y, name=name: kept.__setitem__(name, y))
        for name, module in self.named_children()
    ]
    self.pool(self.relu(self.norm(self.conv1(x))))
    for handle in handles:
        handle.remove()
    return second_half(self, kept["pool"])


@forward("what inspect says of its modules")
def inspected(self: Any, x: Tensor) -> Tensor:
    assert list(inspect.signature(self.relu.forward).parameters) == ["input"]
    assert list(inspect.signature(type(self.conv1).forward).parameters) == ["self", "input"]
    assert inspect.isclass(type(self.pool))
    assert callable(self.relu.forward)
    return second_half(self, self.pool(self.relu(self.norm(self.conv1(x)))))


@forward("names and owners of bound methods", HONEST)
def owners(self: Any, x: Tensor) -> Tensor:
    known = getattr(self.relu.forward, "__self__", self.relu) is self.relu
    return second_half(self, self.pool(self.relu(self.norm(self.conv1(x))))) if known else x


# Written in parts -------------------------------------------------------------------------------------------


def halves(x: Tensor) -> Tensor:
    return torch.cat([F.relu(x[:, :2]), x[:, 2:]], 1)


def copied(x: Tensor, write: Callable[[Tensor], Any]) -> Tensor:
    x = x * 1
    write(x)
    return x


def assign(x: Tensor) -> None:
    x[:, :2] = F.relu(x[:, :2])


def fill(x: Tensor) -> None:
    part = x[:, :2]
    part[part < 0] = 0


PARTS: dict[str, tuple[Callable[[Tensor], Any], Expected]] = {
    "x[:, :2].relu_()": (lambda x: x[:, :2].relu_(), RIGHT),
    "F.relu(x[:, :2], inplace=True)": (lambda x: F.relu(x[:, :2], inplace=True), RIGHT),
    "nn.ReLU(True)(x[:, :2])": (lambda x: nn.ReLU(True)(x[:, :2]), RIGHT),
    "x[:, :2].clamp_(min=0)": (lambda x: x[:, :2].clamp_(min=0), RIGHT),
    "x.narrow(1, 0, 2).relu_()": (lambda x: x.narrow(1, 0, 2).relu_(), RIGHT),
    "x[:, :2] = relu": (assign, RIGHT),
    "a part of a part is set": (fill, HONEST),
    "aten.relu_ of a part": (lambda x: torch.ops.aten.relu_(x[:, :2]), HONEST),
    "x[:, :2].mul_(x > 0)": (lambda x: x[:, :2].mul_(x[:, :2] > 0), HONEST),
    "masked_fill_ of a part": (lambda x: x[:, :2].masked_fill_(x[:, :2] < 0, 0), HONEST),
    "index_put_ of a part": (lambda x: x[:, :2].index_put_((x[:, :2] < 0,), torch.tensor(0.0)), HONEST),
    "masked_scatter_ of a part": (lambda x: x[:, :2].masked_scatter_(x[:, :2] < 0, torch.zeros_like(x)), HONEST),
    "lerp_ of a part": (lambda x: x[:, :2].lerp_(torch.zeros(()), (x[:, :2] < 0).double()), HONEST),
    "addcmul_ of a part": (lambda x: x[:, :2].addcmul_(x[:, :2], (x[:, :2] < 0).double(), value=-1), HONEST),
}
for _name, (_write, _expected) in PARTS.items():
    ways.function(f"in place: {_name}", lambda x, w=_write: copied(x, w), _expected, halves)
ways.function(
    "in place: after its value was used",
    lambda x: (lambda y: y + 0 * (y.relu_() if y is None else y))(F.relu(x)),
    twin=F.relu,
)


# Put together -----------------------------------------------------------------------------------------------

TOGETHER: dict[str, Callable[[Tensor], Tensor]] = {
    "1 - relu(1 - x)": lambda x: 1 - F.relu(1 - x),
    "-relu(-x)": lambda x: -F.relu(-x),
    "relu(x) - relu(x - 1)": lambda x: F.relu(x) - F.relu(x - 1),
    "relu(relu(x))": lambda x: F.relu(F.relu(x)),
    "relu(x) ** 2": lambda x: F.relu(x) ** 2,
    "relu(x).sqrt() + x": lambda x: (F.relu(x) + 1e-3).sqrt() + x,
    "relu(x) * x": lambda x: F.relu(x) * x,
    "relu(x) / (1 + relu(x))": lambda x: F.relu(x) / (1 + F.relu(x)),
    "clamp(0).clamp(max=6)": lambda x: x.clamp(min=0).clamp(max=6),
    "clamp(0, 1)": lambda x: x.clamp(0, 1),
    "relu of a mean": lambda x: x + F.relu(x.mean((2, 3), keepdim=True)),
    "relu of a matrix": lambda x: F.relu(x @ x.mT),
    "relu of a softmax": lambda x: F.relu(x.softmax(1) - 0.2),
    "relu of an outer product": lambda x: F.relu(torch.einsum("nchw,ndhw->nchw", x, x)),
    "relu of a fold": lambda x: (
        F.relu(F.unfold(x, 3, padding=1)).unflatten(1, (4, 9)).mean(2).unflatten(2, x.shape[2:])
    ),
    "relu of a sort": lambda x: F.relu(x.sort(1).values),
    "relu of a gather": lambda x: F.relu(x.gather(1, x.argsort(1))),
    "relu of a cumsum": lambda x: F.relu(x.cumsum(3)),
    "relu of an fft": lambda x: F.relu(torch.fft.fft2(x).real) / 10,
    "relu of a flip": lambda x: F.relu(x.flip(3).roll(1, 2)),
    "relu of an interpolation": lambda x: F.relu(F.interpolate(x, scale_factor=2.0, mode="bilinear"))[..., ::2, ::2],
    "relu of a grid sample": lambda x: F.relu(
        F.grid_sample(x, F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), list(x.shape), False), align_corners=False)
    ),
    "relu of a pixel shuffle": lambda x: (
        F.relu(F.pixel_shuffle(x, 2)).mean(1, keepdim=True).expand(-1, 4, -1, -1)[..., ::2, ::2]
    ),
    "relu of a norm": lambda x: F.relu(F.layer_norm(x, x.shape[1:])),
    "relu of a group norm": lambda x: F.relu(F.group_norm(x, 2)),
    "relu of an instance norm": lambda x: F.relu(F.instance_norm(x)),
    "relu of a transposed convolution": lambda x: F.relu(F.conv_transpose2d(x, torch.ones(4, 4, 1, 1) / 3)) - x,
    "relu of a bilinear form": lambda x: F.relu(x * x.roll(1, 1)),
    "dropout that stays on": lambda x: F.relu(F.dropout(x, 0.5, training=True)),
    "channels that are dropped": lambda x: F.relu(F.dropout2d(x, 0.5, training=True)),
    "noise that is added": lambda x: F.relu(x + torch.randn_like(x)),
    "rrelu in training": lambda x: F.relu(x) + 0 * F.rrelu(x, training=False),
}
for _name, _function in TOGETHER.items():
    ways.function(f"together: {_name}", _function, twin=_function)

STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "a random mask by a comparison": lambda x: F.relu(x * (torch.rand(x.shape) > 0.5)),
    "the strongest of each pixel": lambda x: F.relu(x) * (x >= x.topk(2, 1).values[:, -1:]),
    "a mask of a quantile": lambda x: F.relu(x) * (x > x.detach().quantile(0.7)),
    "a mask of a sign": lambda x: F.relu(x) * x.flip(1).sign(),
    "a choice by an argmax": lambda x: F.relu(x) * F.one_hot(x.argmax(1), 4).movedim(-1, 1),
}
for _name, _function in STEPS.items():
    ways.function(f"steps: {_name}", _function, LOOSE, twin=_function)

CROSS = nn.CrossMapLRN2d(3)
ways.function("together: CrossMapLRN2d", lambda x: CROSS(F.relu(x)), HONEST, lambda x: CROSS(F.relu(x)))
LRN = nn.LocalResponseNorm(3)
ways.function("together: LocalResponseNorm by keyword", lambda x: LRN(input=F.relu(x)), twin=lambda x: LRN(F.relu(x)))
ways.function(
    "together: F.local_response_norm by keyword",
    lambda x: F.local_response_norm(input=F.relu(x), size=3),
    twin=lambda x: LRN(F.relu(x)),
)


# What it is fed with ----------------------------------------------------------------------------------------


class Whole(Net):
    """The network in modules, whatever the size."""

    def forward(self, x: Tensor) -> Tensor:
        return second_half(self, self.pool(self.relu(self.norm(self.conv1(x)))))


def fed(name: str, change: Callable[[Tensor], Tensor], expected: Expected = RIGHT, **options: Any) -> None:
    ways.module(f"fed with {name}", expected, inputs=lambda: change(image()()), **options)(Whole)


fed("channels last", lambda x: x.to(memory_format=torch.channels_last))
fed("a transposed image", lambda x: x.mT)
fed("every second pixel", lambda x: torch.cat([x, x], 3)[..., ::2])
fed("one image", lambda x: x[:1])
fed("an expanded image", lambda x: x[:1].expand(2, -1, -1, -1))
fed("a large image", lambda x: F.interpolate(x, size=(40, 33)))
fed("an image of zeros", torch.zeros_like, OnlyBackprop())
fed("huge numbers", lambda x: x * 1e100)
fed("tiny numbers", lambda x: x * 1e-100)


class Unbatched(nn.Module):
    """Takes an image without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.relu(self.conv(x)))


ways.module("fed with an image without a batch", RIGHT, Unbatched, inputs=lambda: image()()[0])(Unbatched)


class InSingle(Whole):
    """Computes in another precision than its input has."""

    def forward(self, x: Tensor) -> Tensor:
        first = F.conv2d(x.float(), self.conv1.weight.float(), self.conv1.bias.float())
        return second_half(self, self.pool(self.relu(self.norm(first.double()))))


ways.module("fed with doubles, computing in floats", RIGHT, InSingle, exact=True)(InSingle)


class Autocast(Whole):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = self.relu(F.conv2d(x.float(), self.conv1.weight.float(), self.conv1.bias.float()))
        return second_half(self, self.pool(y.double()))


ways.module("a part under autocast", RIGHT, Autocast)(Autocast)


# Gradients that are stopped, kept or changed on the way -----------------------------------------------------

SIGNALS: dict[str, Callable[[Tensor], Tensor]] = {
    "detached and added": lambda x: F.relu(x) + F.relu(x).detach(),
    "half of it without a gradient": lambda x: torch.cat([F.relu(x[:, :2]), F.relu(x[:, 2:]).detach()], 1),
    "a hook that turns the signal": lambda x: hooked_signal(F.relu(x), lambda signal: -signal),
    "a hook that clips the signal": lambda x: hooked_signal(F.relu(x), lambda signal: signal.clamp(-0.1, 0.1)),
    "retain_grad": lambda x: hooked_signal(F.relu(x), None),
    "a weighted sum with itself": lambda x: 0.3 * x.detach() + 0.7 * F.relu(x),
    "stop and go": lambda x: (F.relu(x) - x).detach() * 0.1 + F.relu(x),
}


def hooked_signal(x: Tensor, hook: Callable[[Tensor], Tensor] | None) -> Tensor:
    if x.requires_grad and hook is None:
        x.retain_grad()
    elif x.requires_grad and hook is not None:
        x.register_hook(hook)
    return x


for _name, _function in SIGNALS.items():
    ways.function(f"signals: {_name}", _function, twin=_function)


# Patched classes --------------------------------------------------------------------------------------------


class Patched(nn.ReLU):
    """A class whose `forward` was replaced after it was made."""


Patched.forward = lambda self, input: F.leaky_relu(input, 0.3)  # type: ignore[method-assign]


class ByDescriptor(nn.ReLU):
    """Its `forward` is a property that gives a function."""

    @property
    def forward(self) -> Any:  # type: ignore[override]
        return lambda x: F.relu(x)


class ByStatic(nn.ReLU):
    forward = staticmethod(F.relu)  # type: ignore[assignment]


class ByLookup(nn.ReLU):
    """Answers for `forward` itself."""

    def __getattribute__(self, name: str) -> Any:
        return (lambda x: F.relu(x)) if name == "forward" else super().__getattribute__(name)


class Acting(Whole):
    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.relu = make()  # type: ignore[assignment]


ways.module("patched: a class's forward", RIGHT, Leaky)(lambda: Acting(Patched))
ways.module("patched: forward is a property", RIGHT)(lambda: Acting(ByDescriptor))
ways.module("patched: forward is static", RIGHT)(lambda: Acting(ByStatic))
ways.module("patched: forward is looked up", OrRefused("relu"))(lambda: Acting(ByLookup))
