"""A rewritten net that is pickled, copied, compiled, exported or traced follows the rule or is refused."""

from __future__ import annotations

import copy
import io
import pickle
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from oracles import attribution, mixed_signal
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from ways_checks import is_right
from ways_harness import Net, Plain, built, image, in_double_precision

import attribkit
from attribkit.errors import NotSupported

RULES = ["backprop", "deconvnet", "guided"]

# dynamo says so of its own guards
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with in_double_precision():
        yield


class Act(nn.ReLU):
    """A subclass with an attribute and a method of its own."""

    gain = 1.0

    def scaled(self, x: Tensor) -> Tensor:
        return self(x) * self.gain


class Own(Net):
    def __init__(self) -> None:
        super().__init__()
        self.act = Act()

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.act, Act)
        assert type(self.conv1) is nn.Conv2d
        x = self.pool(self.act.scaled(self.norm(self.conv1(x))))
        return self.conv3(F.relu(self.conv2(x)))


def pulled_down(net: Callable[[Tensor], Any]) -> Tensor:
    x = image()().requires_grad_()
    return torch.autograd.grad(mixed_signal(net(x)), x)[0]


def saved_and_loaded(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)  # type: ignore[no-any-return]


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "pickled": lambda net: pickle.loads(pickle.dumps(net)),
    "copied": copy.deepcopy,
    "saved and loaded": saved_and_loaded,
    "copied twice": lambda net: copy.deepcopy(pickle.loads(pickle.dumps(copy.deepcopy(net)))),
    "in a Sequential": lambda net: copy.deepcopy(nn.Sequential(net)),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_the_same_net(how: str, rule: str) -> None:
    """Classes, attributes, sites and maps come along; the copy no longer hangs on the original."""
    model = built(Own)
    net = attribkit.rewrite(model, rule)
    expected = pulled_down(net)
    assert is_right(expected, attribution(built(Plain), image()(), mixed_signal, rule))
    other = COPIES[how](net)
    assert is_right(pulled_down(other), expected)
    assert [type(m) for m in other.modules()][-8:] == [type(m) for m in net.modules()][-8:]
    for parameter in model.parameters():
        parameter.data.zero_()
    assert is_right(pulled_down(other), expected)


@pytest.mark.parametrize("rule", RULES)
def test_the_shadow_itself_is_a_model(rule: str) -> None:
    """The parts of a rewritten net keep their classes, names, settings and state."""
    model = built(Own)
    net = attribkit.rewrite(model, rule)
    for (name, part), (other_name, other) in zip(model.named_modules(), net.model.named_modules(), strict=True):
        assert name == other_name
        assert type(part) is type(other)
        assert part.extra_repr() == other.extra_repr()
    assert list(net.model.state_dict()) == list(model.state_dict())
    assert str(net.model) == str(copy.deepcopy(model).eval())


# Compiled ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh_dynamo")
def test_a_subclass_compiles() -> None:
    """A rewritten net of subclasses gives under `torch.compile` what it gives without."""
    net = attribkit.rewrite(built(Own), "guided")
    assert is_right(pulled_down(torch.compile(net, backend="eager")), pulled_down(net))


NOTHINGS: dict[str, Callable[[], nn.Module]] = {
    "a module": lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.GELU()),
    "none": lambda: nn.Sequential(nn.Conv2d(3, 2, 3)),
    "a pool": lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.MaxPool2d(2)),
}


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", NOTHINGS)
def test_nothing_to_rewrite_is_refused_when_compiled(name: str) -> None:
    """As in eager mode, and no plain gradient under another name."""
    net = attribkit.rewrite(built(NOTHINGS[name]), "guided")
    with pytest.raises(attribkit.NothingToRewrite):
        torch.compile(net, backend="eager")(image()().requires_grad_())


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", NOTHINGS)
def test_nothing_to_rewrite_is_refused_when_exported(name: str) -> None:
    """Neither does `torch.export` make one."""
    net = attribkit.rewrite(built(NOTHINGS[name]), "guided")
    with pytest.raises(attribkit.NothingToRewrite):
        torch.export.export(net, (image()(),))


# Exported, traced -------------------------------------------------------------------------------------------


class Held(Net):
    """Modules alone."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norm(self.conv1(x))))
        return self.conv3(self.relu(self.conv2(x)))


def exported_loosely(net: nn.Module) -> Any:
    return torch.export.export(net, (image()(),), strict=False).module()


def traced(net: nn.Module) -> Any:
    return torch.jit.trace(net, image()(), check_trace=False)


PACKS: dict[str, Callable[[nn.Module], Any]] = {
    "torch.export, strict": lambda net: torch.export.export(net, (image()(),), strict=True).module(),
    "torch.export": exported_loosely,
    "jit.trace": traced,
    "jit.script": torch.jit.script,
    "fx.symbolic_trace": torch.fx.symbolic_trace,
    "make_fx": lambda net: make_fx(net)(image()()),
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("make", [Plain, Held])
@pytest.mark.parametrize("how", PACKS)
def test_what_is_packed_follows_the_rule_or_is_refused(how: str, make: type[nn.Module], rule: str) -> None:
    """A graph taken from a rewritten net has its map; where it would have another, an error of ours says so."""
    net = attribkit.rewrite(built(make), rule)
    expected = pulled_down(net)
    try:
        found = pulled_down(PACKS[how](net))
    except attribkit.AttribkitError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either way is fine)
    except torch._dynamo.exc.Unsupported as error:  # a strict export names ours, in torch 2.8 no more than that
        assert "does not keep" in str(error) or "NotSupported" in str(error)  # noqa: PT017
    else:
        assert is_right(found, expected)


# Names ------------------------------------------------------------------------------------------------------


class Colliding(nn.Module):
    """A pool called twice, and another whose own name is that of the second call."""

    def __init__(self, other: str) -> None:
        super().__init__()
        self.pool, self.conv, self.other = nn.MaxPool2d(2, 1), nn.Conv2d(3, 3, 1), other
        self.add_module(other, nn.MaxPool2d(2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(self.pool(self.pool(x))))
        x = F.max_pool2d(self.get_submodule(self.other)(x), 2, 1)
        return F.relu(self.conv(x))


@pytest.mark.parametrize("other", ["pool:1", "#max_pool2d", "pool_1", "#max_pool2d:1"])
def test_sites_whose_names_collide_do_not_share_switches(other: str) -> None:
    """Replaying an image's own switches is the chain rule, whatever the modules are called; or it is refused."""
    model, x = built(lambda: Colliding(other)), image()()
    try:
        switches = attribkit.record_switches(model, x)
        found = pulled_down(attribkit.rewrite(model, "backprop", switches=switches))
    except attribkit.AttribkitError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either way is fine)
    except torch._dynamo.exc.Unsupported as error:  # which a strict export makes of ours
        assert "does not keep" in str(error)  # noqa: PT017
        assert "pool" in str(error)  # noqa: PT017
    else:
        assert len(switches.indices) == 4
        assert is_right(found, attribution(model, x, mixed_signal, "backprop"))


@pytest.mark.parametrize("rule", RULES)
def test_complex_convolutions_work_as_in_torch_or_are_refused(rule: str) -> None:
    """A convolution of complex numbers has torch's gradient."""

    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, dtype=torch.complex128)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x.to(torch.complex128))
            return F.relu(y.real) + F.relu(y.imag)

    try:
        found = pulled_down(attribkit.rewrite(built(Complex), rule))
    except attribkit.CannotRewrite as error:
        assert "complex" in str(error)  # noqa: PT017 (either way is fine)
    else:
        assert is_right(found, attribution(built(Complex), image()(), mixed_signal, rule))


def test_a_slope_that_comes_from_the_image_gets_its_gradient() -> None:
    """A PReLU whose slope is computed passes the chain rule on to where it is computed."""

    class Sloped(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.conv1(x)
            return self.conv3(F.prelu(self.conv2(x), x.mean((0, 2, 3)).sigmoid()))

    found = pulled_down(attribkit.rewrite(built(Sloped), "backprop"))
    assert is_right(found, attribution(built(Sloped), image()(), mixed_signal, "backprop"))


# In which direction -----------------------------------------------------------------------------------------

FORWARDS: dict[str, Callable[[Any, Tensor], Any]] = {
    "jvp": lambda net, x: torch.func.jvp(net, (x,), (x,)),
    "jacfwd": lambda net, x: torch.func.jacfwd(lambda factor: net(factor * x))(torch.ones(1)),
    "hessian": lambda net, x: torch.func.hessian(lambda factor: net(factor * x).sum())(torch.ones(1)),
    "functionalize": lambda net, x: torch.func.functionalize(net)(x),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("how", FORWARDS)
def test_forward_mode_is_refused(how: str, rule: str) -> None:
    """A rule leads backwards: for a derivative that goes forwards there is none, and an error of ours says so."""
    net = attribkit.rewrite(built(Plain), rule)
    with pytest.raises(NotSupported, match="backwards"):
        FORWARDS[how](net, image()())


# How a net is called ----------------------------------------------------------------------------------------


def first(args: Any, kwargs: Any) -> Tensor:
    """The first tensor in what a net is called with."""
    (value,) = (*args, *kwargs.values())
    while not isinstance(value, Tensor):
        value = value[0] if isinstance(value, (list, tuple)) else vars(value) if hasattr(value, "x") else value["x"]
    return value


class AnyForm(Held):
    """Takes its image in whatever it comes."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(first(args, kwargs))


class ReluAside(AnyForm):
    """Its only ReLU is of a constant."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return F.gelu(self.conv1(first(args, kwargs))) + F.relu(torch.ones(1))


FORMS: dict[str, Callable[[Callable[..., Tensor], Tensor], Tensor]] = {
    "by keyword": lambda net, x: net(image=x),
    "in a list": lambda net, x: net([x]),
    "in a tuple": lambda net, x: net((x, 3)),
    "in a dict": lambda net, x: net({"x": x, "label": 1}),
    "in a list of dicts": lambda net, x: net([{"x": x}]),
    "in an object": lambda net, x: net(types.SimpleNamespace(x=x)),
    "in a dict by keyword": lambda net, x: net(batch={"x": x}),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("how", FORMS)
def test_an_image_comes_in_any_form(how: str, rule: str) -> None:
    """Lists, dicts and objects are searched for what needs a gradient, and the map is that of the bare image."""
    net = attribkit.rewrite(built(AnyForm), rule, strict=True)
    found = pulled_down(lambda x: FORMS[how](net, x))
    assert is_right(found, attribution(built(Plain), image()(), mixed_signal, rule))


@pytest.mark.parametrize("how", FORMS)
def test_a_rectifier_beside_the_image_is_none_in_any_form(how: str) -> None:
    """And so what does not hang on the image is told from what does."""
    net = attribkit.rewrite(built(ReluAside), "guided")
    with pytest.raises(attribkit.NothingToRewrite):
        FORMS[how](net, image()().requires_grad_())
