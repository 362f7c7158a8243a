"""`explain` on layers of any shape, called any number of times, in models that catch what is thrown at them."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from oracles import attribution
from torch import Tensor, nn
from torch.nn import functional as F
from ways_checks import is_right
from ways_harness import Net, built, image, in_double_precision
from ways_originals import INTO_IMAGES, Normalising
from ways_state import description

import attribkit


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with in_double_precision():
        yield


def oracle(model: Any, pick: Callable[[Any], Tensor], rule: str = "guided", x: Tensor | None = None) -> Tensor:
    """The map of a number that `pick` takes from a model's output."""
    return attribution(model, image()() if x is None else x, pick, rule)


def explained(model: nn.Module, **options: Any) -> attribkit.Attribution:
    return attribkit.explain(model, image()(), **options)


# Maps whose positions are not the image's -------------------------------------------------------------------


class Patches(nn.Module):
    """Tokens of 4 x 4 pixels, and a layer of a transformer's feed-forward kind; `upto` ends it early."""

    def __init__(self, upto: str = "head", with_class: bool = False) -> None:
        super().__init__()
        self.embed, self.upto, self.with_class = nn.Conv2d(3, 6, 2, 2), upto, with_class
        self.first, self.act, self.tokens = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        if self.with_class:
            x = torch.cat([x.mean(1, keepdim=True), x], 1)
        x = self.tokens(self.act(self.first(x)))
        return x if self.upto == "tokens" else self.head(x.mean(1))


@pytest.mark.parametrize("with_class", [False, True])
@pytest.mark.parametrize("token", [0, 3, 15])
def test_a_token_is_addressed_by_its_place_and_its_feature(token: int, with_class: bool) -> None:
    """Of N x T x C `channel` is the feature and `at` the token; the box of a token is the whole image."""
    model = built(lambda: Patches(with_class=with_class))
    found = explained(model, layer="tokens", channel=4, at=(token,))
    expected = oracle(built(lambda: Patches("tokens", with_class)), lambda y: y[:, token, 4].sum())
    assert is_right(found.values, expected)
    for unit in found.units:
        assert (unit.channel, unit.position) == (4, (token,))
        assert unit.box == (0, 0, 8, 8)


def test_the_strongest_unit_of_tokens_is_found() -> None:
    """Without channel and position the largest number of the layer is explained, feature and token named rightly."""
    model, upto = built(Patches), built(lambda: Patches("tokens")).eval()
    found = explained(model, layer="tokens")
    output = upto(image()()).detach()
    for unit, values in zip(found.units, output, strict=True):
        assert unit.activation == pytest.approx(float(values.max()))
        assert unit.position is not None
        assert float(values[unit.position[0], unit.channel]) == pytest.approx(float(values.max()))
    expected = oracle(upto, lambda y: y.flatten(1).amax(1).sum())
    assert is_right(found.values, expected)


def test_more_features_than_tokens_or_fewer() -> None:
    """Which dimension is the feature does not hang on which is larger."""
    model = built(Patches)
    for layer, channel, token in (("first", 7, 2), ("tokens", 5, 15), ("act", 0, 0)):
        unit = explained(model, layer=layer, channel=channel, at=(token,)).units[0]
        assert (unit.channel, unit.position) == (channel, (token,))
    with pytest.raises(attribkit.AttribkitError, match="8"):
        explained(model, layer="first", channel=8)
    with pytest.raises(attribkit.AttribkitError, match="16"):
        explained(model, layer="first", channel=0, at=(16,))


class Ending(nn.Module):
    """A net whose last layer's output has a form of its own."""

    def __init__(self, end: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.act, self.last, self.end = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Identity(), end

    def forward(self, x: Tensor) -> Any:
        return self.last(self.end(self.act(self.conv(x))))


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "a depth map": lambda x: x[:, 0],
    "rows": lambda x: x.mean(3),
    "a line": lambda x: x.flatten(2),
    "one number an image": lambda x: x.flatten(1)[:, :1],
    "a vector": lambda x: x.flatten(1),
    "a volume": lambda x: x[:, :, None].expand(-1, -1, 2, -1, -1),
    "channels last": lambda x: x.permute(0, 2, 3, 1),
    "six dimensions": lambda x: x.reshape(-1, 2, 2, 3, 2, 6),
}


@pytest.mark.parametrize("where", ["layer", "output"])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_of_any_shape_have_a_map_or_an_error_of_ours(shape: str, where: str) -> None:
    """The strongest number's map, whose box lies in the image; or a line that says what is not taken."""
    model = built(lambda: Ending(SHAPES[shape]))
    options = {"layer": "last"} if where == "layer" else {}
    try:
        found = explained(model, **options)
    except attribkit.AttribkitError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert found.values.shape == (2, 3, 8, 8)
        if shape != "channels last":  # whose rows are taken for channels, which nobody can know
            assert is_right(found.values, oracle(model, lambda y: y.flatten(1).amax(1).sum()))
        for unit in found.units:
            assert unit.box is not None
            assert len(unit.box) == 4
            assert 0 <= unit.box[0] < unit.box[2] <= 8
    assert "\n" not in refusal


@pytest.mark.parametrize(
    "end", [lambda x: x.sum(), lambda x: x.mean((1, 2, 3)), lambda x: None, lambda x: (x, x), lambda x: {}]
)
def test_outputs_that_are_no_map_are_refused_by_an_error_of_ours(end: Callable[[Tensor], Any]) -> None:
    """A number, a number an image, nothing, several tensors: one line that says `output=`, or a map."""
    model = built(lambda: Ending(end))
    try:
        explained(model)
    except attribkit.AttribkitError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either way is fine)


# Calls and names --------------------------------------------------------------------------------------------


class Called(nn.Module):
    """One ReLU called three times, on maps of growing strength; `call` ends it after one of them."""

    def __init__(self, call: int | None = None) -> None:
        super().__init__()
        self.conv1, self.conv2, self.relu, self.call = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.ReLU(), call
        self.again, self.tied = self.relu, self.conv1

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self.relu(self.conv1(x))]
        outputs.append(self.relu(3 * self.conv2(outputs[0])))
        outputs.append(self.relu(3 * self.conv2(outputs[1])))
        return outputs[-1].flatten(1) if self.call is None else outputs[self.call]


@pytest.mark.parametrize(("call", "unit"), [(0, (0, 0, 1)), (1, (2, 0, 3)), (2, (1, 4, 5))])
def test_every_call_of_a_module_is_addressable(call: int, unit: tuple[int, ...]) -> None:
    """`relu:1` is the second call of `relu`; its strongest unit is that call's."""
    channel, *at = unit
    found = explained(built(Called), layer=f"relu:{call}", channel=channel, at=at)
    expected = oracle(built(lambda: Called(call)), lambda y: y[(slice(None), *unit)].sum())
    assert is_right(found.values, expected)
    strongest = explained(built(Called), layer=f"relu:{call}")
    output = built(lambda: Called(call)).eval()(image()())
    assert [unit.activation for unit in strongest.units] == pytest.approx(output.flatten(1).amax(1).tolist())


def test_without_an_index_what_was_taken_is_said_or_asked_for() -> None:
    """Of several calls none is taken in silence."""
    model = built(Called)
    try:
        units = explained(model, layer="relu").units
    except attribkit.AttribkitError as error:
        said = str(error)
    else:
        said = " ".join(str(unit.layer) for unit in units)
    assert "relu:" in said


@pytest.mark.parametrize("layer", ["relu:3", "relu:-1", "relu:x", "relu:", "conv1:1", "conv2:2", ":0"])
def test_calls_that_there_are_not_are_refused(layer: str) -> None:
    """An index beyond the last call, or none at all, is an error that names the layer."""
    with pytest.raises(attribkit.AttribkitError) as caught:
        explained(built(Called), layer=layer)
    assert "\n" not in str(caught.value)
    assert layer.partition(":")[0] in str(caught.value)


@pytest.mark.parametrize(("name", "other"), [("tied", "conv1"), ("again:1", "relu:1")])
def test_a_layers_second_name_is_taken(name: str, other: str) -> None:
    """A module that is registered twice answers to both names."""
    model = built(Called)
    assert torch.equal(explained(model, layer=name).values, explained(model, layer=other).values)


def test_a_part_that_is_called_twice_has_its_own_calls() -> None:
    """The calls of a module inside a block that is called twice are counted over the whole pass."""

    class Twice(nn.Module):
        def __init__(self, upto: bool = False) -> None:
            super().__init__()
            self.conv, self.upto = nn.Conv2d(3, 3, 3, padding=1), upto
            self.block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            x = self.block(self.block(self.conv(x)))
            return x if self.upto else x.flatten(1)

    found = explained(built(Twice), layer="block.1:1", channel=1, at=(2, 2))
    assert is_right(found.values, oracle(built(lambda: Twice(True)), lambda y: y[:, 1, 2, 2].sum()))


# Empty batches, subclasses of Tensor ------------------------------------------------------------------------


def test_an_empty_batch_passes_both_ways() -> None:
    """No image has no map: shapes are as in torch, and nothing foreign is raised."""
    model = built(Called)
    x = torch.zeros(0, 3, 8, 8, requires_grad=True)
    for rule in ("backprop", "deconvnet", "guided"):
        net = attribkit.rewrite(model, rule)
        assert net(x).shape == model.eval()(x).shape
        (found,) = torch.autograd.grad(net(x).sum(), x)
        assert found.shape == x.shape


@pytest.mark.parametrize("options", [{}, {"layer": "conv2"}, {"target": 3}, {"layer": "conv2", "at": "all"}])
def test_an_empty_batch_is_explained_or_refused(options: dict[str, Any]) -> None:
    """Maps of no image, or one line."""
    try:
        found = attribkit.explain(built(Called), torch.zeros(0, 3, 8, 8), **options)
    except attribkit.AttribkitError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either way is fine)
    else:
        assert found.values.shape == (0, 3, 8, 8)
        assert len(found.units) == 0


def test_switches_of_an_empty_batch() -> None:
    """They are recorded, with nothing in them, or refused in one line."""
    try:
        switches = attribkit.record_switches(nn.Sequential(nn.MaxPool2d(2), nn.ReLU()), torch.zeros(0, 3, 8, 8))
    except attribkit.AttribkitError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either way is fine)
    else:
        assert switches.indices["0"].shape == (0, 3, 4, 4)


class Tagged(Tensor):
    """As monai's MetaTensor: a Tensor that carries something along."""

    tag: str = "none"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        tags = [arg.tag for arg in args if isinstance(arg, Tagged)]
        if isinstance(result, Tagged) and tags:
            result.tag = tags[0]
        return result


def tagged(x: Tensor) -> Tagged:
    result = x.as_subclass(Tagged)
    result.tag = "mine"
    return result


class EveryKind(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norm(self.conv1(x))))
        return self.conv3(F.relu(self.conv2(x)).clamp(min=0))


@pytest.mark.parametrize("rule", ["backprop", "deconvnet", "guided"])
def test_a_tensor_subclass_comes_back_as_what_the_model_gives(rule: str) -> None:
    """Class, tag, values and map are those of the model; a net fed with plain tensors gives plain ones."""
    model, net = built(EveryKind).eval(), attribkit.rewrite(built(EveryKind), rule)
    given = tagged(image()().requires_grad_())
    expected, found = model(given), net(given)
    assert type(found) is type(expected) is Tagged
    assert (found.tag, torch.equal(found, expected)) == (expected.tag, True)
    (below,) = torch.autograd.grad(found.sum(), given)
    assert is_right(below.as_subclass(Tensor), oracle(built(EveryKind), lambda y: y.sum(), rule))
    assert type(net(image()())) is Tensor


def test_a_tensor_subclass_is_explained() -> None:
    """The map is the plain image's."""
    model = built(EveryKind)
    plain = attribkit.explain(model, image()(), layer="conv3")
    found = attribkit.explain(model, tagged(image()()), layer="conv3")
    assert torch.equal(found.values.as_subclass(Tensor), plain.values)


# Forward passes that catch what is thrown -------------------------------------------------------------------


def by_except(run: Callable[[], Tensor], other: Tensor) -> Tensor:
    try:
        return run()
    except Exception:  # swallows all, our stop at a layer and our refusals among it: that is what is tried
        return other


def by_bare_except(run: Callable[[], Tensor], other: Tensor) -> Tensor:
    try:
        return run()
    except:  # noqa: E722 (as people write it)
        return other


def by_suppress(run: Callable[[], Tensor], other: Tensor) -> Tensor:
    with contextlib.suppress(Exception):
        return run()
    return other


def by_finally(run: Callable[[], Tensor], other: Tensor) -> Tensor:
    result = other
    try:
        result = run()
    finally:
        return result  # noqa: B012 (as people write it)


def by_retry(run: Callable[[], Tensor], other: Tensor) -> Tensor:
    for _ in range(2):
        try:
            return run()
        except Exception:  # swallows all and tries again, as people write it: our stop must get through
            continue
    return other


CATCHERS = (by_except, by_suppress, by_retry, by_bare_except, by_finally)


class Catching(nn.Module):
    """Runs its body so that nothing escapes from it."""

    def __init__(self, catch: Callable[[Callable[[], Tensor], Tensor], Tensor], upto: bool = False) -> None:
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)
        self.last, self.catch, self.upto = nn.Conv2d(4, 2, 1), catch, upto

    def forward(self, x: Tensor) -> Tensor:
        y = self.catch(lambda: self.pool(self.relu(self.conv(x))), torch.zeros(2, 4, 3, 3))
        return y if self.upto else self.catch(lambda: self.last(F.relu(y)), torch.zeros(2, 2, 3, 3))


@pytest.mark.parametrize("catch", CATCHERS)
@pytest.mark.parametrize("layer", ["pool", "last"])
def test_a_forward_pass_that_catches_everything_is_stopped_all_the_same(catch: Any, layer: str) -> None:
    """What stops at a layer is no `Exception`; what even a bare `except` catches is taken note of."""
    found = explained(built(lambda: Catching(catch)), layer=layer, channel=1, at=(1, 1))
    twin = built(lambda: Catching(lambda run, other: run(), upto=layer == "pool"))
    assert is_right(found.values, oracle(twin, lambda y: y[:, 1, 1, 1].sum()))


@pytest.mark.parametrize("catch", CATCHERS)
def test_recording_is_stopped_all_the_same(catch: Any) -> None:
    """And so it is while switches of some pools are recorded."""
    model = built(lambda: Catching(catch))
    whole = attribkit.record_switches(model, image()())
    found = attribkit.record_switches(model, image()(), sites=["pool"])
    assert torch.equal(found.indices["pool"], whole.indices["pool"])


@pytest.mark.parametrize("catch", CATCHERS)
def test_our_own_errors_are_not_swallowed(catch: Any) -> None:
    """A model that catches everything does not turn a refusal into a map."""
    model = built(lambda: Catching(catch))
    switches = attribkit.record_switches(model, torch.randn(1, 3, 10, 10))
    with pytest.raises(attribkit.SwitchMismatch):
        attribkit.rewrite(model, "guided", switches=switches)(image()())


# Images that a model writes into ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", INTO_IMAGES)
def test_switches_of_a_model_that_writes_into_its_images_are_of_these_images(name: str) -> None:
    """Recording leaves the images as they were, so that what is replayed is their own."""
    write, twin = INTO_IMAGES[name]
    model, x = built(lambda: Normalising(write)), image()()
    switches = attribkit.record_switches(model, x)
    assert torch.equal(x, image()())
    again = attribkit.record_switches(built(lambda: Normalising(twin)), x)
    assert all(torch.equal(switches.indices[site], again.indices[site]) for site in again.indices)


@pytest.mark.parametrize("layer", [None, "conv2"])
@pytest.mark.parametrize("name", INTO_IMAGES)
def test_a_model_that_writes_into_its_images_is_explained(name: str, layer: str | None) -> None:
    """The map is that of a twin which does not write; the images are as they were."""
    write, twin = INTO_IMAGES[name]
    x = image()()
    options = {"layer": layer} if layer else {"output": lambda y: y.flatten(1), "target": 3}
    found = attribkit.explain(built(lambda: Normalising(write)), x, **options)
    expected = attribkit.explain(built(lambda: Normalising(twin)), image()(), **options)
    assert torch.equal(x, image()())
    assert is_right(found.values, expected.values)


# What a model's settings say --------------------------------------------------------------------------------


class Configured(nn.Module):
    """Its strides hang on an object that can be changed at any time."""

    def __init__(self, upto: bool = False) -> None:
        super().__init__()
        self.config, self.upto = types.SimpleNamespace(stride=1), upto
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.conv1.weight, self.conv1.bias, stride=self.config.stride))
        x = self.conv2(x)
        return x if self.upto else F.relu(x).flatten(1)


def test_a_receptive_field_that_hangs_on_a_configuration_is_found_anew() -> None:
    """A changed stride changes the crop; no field of before is used."""
    x = torch.randn((1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    model, twin = built(Configured), built(lambda: Configured(True))
    for stride in (1, 3, 2, 1):
        model.config.stride = twin.config.stride = stride
        found = attribkit.explain(model, x, layer="conv2", channel=1, at=(2, 3))
        assert is_right(found.values, oracle(twin, lambda y: y[:, 1, 2, 3].sum(), x=x)), stride
        assert found.units[0].box == (2 * stride, 3 * stride, 2 * stride + 2 * stride + 3, 3 * stride + 2 * stride + 3)


def test_a_function_over_a_model_gives_its_parameters_no_gradient() -> None:
    """A map is asked for with respect to the image; what a function closes over is not touched."""
    model = built(EveryKind).eval()
    before = description(model)
    net = attribkit.rewrite(lambda x: model(x), "guided")
    x = image()().requires_grad_()
    net(x).sum().backward()
    assert is_right(x.grad, oracle(model, lambda y: y.sum()))  # type: ignore[arg-type]
    assert description(model) == before


# What is said when there is nothing -------------------------------------------------------------------------

HINTS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "gelu": (F.gelu, True),
    "silu": (F.silu, True),
    "tanh": (torch.tanh, False),
    "sigmoid": (torch.sigmoid, False),
    "nothing": (lambda x: x, False),
    "hardtanh": (F.hardtanh, False),
    "a gelu that the image does not pass": (lambda x: x * F.gelu(torch.ones(1)), False),
    "a gelu of a detached tensor": (lambda x: x + F.gelu(x.detach()), False),
    "a relu that the image does not pass": (lambda x: x + F.relu(x.detach()), False),
}


@pytest.mark.parametrize("name", HINTS)
def test_the_hint_is_given_only_where_it_would_help(name: str) -> None:
    """`activations="all"` is named where it finds something to swap, and then it does."""
    function, helps = HINTS[name]
    model = built(lambda: Ending(function))
    model.act = nn.Identity()
    x = image()().requires_grad_()
    with pytest.raises(attribkit.NothingToRewrite) as caught:
        attribkit.rewrite(model, "guided")(x)
    assert ('activations="all"' in str(caught.value)) == helps
    if helps:
        attribkit.rewrite(model, "guided", activations="all")(x)
    else:
        with pytest.raises(attribkit.NothingToRewrite):
            attribkit.rewrite(model, "guided", activations="all")(x)
