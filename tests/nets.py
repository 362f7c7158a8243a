"""Small nets, one for every way of writing an activation or a pool that a tool may pass over or get wrong.

`NETS` and `SMOOTH_NETS` map a name to a builder of (net, input). A builder called twice gives equal nets, so
that a test can use one up and keep the other. The nets come in training mode, as they
are made; all is float64.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import warnings
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

Builder = Callable[[], tuple[nn.Module, Tensor]]
Function = Callable[[Tensor], Tensor]

NETS: dict[str, Builder] = {}
SMOOTH_NETS: dict[str, Builder] = {}
IN_PLACE_ON_VIEWS: dict[str, tuple[Builder, Builder]] = {}
"""Nets that write into a view, which autograd's graph does not show, each with a twin that does not."""


def seeded(make: Callable[[], nn.Module], size: tuple[int, ...] = (2, 3, 8, 8)) -> Builder:
    """A builder that makes the same net and input every time, without touching the global generator."""

    def build() -> tuple[nn.Module, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make().double(), torch.randn(size, dtype=torch.float64)

    return build


def net(name: str, size: tuple[int, ...] = (2, 3, 8, 8)) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Enter a module class without arguments in `NETS`."""

    def enter(made: type[nn.Module]) -> type[nn.Module]:
        NETS[name] = seeded(made, size)
        return made

    return enter


# One activation, written in many ways -----------------------------------------------------------------------


class Calling(nn.Module):
    """Three convolutions with a function called between them, on values to both sides of every kink."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(3 * self.conv1(x))
        return self.conv3(self.function(4 * self.conv2(x)))


def layered(make: Callable[[], nn.Module]) -> nn.Sequential:
    """The like with a module of its own at each place."""
    first, second = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), make()], [nn.Conv2d(4, 4, 3), make()]
    return nn.Sequential(*first, *second, nn.Conv2d(4, 2, 1))


def prelu_with_negative_weights() -> nn.PReLU:
    activation = nn.PReLU(4)
    with torch.no_grad():
        activation.weight.copy_(torch.tensor([0.25, -0.5, 0.0, 1.5]))
    return activation


RECTIFIER_FUNCTIONS: dict[str, Function] = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "x.relu()": lambda x: x.relu(),
    "x.relu_()": lambda x: x.relu_(),
    "F.relu inplace": lambda x: F.relu(x, inplace=True),
    "nn.ReLU()(x)": lambda x: nn.ReLU()(x),
    "F.relu6": F.relu6,
    "F.hardtanh": lambda x: F.hardtanh(x, 0.0, 2.5),
    "F.hardtanh_": lambda x: F.hardtanh_(x, 0.0, 2.5),
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "F.leaky_relu_": lambda x: F.leaky_relu_(x, 0.2),
    "F.rrelu": lambda x: F.rrelu(x, 0.1, 0.4),
    "F.prelu": lambda x: F.prelu(x, x.new_tensor([0.3])),
    "F.threshold": lambda x: F.threshold(x, 0.3, 0.0),
    "F.threshold_": lambda x: F.threshold_(x, 0.3, 0.0),
    "clamp(min=0)": lambda x: x.clamp(min=0),
    "clamp_min(0)": lambda x: x.clamp_min(0),
    "clamp_min_(0)": lambda x: x.clamp_min_(0),
    "clamp_(min=0)": lambda x: x.clamp_(min=0),
    "torch.clamp(0, 3)": lambda x: torch.clamp(x, 0, 3),
    "maximum(x, zeros)": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum(zero, x)": lambda x: torch.maximum(x.new_zeros(()), x),
}

RECTIFIER_MODULES: dict[str, Callable[[], nn.Module]] = {
    "nn.ReLU": nn.ReLU,
    "nn.ReLU inplace": lambda: nn.ReLU(inplace=True),
    "nn.ReLU6": nn.ReLU6,
    "nn.ReLU6 inplace": lambda: nn.ReLU6(inplace=True),
    "nn.Hardtanh": lambda: nn.Hardtanh(0.0, 2.0),
    "nn.LeakyReLU": lambda: nn.LeakyReLU(0.1),
    "nn.LeakyReLU inplace": lambda: nn.LeakyReLU(0.1, inplace=True),
    "nn.RReLU": nn.RReLU,
    "nn.RReLU inplace": lambda: nn.RReLU(inplace=True),
    "nn.PReLU": nn.PReLU,
    "nn.PReLU many": prelu_with_negative_weights,
    "nn.Threshold": lambda: nn.Threshold(0.3, 0.0),
}

SMOOTH_FUNCTIONS: dict[str, Function] = {
    "F.gelu": F.gelu,
    "F.gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "F.silu": F.silu,
    "F.silu inplace": lambda x: F.silu(x, inplace=True),
    "F.mish": F.mish,
    "F.hardswish": F.hardswish,
    "F.hardswish inplace": lambda x: F.hardswish(x, inplace=True),
    "F.elu": lambda x: F.elu(x, 0.7),
    "F.elu_": lambda x: F.elu_(x, 0.7),
    "F.celu": lambda x: F.celu(x, 1.5),
    "F.selu": F.selu,
    "F.softplus": lambda x: F.softplus(x, 2.0, 5.0),
}

SMOOTH_MODULES: dict[str, Callable[[], nn.Module]] = {
    "nn.GELU": nn.GELU,
    "nn.GELU tanh": lambda: nn.GELU("tanh"),
    "nn.SiLU": nn.SiLU,
    "nn.SiLU inplace": lambda: nn.SiLU(inplace=True),
    "nn.Mish": nn.Mish,
    "nn.Mish inplace": lambda: nn.Mish(inplace=True),
    "nn.Hardswish": nn.Hardswish,
    "nn.Hardswish inplace": lambda: nn.Hardswish(inplace=True),
    "nn.ELU": lambda: nn.ELU(0.7),
    "nn.ELU inplace": lambda: nn.ELU(0.7, inplace=True),
    "nn.CELU": lambda: nn.CELU(1.5),
    "nn.CELU inplace": lambda: nn.CELU(1.5, inplace=True),
    "nn.SELU": nn.SELU,
    "nn.SELU inplace": lambda: nn.SELU(inplace=True),
    "nn.Softplus": lambda: nn.Softplus(2.0, 5.0),
}

for _name, _function in RECTIFIER_FUNCTIONS.items():
    NETS[_name] = seeded(functools.partial(Calling, _function))
for _name, _make in RECTIFIER_MODULES.items():
    NETS[_name] = seeded(functools.partial(layered, _make))
for _name, _function in SMOOTH_FUNCTIONS.items():
    SMOOTH_NETS[_name] = seeded(functools.partial(Calling, _function))
for _name, _make in SMOOTH_MODULES.items():
    SMOOTH_NETS[_name] = seeded(functools.partial(layered, _make))
NETS["torch.fx"] = seeded(lambda: torch.fx.symbolic_trace(Calling(lambda x: F.relu(x) + x.clamp(min=0))))


# Activations that meet others -------------------------------------------------------------------------------


@net("in-place ReLU before a shortcut")
class InPlaceBeforeShortcut(nn.Module):
    """The shortcut carries what the in-place ReLU has left in the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv2(self.relu(x)) + x


@net("pre-activation residual")
class PreActivation(nn.Module):
    """The tensor that feeds each ReLU also feeds the sum around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)) for _ in range(2))
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(F.relu(x)) * x


@net("one ReLU in branches and in a row")
class OneReluEverywhere(nn.Module):
    """One module object, called in parallel and in sequence; two of its calls share their input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = self.left(self.relu(x)), self.right(self.relu(x))
        return self.relu(self.relu(left) - self.relu(-right)) + left


@net("one ReLU under two names")
class TwoNames(nn.Module):
    """The same module object registered twice, and a list that holds it a third time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act1, self.conv2 = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)
        self.act2 = self.act1
        self.unregistered = [self.act1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.act2(self.conv2(self.act1(self.conv1(x))))
        return self.unregistered[0](x - 0.1) * x


@net("chunks")
class Chunks(nn.Module):
    """Half of the channels pass a ReLU, the other half pass by it and scale it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        active, passive = self.conv1(x).chunk(2, dim=1)
        active = F.relu(active)
        return self.conv2(torch.cat([active, passive * active], dim=1))


@net("relu squared")
class ReluSquared(nn.Module):
    """The square is no part of the activation: its own chain rule applies."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)) ** 2)))


# Modules that are built or held in unusual ways -------------------------------------------------------------


@net("tied weights")
class TiedWeights(nn.Module):
    """One parameter under two names, and used a third time transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
        self.conv2.weight = self.conv1.weight

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return F.conv_transpose2d(x, self.conv1.weight)


@net("made on the first call")
class MadeOnFirstCall(nn.Module):
    """An activation that does not exist before the first forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)
        self.act: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.act is None:
            self.act = nn.ReLU()
        return self.conv2(self.act(self.conv1(x)))


@net("plain tensor attributes")
class PlainTensors(nn.Module):
    """Tensors that are neither parameters nor buffers: an attribute, a list, a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.scale = torch.randn(4, 1, 1, dtype=torch.float64)
        self.shifts = [torch.randn(4, 1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)]
        self.table = {"weight": torch.randn(2, 4, 1, 1, dtype=torch.float64)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x) * self.scale + self.shifts[0])
        return F.conv2d(x, self.table["weight"]) + self.shifts[1]


@net("old-style weight_norm")
class OldWeightNorm(nn.Module):
    """`weight` is a computed tensor that a forward pre-hook sets anew at every call; deepcopy fails on it."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.conv1 = nn.utils.weight_norm(nn.Conv2d(3, 4, 3, dtype=torch.float64))
        self.conv2, self.relu = nn.Conv2d(4, 2, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.relu(self.conv1(x)))


@net("parametrized weight_norm")
class NewWeightNorm(nn.Module):
    """The weight is a property of a class made for this one instance."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
        self.conv2, self.relu = nn.Conv2d(4, 2, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.relu(self.conv1(x)))


@net("hooks that change tensors")
class Hooked(nn.Module):
    """Hooks of the user's own, on a convolution and on the activation itself; they belong to the function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu, self.conv2 = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)
        self.conv1.register_forward_hook(lambda module, inputs, output: 2 * output)
        self.relu.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 0.1,))
        self.relu.register_forward_hook(lambda module, inputs, output: -3 * output)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.relu(self.conv1(x))))


@net("dropout and batch norm", size=(3, 3, 8, 8))
class TrainingMode(nn.Module):
    """Random and batch-dependent in training mode; as a function, what it is in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.norm(self.conv1(x))), 0.5, self.training)
        return F.relu(self.conv2(x))


@net("output as a tuple")
class TupleOutput(nn.Module):
    """Two tensors, and something that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, str]:
        features = F.relu(self.conv1(x))
        return features, self.conv2(features), "a word"


@net("output as a dict")
class DictOutput(TupleOutput):
    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:  # type: ignore[override]
        features, logits, _ = super().forward(x)
        return {"out": logits, "pyramid": [features, F.relu(logits)]}


@dataclasses.dataclass
class Prediction:
    logits: Tensor
    features: Tensor


@net("output as a dataclass")
class DataclassOutput(TupleOutput):
    def forward(self, x: Tensor) -> Prediction:  # type: ignore[override]
        features, logits, _ = super().forward(x)
        return Prediction(logits, features)


# Pools and norms --------------------------------------------------------------------------------------------


def pooled(pool: Function) -> Callable[[], nn.Module]:
    """Makes a net: convolution, ReLU, pool, and a ReLU on the mixed channels of what the pool has left."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.pool, self.mix = nn.Conv2d(3, 8, 3, padding=1), pool, nn.Conv1d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.pool(F.relu(self.conv1(x) + 0.2))
            return F.relu(self.mix(x.flatten(2)))

    return Pooled


POOLS: dict[str, Function] = {
    "F.max_pool2d": lambda x: F.max_pool2d(x, 2),
    "F.max_pool2d overlapping": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "F.max_pool2d stride 1": lambda x: F.max_pool2d(x, 3, 1, 1),
    "F.max_pool2d dilated": lambda x: F.max_pool2d(x, (2, 3), (1, 2), (1, 0), (2, 1)),
    "F.max_pool2d with indices": lambda x: F.max_pool2d(x, 3, 2, return_indices=True)[0],
    "F.max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 5, 3, 2, ceil_mode=True),
    "F.max_pool3d": lambda x: F.max_pool3d(x.unsqueeze(2), (1, 3, 3), (1, 2, 2), (0, 1, 1)),
    "F.adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (3, 5)),
    "nn.MaxPool2d": nn.MaxPool2d(2),
    "nn.MaxPool2d overlapping": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "nn.MaxPool2d dilated": nn.MaxPool2d(2, 1, dilation=3),
    "nn.AdaptiveMaxPool2d": nn.AdaptiveMaxPool2d((3, None)),
    "amax": lambda x: x.amax(dim=(2, 3)).unsqueeze(2),
    "torch.amax keepdim": lambda x: torch.amax(x, (-1, -2), keepdim=True),
    "flatten max": lambda x: x.flatten(2).max(dim=2).values.unsqueeze(2),
}

for _name, _function in POOLS.items():
    NETS[_name] = seeded(pooled(_function), (2, 3, 9, 10))


@net("F.local_response_norm")
class Normalised(nn.Module):
    """A response norm as function and as module; strong enough that bypassing it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 2, 1)
        self.norm = nn.LocalResponseNorm(5, alpha=2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.local_response_norm(F.relu(self.conv1(x)), 3, 1.0, 0.75, 1.5)
        return self.conv3(self.norm(F.relu(self.conv2(x))))


# A forward pass that depends on requires_grad ---------------------------------------------------------------


class TokenLinear(nn.Module):
    """A Linear over transposed tokens: there torch sums in another order if the weight needs a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.relu(self.conv(x)).flatten(2).transpose(1, 2)
        return self.last(F.relu(self.linear(tokens)))


TOKEN_LINEAR = seeded(TokenLinear)


# Writing into a view ----------------------------------------------------------------------------------------


class HalfInPlace(nn.Module):
    """A ReLU written into the first half of the channels, or the same put together from halves."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.conv1, self.conv2, self.in_place = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 3, 3), in_place

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.in_place:
            F.relu(x[:, :3], inplace=True)
        else:
            x = torch.cat([F.relu(x[:, :3]), x[:, 3:]], dim=1)
        return self.conv2(x)


class FlatInPlace(nn.Module):
    """A ReLU written into a flattened view, whose base is used afterwards; or the same without writing."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.conv1, self.conv2, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=in_place)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        activated = self.relu(x.flatten(1)).view_as(x)
        return self.conv2(activated) * (x if self.relu.inplace else activated)


for _view in (HalfInPlace, FlatInPlace):
    _twins = [seeded(functools.partial(_view, in_place)) for in_place in (True, False)]
    IN_PLACE_ON_VIEWS[_view.__name__] = _twins[0], _twins[1]


# Random nets ------------------------------------------------------------------------------------------------


ANYWHERE: list[Function | Callable[[], nn.Module]] = [
    F.relu,
    torch.relu,
    lambda x: x.clamp(min=0),
    lambda x: F.leaky_relu(x, 0.2),
    lambda x: F.relu6(4 * x),
    lambda x: nn.ReLU()(x),
]
WRITING: list[Function] = [lambda x: F.relu(x, inplace=True), torch.relu_, lambda x: F.leaky_relu_(x, 0.1)]
STRIDE_1_POOLS: list[Function] = [
    lambda x: F.max_pool2d(x, 3, 1, 1),
    nn.MaxPool2d(3, 1, 1),
    lambda x: F.max_pool2d(x, (5, 1), 1, (2, 0)),
]
SHRINKING_POOLS: list[Function] = [nn.MaxPool2d(2), lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True)]


class Activated(nn.Module):
    """A convolution and an activation: one of its own, a function, or one that all of the net shares."""

    def __init__(self, rng: random.Random, shared: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        own = [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.PReLU(4)]
        self.act = rng.choice([*ANYWHERE, *WRITING, *own, shared, shared])

    def forward(self, x: Tensor) -> Tensor:
        return self.act(2 * self.conv(x))


class Branches(nn.Module):
    """Two ways from one tensor, added or concatenated; the first may be a plain shortcut."""

    def __init__(self, rng: random.Random, shared: nn.Module, depth: int) -> None:
        super().__init__()
        left = nn.Identity() if rng.random() < 0.4 else Chain(rng, shared, depth - 1)
        self.ways = nn.ModuleList([left, Chain(rng, shared, depth - 1)])
        self.mix = rng.choice([None, nn.Conv2d(8, 4, 1)])
        self.act = rng.choice([nn.Identity(), shared, *ANYWHERE])

    def forward(self, x: Tensor) -> Tensor:
        left, right = (way(x) for way in self.ways)
        return self.act(left + right if self.mix is None else self.mix(torch.cat([left, right], dim=1)))


class PreActivated(nn.Module):
    """The tensor that feeds an activation also feeds the sum around it."""

    def __init__(self, rng: random.Random, shared: nn.Module) -> None:
        super().__init__()
        self.act, self.conv = rng.choice([shared, *ANYWHERE]), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.act(x))


class Pool(nn.Module):
    """A pool, called as a function or held as a module."""

    def __init__(self, pool: Function) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


class Chain(nn.Sequential):
    """A few random steps that keep the size, never beginning with one that writes into its input."""

    def __init__(self, rng: random.Random, shared: nn.Module, depth: int) -> None:
        steps: list[nn.Module] = [Activated(rng, shared)]
        for _ in range(rng.randint(0, 2)):
            step = rng.choice(["activated", "pre-activated", "pool", "branches"])
            if step == "branches" and depth > 0:
                steps.append(Branches(rng, shared, depth))
            elif step == "pool":
                steps.append(Pool(rng.choice(STRIDE_1_POOLS)))
            else:
                steps.append(PreActivated(rng, shared) if step == "pre-activated" else Activated(rng, shared))
        super().__init__(*steps)


def random_net(seed: int, depth: int) -> tuple[nn.Module, Tensor]:
    """A small net and its input, the same for the same arguments; branches nest as deep as `depth`."""
    rng = random.Random(seed)

    def make() -> nn.Module:
        shared = nn.ReLU()
        parts = [Chain(rng, shared, depth), Pool(rng.choice(SHRINKING_POOLS)), Chain(rng, shared, depth - 1)]
        return nn.Sequential(nn.Conv2d(3, 4, 1), *parts, nn.Conv2d(4, 2, 1))

    return seeded(make, (rng.randint(1, 3), 3, 8, 8))()


def random_nets() -> st.SearchStrategy[Builder]:
    """Builders of random nets, like the ones in `NETS`; a failing one is printed with its seed and depth."""
    return st.builds(functools.partial, st.just(random_net), st.integers(0, 2**32), st.integers(0, 2))
