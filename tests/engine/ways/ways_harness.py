"""How ways of writing a network are entered and checked.

A *way* is a small network, written as somebody might write it, beside the same network written plainly, and what the
library must make of it:

    RIGHT        the rule's map, forward pass bit for bit, nothing left alone: also under `strict=True`
    HONEST       right, or said: a site that is left alone, or an error of ours, never a mixture in silence
    LeftAlone    what cannot be reached is a site "not swapped"; `strict` refuses it, and without anything else it is
                 `NothingToRewrite`
    Refused      an error of ours at `rewrite`, or at the first pass forwards and back
    OrRefused    right, or refused with a message that names what stands in the way
    OnlyBackprop backprop's map, and under the other rules the model's forward pass

Whatever happens, the model and its images stay as they were. A way is entered in one line where it is a function:

    ways.function("x.clip(0)", lambda x: x.clip(0))

and by a decorator where it is a module; by default its twin is `Plain`, which has the parts of `Net`:

    @ways.module("a loop over features")
    class Loop(Net):
        def forward(self, x): ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Make = Callable[[], Any]
Inputs = Callable[[], Any]


# What is expected -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Right:
    """The rule's own map. `strict` may be off for nets of which something is left alone by design."""

    strict: bool = True


@dataclass(frozen=True)
class Honest:
    """Right, or said."""


@dataclass(frozen=True)
class LeftAlone:
    """Said, by a site whose name or op holds one of the words (any site, if there is none)."""

    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """An error of this class whose one line holds the word. Under `backprop` as well, if `always`."""

    error: type[Exception]
    word: str = ""
    always: bool = False


@dataclass(frozen=True)
class OrRefused:
    """Right, or `CannotRewrite` with the word in its line."""

    word: str


@dataclass(frozen=True)
class OnlyBackprop:
    """Right under the chain rule; what the others should do is nowhere said, but the forward pass stays."""


Expected = OnlyBackprop | Right | Honest | LeftAlone | Refused | OrRefused
RIGHT, LOOSE, HONEST = Right(), Right(strict=False), Honest()


# The network that most ways are a variation of --------------------------------------------------------------


class Net(nn.Module):
    """Parts of a small network; a way adds its own after these, so that the weights are those of its twin."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.conv3 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        with torch.no_grad():  # a norm that does something
            self.norm.running_mean.uniform_(-0.5, 0.5)
            self.norm.running_var.uniform_(0.5, 1.5)


class Plain(Net):
    """The network itself."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2)
        return self.conv3(F.relu(self.conv2(x)))


class Calling(Net):
    """The network around a function, on values to both sides of every kink."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(3 * self.norm(self.conv1(x)))
        return self.conv3(self.function(4 * self.conv2(x)))


class Beside(nn.Module):
    """Another network, behind one that every rule reaches."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.before, self.net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()), net

    def forward(self, x: Tensor) -> Any:
        return self.net(self.before(x))


def image(*size: int) -> Inputs:
    """An input of normally distributed values, the same each time."""
    return lambda: torch.randn(size or (2, 3, 8, 8), generator=torch.Generator().manual_seed(1))


# Ways -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A way of writing a network, with its twin and what is expected.

    `later`: weights changed after rewriting are seen. `again`: a second call gives the same map. `exact`: the output
    is the model's bit for bit. `leaf`: the input may be a leaf of the graph, which a net that writes into it forbids.
    `modes`: the network can be put into eval mode. `beside`: it can stand behind another.
    """

    name: str
    make: Make
    plain: Make
    expected: Expected
    inputs: Inputs = field(default_factory=image)
    activations: str = "rectifiers"
    later: bool = True
    again: bool = True
    exact: bool = True
    leaf: bool = True
    beside: bool = True
    modes: bool = True

    def build(self) -> Any:
        """The network as somebody wrote it; equal at every call."""
        return built(self.make)

    def fresh(self) -> Any:
        """Another, in eval mode, that the library never sees."""
        net = self.build()
        return net.eval() if self.modes and isinstance(net, nn.Module) else net

    def twin(self, behind: bool = False) -> Any:
        """The same network, written plainly; `behind` another that every rule reaches."""
        return built((lambda: Beside(self.plain())) if behind else self.plain)


def built(make: Make) -> Any:
    """A network in double precision with the same weights every time."""
    with in_double_precision(), seeded():
        return make()


@contextmanager
def in_double_precision() -> Iterator[None]:
    """Tensors are float64 unless they say otherwise: also those that no `.double()` reaches."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def seeded() -> Iterator[None]:
    """The global generator at a fixed place, and as it was afterwards."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(0)  # torch.manual_seed takes a millisecond for devices that are not there
    try:
        yield
    finally:
        torch.set_rng_state(before)


class Ways:
    """The ways of one section, each entered once."""

    def __init__(self, section: str) -> None:
        self.section = section
        self.all: dict[str, Way] = {}

    def enter(self, way: Way) -> None:
        assert way.name not in self.all, f"two ways are called {way.name!r}"
        self.all[way.name] = way

    def module(
        self, name: str, expected: Expected = RIGHT, plain: Make = Plain, **options: Any
    ) -> Callable[[Any], Any]:
        """Enter a module's class, or whatever makes one; its twin is `plain`."""

        def entered(make: Any) -> Any:
            self.enter(Way(name, make, plain, expected, **options))
            return make

        return entered

    def function(
        self,
        name: str,
        function: Callable[[Tensor], Any],
        expected: Expected = RIGHT,
        twin: Callable[[Tensor], Tensor] = F.relu,
        **options: Any,
    ) -> None:
        """Enter a function that is called between convolutions; its twin is another one."""
        self.enter(Way(name, lambda: Calling(function), lambda: Calling(twin), expected, **options))
