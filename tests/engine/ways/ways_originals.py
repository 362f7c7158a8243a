"""The original stays as it was: what a model writes while it runs is written into the shadow's own copy, or refused."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from ways_harness import RIGHT, Expected, Net, OrRefused, Plain, Ways

ways = Ways("originals")


class Around(Net):
    """The network around something that happens in its middle, prepared when it is made."""

    def __init__(self, prepare: Callable[[Any], Any] | None, middle: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.middle = middle
        if prepare is not None:
            prepare(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self, self.norm(self.conv1(x)))
        return self.conv3(F.relu(self.conv2(F.max_pool2d(F.relu(x), 2))))


def around(
    name: str,
    prepare: Callable[[Any], Any],
    middle: Callable[[Any, Tensor], Tensor],
    twin: Callable[[Any, Tensor], Tensor] = lambda net, x: x,
    expected: Expected = RIGHT,
    twin_prepare: Callable[[Any], Any] | None = None,
    **options: Any,
) -> None:
    """Enter the network around `middle`; its twin has another one, and is prepared by another function."""
    ways.module(name, expected, lambda: Around(twin_prepare, twin), **options)(lambda: Around(prepare, middle))


def attribute(name: str, make: Callable[[], Any]) -> Callable[[Any], None]:
    return lambda net: setattr(net, name, make())


def buffer(make: Callable[[], Tensor]) -> Callable[[Any], None]:
    return lambda net: net.register_buffer("kept", make())


# Batch norms that learn while they run ----------------------------------------------------------------------


def batch_norm(net: Any, x: Tensor) -> Tensor:
    """By the batch's own statistics, which is what a norm in training mode does."""
    return F.batch_norm(x, None, None, None, None, training=True)


def kept_in(
    make: Callable[[nn.Module], Any], find: Callable[[Any], Any], name: str, expected: Expected = RIGHT
) -> None:
    around(
        f"a batch norm in {name}",
        lambda net: net.__dict__.update(kept=make(nn.BatchNorm2d(4))),
        lambda net, x: find(net.kept)(x),
        batch_norm,
        expected,
        later=False,
    )


kept_in(lambda norm: [norm], lambda kept: kept[0], "a plain list")
kept_in(lambda norm: {"norm": norm}, lambda kept: kept["norm"], "a dict")
kept_in(lambda norm: (norm, 1), lambda kept: kept[0], "a tuple")
kept_in(lambda norm: types.SimpleNamespace(norm=norm), lambda kept: kept.norm, "an object")
kept_in(lambda norm: functools.partial(norm), lambda kept: kept, "a partial")
kept_in(lambda norm: norm.forward, lambda kept: kept, "a bound method")
kept_in(lambda norm: lambda x: norm(x), lambda kept: kept, "a closure", OrRefused("kept"))
kept_in(lambda norm: lambda x, n=norm: n(x), lambda kept: kept, "a default argument", OrRefused("kept"))
kept_in(lambda norm: nn.Sequential(norm), lambda kept: kept, "a Sequential past __setattr__")
kept_in(lambda norm: [[nn.ModuleList([norm])]], lambda kept: kept[0][0][0], "lists of lists")


class StaysInTraining(Net):
    """Keeps one norm in training mode, whatever is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.BatchNorm2d(4)

    def train(self, mode: bool = True) -> StaysInTraining:
        super().train(mode)
        self.second.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.norm(self.conv1(x)))
        return self.conv3(F.relu(self.conv2(F.max_pool2d(F.relu(x), 2))))


ways.module("a batch norm that its model keeps in training mode", RIGHT, lambda: Around(None, batch_norm), later=False)(
    StaysInTraining
)
SECOND = attribute("second", lambda: nn.BatchNorm2d(4))
around("train() in forward", SECOND, lambda net, x: net.second.train()(x), batch_norm, later=False)
around(
    "F.batch_norm that learns",
    SECOND,
    lambda net, x: F.batch_norm(x, net.second.running_mean, net.second.running_var, training=True),
    batch_norm,
)
around(
    "an instance norm that learns",
    attribute("second", lambda: nn.InstanceNorm2d(4, track_running_stats=True)),
    lambda net, x: F.instance_norm(x, net.second.running_mean, net.second.running_var, use_input_stats=True),
    lambda net, x: F.instance_norm(x),
)
around("momentum changed in forward", SECOND, lambda net, x: (setattr(net.second, "momentum", 0.5), x)[1])


# Buffers and parameters that forward writes into ------------------------------------------------------------


def then(write: Callable[[Any], Any]) -> Callable[[Any, Tensor], Tensor]:
    """A middle that writes and gives its input back."""
    return lambda net, x: (write(net), x)[1]


def iadd(net: Any) -> None:
    net.kept += 1


WRITES: dict[str, Callable[[Any], Any]] = {
    "+= 1": iadd,
    "add_(1)": lambda net: net.kept.add_(1),
    "= itself + 1": lambda net: setattr(net, "kept", net.kept + 1),
    "copy_": lambda net: net.kept.copy_(net.kept + 1),
    "fill_": lambda net: net.kept.fill_(7),
    "zero_": lambda net: net.kept.zero_(),
    "[0] = 7": lambda net: net.kept.__setitem__(0, 7),
    "[:2] += 1": lambda net: net.kept[:2].add_(1),
    ".data.add_": lambda net: net.kept.data.add_(1),
    ".data = ": lambda net: setattr(net.kept, "data", net.kept.data + 1),
    ".detach().add_": lambda net: net.kept.detach().add_(1),
    ".view(-1).add_": lambda net: net.kept.view(-1).add_(1),
    "torch.add(out=)": lambda net: torch.add(net.kept.detach().clone(), 1, out=net.kept),
    "torch.fill_": lambda net: torch.fill_(net.kept, 7),
    "index_fill_": lambda net: net.kept.index_fill_(0, torch.tensor([1]), 7),
    "lerp_": lambda net: net.kept.lerp_(torch.ones(3), 0.1),
    "nn.init": lambda net: nn.init.constant_(net.kept, 7),
    "aten.add_": lambda net: torch.ops.aten.add_(net.kept, 1),
    "register_buffer anew": lambda net: net.register_buffer("kept", torch.ones(3)),
    "uniform_": lambda net: net.kept.uniform_(),
    "_foreach_add_": lambda net: torch._foreach_add_([net.kept], 1),
}
for _name, _write in WRITES.items():
    around(f"a buffer written: {_name}", buffer(lambda: torch.arange(3.0)), then(_write))


def under_no_grad(write: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run(net: Any) -> None:
        with torch.no_grad():
            write(net)

    return run


PARAMETER = attribute("kept", lambda: nn.Parameter(torch.arange(3.0)))
for _name in ("+= 1", "add_(1)", "copy_", "[0] = 7", ".data.add_", "torch.fill_"):
    around(f"a parameter written: {_name}", PARAMETER, then(under_no_grad(WRITES[_name])), expected=OrRefused("kept"))
around("a tensor of no name written", attribute("kept", lambda: torch.arange(3.0)), then(lambda net: net.kept.add_(1)))
around("a list of tensors written", attribute("kept", lambda: [torch.ones(3)]), then(lambda net: net.kept[0].add_(1)))
around(
    "a dict of tensors written",
    attribute("kept", lambda: {"a": torch.ones(3)}),
    then(lambda net: net.kept["a"].mul_(2)),
)


def moving_mean(net: Any, x: Tensor) -> Tensor:
    """What comes out hangs on what was written."""
    net.kept.mul_(0.5).add_(0.5 * x.detach().mean((0, 2, 3)))
    return x - net.kept[:, None, None]


around(
    "a moving mean",
    buffer(lambda: torch.zeros(4)),
    moving_mean,
    lambda net, x: x - 0.5 * x.detach().mean((0, 2, 3))[:, None, None],
    again=False,
    later=False,
)


def clipped_weights(net: Any, x: Tensor) -> Tensor:
    net.conv2.weight.data.clamp_(-0.1, 0.1)
    return x


around(
    "weights clipped in forward",
    lambda net: None,
    clipped_weights,
    twin_prepare=lambda net: net.conv2.weight.data.clamp_(-0.1, 0.1),
    expected=OrRefused("weight"),
    later=False,
)


def adapted(net: Any, x: Tensor) -> Tensor:
    """Takes a step of an optimizer, as models do that adapt to what they see."""
    with torch.enable_grad():
        weight = net.kept.detach().requires_grad_()
        (weight * x.detach().mean()).sum().backward()
        torch.optim.SGD([weight], lr=0.1).step()
    return x


around("an optimizer's step in forward", PARAMETER, adapted, expected=OrRefused("kept"))


# What forward keeps in Python -------------------------------------------------------------------------------

PYTHON: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "a counter": (lambda: 0, lambda net: setattr(net, "kept", net.kept + 1)),
    "a list": (list, lambda net: net.kept.append(1)),
    "a dict": (dict, lambda net: net.kept.update(a=1)),
    "a set": (set, lambda net: net.kept.add(1)),
    "an object": (types.SimpleNamespace, lambda net: setattr(net.kept, "a", 1)),
    "an attribute of a module": (lambda: 0, lambda net: setattr(net.relu, "seen", 1)),
    "a module's setting": (lambda: 0, lambda net: setattr(net.pool, "ceil_mode", True)),
    "a new attribute": (lambda: 0, lambda net: setattr(net, "other", 1)),
    "a deleted attribute": (lambda: 0, lambda net: net.__dict__.pop("kept", None)),
    "a new module": (lambda: 0, lambda net: net.add_module("late", nn.Identity())),
    "a hook": (lambda: 0, lambda net: net.relu.register_forward_hook(lambda m, a, y: None)),
    "a module's mode": (lambda: 0, lambda net: net.relu.train()),
    "requires_grad": (lambda: 0, lambda net: net.conv1.weight.requires_grad_(False)),
}
for _name, (_make, _write) in PYTHON.items():
    around(f"kept in Python: {_name}", attribute("kept", _make), then(_write))
around("kept in Python: what was seen", attribute("kept", list), lambda net, x: (net.kept.append(x.detach()), x)[1])
around(
    "kept in Python: what was seen, with its graph", attribute("kept", list), lambda net, x: (net.kept.append(x), x)[1]
)


def lazily(net: Any, x: Tensor) -> Tensor:
    if net.kept is None:
        net.kept = torch.linspace(0.5, 1, x.shape[-1])
    return x * net.kept


def by_shape(net: Any, x: Tensor) -> Tensor:
    if x.shape not in net.kept:
        net.kept[x.shape] = torch.linspace(0.5, 1, x.shape[-1])
    return x * net.kept[x.shape]


def from_weights(net: Any, x: Tensor) -> Tensor:
    if net.kept is None:
        net.kept = net.conv1.weight.mean((1, 2, 3))[:, None, None] + 1
    return x * net.kept


def scale(net: Any, x: Tensor) -> Tensor:
    return x * torch.linspace(0.5, 1, x.shape[-1])


around("a table made at the first call", attribute("kept", lambda: None), lazily, scale)
around("tables by shape", attribute("kept", dict), by_shape, scale)
around(
    "a tensor made of weights at the first call",
    attribute("kept", lambda: None),
    from_weights,
    lambda net, x: x * (net.conv1.weight.mean((1, 2, 3))[:, None, None] + 1),
    later=False,
)


class Cached(Net):
    @functools.lru_cache(8)  # noqa: B019 (as people write it)
    def table(self, size: int) -> Tensor:
        return torch.linspace(0.5, 1, size)

    @functools.cached_property
    def gain(self) -> Tensor:
        return torch.ones(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv1(x))
        return self.conv3(F.relu(self.conv2(F.max_pool2d(F.relu(x * self.table(x.shape[-1]) * self.gain), 2))))


ways.module("a table behind lru_cache and cached_property", RIGHT, lambda: Around(None, scale))(Cached)


# A forward that closes over the original --------------------------------------------------------------------


class Modular(Net):
    """The network by its modules, for others to patch."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norm(self.conv1(x))))
        return self.conv3(self.relu(self.conv2(x)))


def patched(name: str, patch: Callable[[Any], Any], expected: Expected) -> None:
    def build() -> nn.Module:
        net = Modular()
        patch(net)
        return net

    ways.module(name, expected, Plain)(build)


def over_old_forward(net: Any) -> None:
    old = net.forward
    net.forward = lambda x: old(x)


def over_itself(net: Any) -> None:
    net.forward = lambda x: Modular.forward(net, x)


def over_a_part(net: Any) -> None:
    net.norm.forward = lambda x: F.batch_norm(
        x, net.norm.running_mean, net.norm.running_var, training=net.norm.training
    )


def over_parts_old_forward(net: Any) -> None:
    old = net.conv1.forward
    net.conv1.forward = lambda x: old(x)


def over_weights(net: Any) -> None:
    weight, bias = net.conv1.weight, net.conv1.bias
    net.conv1.forward = lambda x: F.conv2d(x, weight, bias)


def by_partial(net: Any) -> None:
    net.forward = functools.partial(Modular.forward, net)


def by_accelerate(net: Any) -> None:
    """As accelerate puts its hooks on."""
    for module in (net, *net.children()):
        module._old_forward = module.forward
        module.forward = types.MethodType(lambda self, *args: self._old_forward(*args), module)


def by_accelerate_partial(net: Any) -> None:
    for module in net.children():
        module._old_forward = module.forward
        module.forward = functools.update_wrapper(
            functools.partial(lambda self, *args: self._old_forward(*args), module), module._old_forward
        )


def by_a_hook(net: Any) -> None:
    net.pool.register_forward_hook(lambda module, args, y: y * len(net.relu._get_name()) / 4)


def by_a_child(net: Any) -> None:
    object.__setattr__(net.relu, "parent", net)
    net.relu.forward = types.MethodType(lambda self, x: F.relu(x) if self.parent.relu is self else -x, net.relu)


PATCHES = {
    "forward over the old forward": (over_old_forward, OrRefused("forward")),
    "forward over the net itself": (over_itself, OrRefused("forward")),
    "a part's forward over the net": (over_a_part, OrRefused("forward")),
    "a part's forward over its old forward": (over_parts_old_forward, OrRefused("forward")),
    "a part's forward over its weights": (over_weights, OrRefused("forward")),
    "forward by a partial of the net": (by_partial, RIGHT),
    "forward as accelerate wraps it": (by_accelerate, RIGHT),
    "forward as accelerate wraps it, by a partial": (by_accelerate_partial, RIGHT),
    "a hook that closes over the net": (by_a_hook, OrRefused("")),
    "a child that knows its parent": (by_a_child, RIGHT),
}
for _name, (_patch, _expected) in PATCHES.items():
    patched(_name, _patch, _expected)


# Images that a model writes into ----------------------------------------------------------------------------


class Normalising(Modular):
    """Writes into its input before anything else."""

    def __init__(self, write: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        written = self.write(x)
        return super().forward(x if written is None else written)


def subscript(x: Tensor) -> None:
    x[:, 0] = x[:, 0] * 0.5


INTO_IMAGES: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Any]]] = {
    "sub_ and div_": (lambda x: x.sub_(0.3).div_(0.5), lambda x: (x - 0.3) / 0.5),
    "clamp_": (lambda x: x.clamp_(-1, 1), lambda x: x.clamp(-1, 1)),
    "mul_ and no more": (lambda x: (x.mul_(2), None)[1], lambda x: x * 2),
    "x[:, 0] = ": (subscript, lambda x: torch.cat([x[:, :1] * 0.5, x[:, 1:]], 1)),
    "x += 1": (lambda x: x.__iadd__(1), lambda x: x + 1),
    "relu_ of the image": (lambda x: x.relu_(), lambda x: F.relu(x)),
    "normalised as in torchvision": (
        lambda x: x.sub_(torch.ones(3).view(-1, 1, 1)).div_(torch.full((3, 1, 1), 2.0)),
        lambda x: (x - 1) / 2,
    ),
}
for _name, (_write_into, _twin_write) in INTO_IMAGES.items():
    ways.module(f"the image written: {_name}", RIGHT, lambda f=_twin_write: Normalising(f), leaf=False)(
        lambda f=_write_into: Normalising(f)
    )
