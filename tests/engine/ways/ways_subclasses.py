"""Subclasses of torch's modules: their attributes, methods, `__call__` and `__init__` are their own and stay so."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from ways_harness import HONEST, RIGHT, Net, Plain, Ways

ways = Ways("subclasses")


class Acting(Net):
    """The network with an activation of one's own."""

    act: Any

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.norm(self.conv1(x))))
        return self.conv3(self.act(self.conv2(x)))


def acting(make: Any) -> Any:
    """A maker of the network with what `make` gives as its activation."""

    def build() -> nn.Module:
        net = Acting()
        net.act = make()
        return net

    return build


def subclass(name: str, *args: Any, expected: Any = RIGHT, plain: Any = Plain, **options: Any) -> Any:
    """Enter an activation's class, made with these arguments."""

    def entered(kind: Any) -> Any:
        ways.module(name, expected, plain, **options)(acting(lambda: kind(*args)))
        return kind

    return entered


def scaled(scale: float) -> Any:
    """The twin whose ReLU is scaled: as a function, so that the oracle meets a plain ReLU."""
    return acting(lambda: Scaled(scale))


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) * self.scale


@subclass("a ReLU subclass that adds nothing")
class MyReLU(nn.ReLU):
    pass


@subclass("a ReLU subclass that logs and calls super().forward")
class Logging(nn.ReLU):
    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def forward(self, input: Tensor) -> Tensor:
        self.shapes.append(input.shape)
        return super().forward(input)


@subclass("a ReLU subclass with an __init__ of its own", "label", 3)
class Labelled(nn.ReLU):
    def __init__(self, label: str, count: int) -> None:
        super().__init__(inplace=count > 100)
        self.label, self.count = label, count


@subclass("a ReLU subclass that does not call super().__init__ with inplace", 1.0)
class Fixed(nn.ReLU):
    inplace = False

    def __init__(self, scale: float) -> None:
        nn.Module.__init__(self)


@subclass("a ReLU subclass with a __call__ of its own", plain=scaled(2.0))
class CallingReLU(nn.ReLU):
    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)


@subclass("a ReLU subclass whose __call__ does without forward", plain=scaled(2.0))
class OnlyCall(nn.ReLU):
    def __call__(self, x: Tensor) -> Tensor:
        return 2 * torch.relu(x)


@subclass("a ReLU subclass whose forward takes more", plain=scaled(0.5))
class WithScale(nn.ReLU):
    def forward(self, input: Tensor, scale: float = 0.5) -> Tensor:
        return super().forward(input) * scale


@subclass("a ReLU subclass whose forward is something else", plain=scaled(-1.0))
class Other(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return -F.relu(input)


@subclass("a ReLU subclass whose forward is decorated")
class Decorated(nn.ReLU):
    def timed(forward: Any) -> Any:  # noqa: N805 (a decorator, kept in the class)
        @functools.wraps(forward)
        def wrapper(self: Any, *args: Any) -> Any:
            self.calls = getattr(self, "calls", 0) + 1
            return forward(self, *args)

        return wrapper

    @timed
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


@subclass("a generic ReLU subclass")
class Typed(nn.ReLU, Generic[TypeVar("T")]):  # type: ignore[misc]
    pass


class Mixin:
    scale = 2.0

    def scaled(self, x: Tensor) -> Tensor:
        return self.scale * x


@subclass("a ReLU subclass with a mixin", plain=scaled(2.0))
class Mixed(Mixin, nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return self.scaled(super().forward(input))


@subclass("a ReLU subclass that is false", expected=RIGHT)
class Falsy(nn.ReLU):
    def __len__(self) -> int:
        return 0


@subclass("a ReLU subclass that equals its like")
class EqualToAll(nn.ReLU):
    def __eq__(self, other: object) -> bool:
        return type(other) is EqualToAll

    def __hash__(self) -> int:
        return id(self)


@subclass("a ReLU subclass that answers for every attribute", expected=RIGHT)
class Answering(nn.ReLU):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return super().__getattr__(name) if name in ("inplace",) else None


@subclass("a ReLU subclass that copies as itself", expected=HONEST)
class Singleton(nn.ReLU):
    """A copy is the module itself: what is put on the shadow's module is put on the original's."""

    def __deepcopy__(self, memo: Any) -> Singleton:
        return self


@subclass("a ReLU subclass that cannot be set upon", expected=HONEST)
class Frozen(nn.ReLU):
    def __init__(self) -> None:
        super().__init__()
        self.__dict__["frozen"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("frozen") and name != "training":
            raise AttributeError(f"{name} is fixed")
        super().__setattr__(name, value)


@subclass("a ReLU subclass with a property called inplace")
class Property(nn.ReLU):
    def __init__(self) -> None:
        nn.Module.__init__(self)

    @property
    def inplace(self) -> bool:  # type: ignore[override]
        return False


@subclass("a ReLU subclass whose forward names its argument otherwise")
class Renamed(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(input=x)


@subclass("a ReLU subclass that is no longer one", plain=acting(lambda: nn.LeakyReLU(0.1)))
class LeakyByName(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(input, 0.1, self.inplace)


def in_forward(name: str, kind: type, plain: Any = Plain, expected: Any = RIGHT) -> Any:
    """Enter a network whose `forward` asks things of an activation made of this class."""

    def entered(forward: Any) -> Any:
        def build() -> nn.Module:
            made = type("Asking", (Net,), {"forward": forward})()
            made.act = kind()
            return made

        ways.module(name, expected, plain)(build)
        return forward

    return entered


class Rich(nn.ReLU):
    """With attributes of the class, methods of every sort, and a property."""

    gain, table = 1.0, {"shift": 0.0}

    def pre(self, x: Tensor) -> Tensor:
        return x * self.gain + self.table["shift"]

    @staticmethod
    def post(x: Tensor) -> Tensor:
        return x

    @classmethod
    def label(cls) -> str:
        return cls.__name__

    @property
    def once(self) -> int:
        return 1

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[int]:
        return iter((1, 1))


@in_forward("class attributes and methods of a ReLU subclass", Rich)
def rich_forward(self: Any, x: Tensor) -> Tensor:
    act = self.act
    x = act.post(act(act.pre(self.norm(self.conv1(x))))) * act.once
    x = self.pool(x) * (act.label() == "Rich") * type(act).gain * sum(act) / len(act)
    return self.conv3(act(self.conv2(x)))


@in_forward("isinstance of a subclass", Rich)
def isinstance_forward(self: Any, x: Tensor) -> Tensor:
    x = self.pool(self.act(self.norm(self.conv1(x))))
    x = self.conv2(x)
    known = isinstance(self.act, Rich) and issubclass(type(self.act), nn.ReLU) and type(self.act) is not nn.ReLU
    return self.conv3(self.act(x) if known else x)


@in_forward("another made of the same class", Labelled.__mro__[1])
def type_of_forward(self: Any, x: Tensor) -> Tensor:
    x = self.pool(self.act(self.norm(self.conv1(x))))
    return self.conv3(type(self.act)()(self.conv2(x)))


def layers(name: str, convolution: Any, pool: Any, norm: Any = nn.BatchNorm2d) -> None:
    """Enter subclasses of the modules that are no activations."""

    def make() -> nn.Module:
        body = [("c1", convolution(3, 4, 3)), ("n", norm(4)), ("r", nn.ReLU()), ("p", pool(2))]
        return nn.Sequential(OrderedDict([*body, ("c2", convolution(4, 4, 3)), ("s", nn.ReLU())]))

    def plain() -> nn.Module:
        body = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*body, nn.Conv2d(4, 4, 3), nn.ReLU())

    ways.module(name, RIGHT, plain)(make)


class OwnConv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


class InnerConv(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight * 1.0, bias)


class ByHand(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input=input, weight=self.weight, bias=self.bias, stride=self.stride, padding=self.padding)


class OwnPool(nn.MaxPool2d):
    def __init__(self, size: int) -> None:
        super().__init__(kernel_size=size)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


class OwnNorm(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 0.0


layers("subclasses of Conv2d and MaxPool2d that call super()", OwnConv, OwnPool, OwnNorm)
layers("a Conv2d subclass with its own _conv_forward", InnerConv, nn.MaxPool2d)
layers("a Conv2d subclass that calls F.conv2d by keyword", ByHand, nn.MaxPool2d)
