"""The model's own code must not notice: what it asks of its modules' classes, attributes and methods stays true."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from ways_harness import Net, Ways

ways = Ways("own code")


# What a module is -------------------------------------------------------------------------------------------


class Features(nn.Module):
    """A stack of layers over which `forward` loops; one with every sort of module that is swapped or made lean."""

    def __init__(self) -> None:
        super().__init__()
        first = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*first, nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.features:
            x = self.step(layer, x)
        return self.last(x)

    def step(self, layer: Any, x: Tensor) -> Tensor:
        return layer(x)


class FeaturesTwice(Features):
    """The like, in which what a check recognises counts three times: a check that fails changes the output."""

    kinds: tuple[type, ...] = ()

    def step(self, layer: Any, x: Tensor) -> Tensor:
        return 3 * layer(x) if any(layer is self.features[i] for i in self.places) else layer(x)

    @property
    def places(self) -> list[int]:
        conv, norm, relu, pool = [0, 4], [1], [2, 5], [3]
        table = {nn.Conv2d: conv, nn.BatchNorm2d: norm, nn.ReLU: relu, nn.MaxPool2d: pool}
        return [place for kind in self.kinds for place in table[kind]]


def twin_of(*kinds: type) -> Any:
    """A maker of the twin in which modules of these kinds count three times, known by their place."""
    return type("Twin", (FeaturesTwice,), {"kinds": kinds})


KINDS = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d)
CHECKS: dict[str, Any] = {
    "isinstance(m, {})": lambda m, kind: isinstance(m, kind),
    "type(m) is {}": lambda m, kind: type(m) is kind,
    "type(m) == {}": lambda m, kind: type(m) == kind,  # noqa: E721 (as people write it)
    "m.__class__ is {}": lambda m, kind: m.__class__ is kind,
    "m.__class__.__name__ == '{}'": lambda m, kind: m.__class__.__name__ == kind.__name__,
    "m._get_name() == '{}'": lambda m, kind: m._get_name() == kind.__name__,
    "repr(m).startswith('{}')": lambda m, kind: repr(m).startswith(kind.__name__ + "("),
    "type(m) in (..., {})": lambda m, kind: type(m) in (nn.Dropout, kind),
    "type(m).__qualname__, __module__ of {}": lambda m, kind: (
        (type(m).__module__, type(m).__qualname__) == (kind.__module__, kind.__qualname__)
    ),
    "type(m).__mro__[0] is {}": lambda m, kind: type(m).__mro__[0] is kind,
    "type(m).forward is {}.forward": lambda m, kind: type(m).forward is kind.forward,
}


def enter_check(how: str, kind: type) -> None:
    class Checked(FeaturesTwice):
        def step(self, layer: Any, x: Tensor) -> Tensor:
            return 3 * layer(x) if CHECKS[how](layer, kind) else layer(x)

    ways.module(how.format(kind.__name__), plain=twin_of(kind))(Checked)


for _how in CHECKS:
    for _kind in KINDS if _how.startswith(("isinstance", "type(m) is", "m.__class__.__name__")) else (nn.ReLU,):
        enter_check(_how, _kind)


@ways.module("a match statement over modules", plain=twin_of(nn.ReLU, nn.MaxPool2d))
class Matching(FeaturesTwice):
    def step(self, layer: Any, x: Tensor) -> Tensor:
        match layer:
            case nn.ReLU(inplace=_) | nn.MaxPool2d(kernel_size=2):
                return 3 * layer(x)
            case _:
                return layer(x)


@ways.module("singledispatch over modules", plain=twin_of(nn.ReLU, nn.Conv2d))
class Dispatching(FeaturesTwice):
    def step(self, layer: Any, x: Tensor) -> Tensor:
        return weighed(layer) * layer(x)


@functools.singledispatch
def weighed(layer: Any) -> int:
    return 1


@weighed.register
def _(layer: nn.ReLU) -> int:
    return 3


@weighed.register
def _(layer: nn.Conv2d) -> int:
    return 3


@ways.module("a dict from classes to functions", plain=twin_of(nn.MaxPool2d))
class Table(FeaturesTwice):
    def step(self, layer: Any, x: Tensor) -> Tensor:
        weights = {nn.Conv2d: 1, nn.BatchNorm2d: 1, nn.ReLU: 1, nn.MaxPool2d: 3}
        return weights[type(layer)] * layer(x)


@ways.module("isinstance where others are refused")
class Style(Net):
    """As in style transfer: a name for each kind, an error for what is not known."""

    def __init__(self) -> None:
        super().__init__()
        head = [self.conv1, self.norm, self.relu, self.pool, self.conv2, self.relu]
        self.features = nn.Sequential(*head)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                name = "conv"
            elif isinstance(layer, nn.ReLU):
                name, layer = "relu", nn.ReLU(inplace=False)
            elif isinstance(layer, nn.MaxPool2d):
                name = "pool"
            elif isinstance(layer, nn.BatchNorm2d):
                name = "norm"
            else:
                raise RuntimeError(f"Unrecognized layer: {layer.__class__.__name__}")
            x = layer(x)
            assert name
        return self.conv3(x)


@ways.module("layers taken out by their class")
class TakenOut(Net):
    def forward(self, x: Tensor) -> Tensor:
        (relu,) = (m for m in self.modules() if isinstance(m, nn.ReLU))
        conv1, conv2, conv3 = (m for m in self.modules() if type(m) is nn.Conv2d)
        (pool,) = (m for name, m in self.named_modules() if m.__class__.__name__ == "MaxPool2d")
        return conv3(relu(conv2(pool(relu(self.norm(conv1(x)))))))


@ways.module("layers known by who they are")
class ById(Net):
    """Modules as keys, in sets, compared by `is`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[nn.Module, str] = {self.relu: "relu", self.pool: "pool"}
        self.known = {self.conv1, self.relu}

    def forward(self, x: Tensor) -> Tensor:
        assert self.relu in self.known
        assert self.names[self.relu] == "relu"
        x = self.pool(self.relu(self.norm(self.conv1(x))))
        x = self.conv2(x)
        return self.conv3(self.relu(x) if self.relu is self._modules["relu"] else x)


# What a module has ------------------------------------------------------------------------------------------


@ways.module("settings of modules read in forward")
class Settings(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv1(x)), inplace=self.relu.inplace)
        x = F.max_pool2d(x, self.pool.kernel_size, self.pool.stride, self.pool.padding, self.pool.dilation)
        x = F.conv2d(x, self.conv2.weight, self.conv2.bias, self.conv2.stride, self.conv2.padding)
        return self.conv3(F.relu(x))


@ways.module("hasattr decides")
class HasAttribute(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.norm(x) if hasattr(self.norm, "running_mean") else x
        x = self.relu(x) if hasattr(self.relu, "inplace") and not hasattr(self.relu, "negative_slope") else -x
        x = self.pool(x) if hasattr(self.pool, "ceil_mode") else x
        return self.conv3(self.relu(self.conv2(x)))


@ways.module("attributes of one's own on torch's modules")
class Tagged(Net):
    def __init__(self) -> None:
        super().__init__()
        self.relu.tag, self.conv2.sign, self.pool.note = "on", 1.0, {"weight": torch.ones(4, 1, 1)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norm(self.conv1(x)))) * self.pool.note["weight"]
        x = self.conv2.sign * self.conv2(x)
        return self.conv3(self.relu(x) if self.relu.tag == "on" else x)


@ways.module("the number of modules is read")
class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.expected = len(list(self.modules()))

    def forward(self, x: Tensor) -> Tensor:
        assert len(list(self.modules())) == self.expected
        assert [type(m).__name__ for m in self.children()].count("ReLU") == 1
        x = self.pool(self.relu(self.norm(self.conv1(x))))
        return self.conv3(self.relu(self.conv2(x)))


@ways.module("keys of the state dict are read")
class StateKeys(Net):
    def forward(self, x: Tensor) -> Tensor:
        state = self.state_dict()
        assert list(state)[:2] == ["conv1.weight", "conv1.bias"]
        assert all(isinstance(p, nn.Parameter) for p in self.parameters())
        x = F.conv2d(x.to(next(self.parameters()).dtype), self.conv1.weight, self.conv1.bias)
        return self.conv3(self.relu(self.conv2(self.pool(self.relu(self.norm(x))))))


@ways.module("the name of the class of self")
class OwnName(Net):
    def forward(self, x: Tensor) -> Tensor:
        if type(self) is not OwnName or self.__class__.__name__ != "OwnName":
            return self.conv3(self.conv2(self.conv1(x)))
        x = self.pool(self.relu(self.norm(self.conv1(x))))
        return self.conv3(self.relu(self.conv2(x)))
