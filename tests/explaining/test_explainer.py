"""`Explainer`: made ready once, asked often; it notices what changes, and pays for no pass that it does not need."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from oracles import state_digest
from test_explain import (
    Classifier,
    Detector,
    assert_close,
    classifier,
    dense_stack,
    images_for_classifier,
    maps_by_oracle,
    output_of,
    pictures,
    plain_stack,
    seeded,
    strongest,
    wanted_of,
)
from torch import Tensor, nn
from torch.nn import functional as F

import attribkit
from attribkit.errors import ModelChanged
from attribkit.explaining import nets
from attribkit.explaining.nets import samples
from attribkit.units import Unit

RULES = ["backprop", "deconvnet", "guided"]


@pytest.fixture
def rewrites(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Grows by a net each time that an explainer makes itself ready."""
    made: list[nn.Module] = []
    honest = nets.rewrite_by

    def counting(*args: Any) -> Any:
        made.append(honest(*args))
        return made[-1]

    monkeypatch.setattr(nets, "rewrite_by", counting)
    return made


class Passes:
    """The sizes of what enters a module, in passes with a gradient and in others."""

    def __init__(self, module: Any) -> None:
        self.with_gradient: list[tuple[int, ...]] = []
        self.without: list[tuple[int, ...]] = []
        module.register_forward_pre_hook(self.see)

    def see(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        (self.with_gradient if torch.is_grad_enabled() else self.without).append(tuple(args[0].shape))

    def __deepcopy__(self, memo: Any) -> Passes:
        return self

    def clear(self) -> None:
        self.with_gradient.clear()
        self.without.clear()


# The same as explain -----------------------------------------------------------------------------------------

QUESTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({}, {"target": 2}),
    ({}, {"targets": [4, 0]}),
    ({"layer": "conv2"}, {}),
    ({"layer": "conv2"}, {"channel": [1, 2, 3], "at": (2, 2)}),
    ({"layer": "conv1"}, {"channels": [1, 2], "at": "all"}),
    ({"layer": "conv1", "switches": "uniform"}, {"channel": 3, "at": (0, 7)}),
    ({"norms": "bypass", "overlap": "overwrite", "replay": "both", "switches": "center"}, {}),
]


@pytest.mark.parametrize(("made", "asked"), QUESTIONS, ids=str)
def test_it_gives_what_explain_gives(made: dict[str, Any], asked: dict[str, Any]) -> None:
    """In every field, the first time and the third."""
    model, images = classifier(), images_for_classifier()
    expected = attribkit.explain(model, images, RULES, **made, **asked)
    explainer = attribkit.Explainer(model, RULES, **made)
    for _ in range(3):
        found = explainer(images, **asked)
        for rule in RULES:
            assert_close(found[rule].values, expected[rule].values)
            assert wanted_of(found[rule].units) == wanted_of(expected[rule].units)
            assert [unit.box for unit in found[rule].units] == [unit.box for unit in expected[rule].units]
            assert found[rule].sites == expected[rule].sites
            assert found[rule].settings == expected[rule].settings


def test_one_method_gives_one_result_and_a_list_a_dict() -> None:
    model, images = classifier(), images_for_classifier()
    assert isinstance(attribkit.Explainer(model)(images), attribkit.Attribution)
    assert list(attribkit.Explainer(model, ["guided"])(images)) == ["guided"]
    assert attribkit.Explainer(model, RULES).methods == RULES


def test_images_of_several_sizes() -> None:
    """One explainer takes what comes; each size is answered as if it were alone."""
    model = dense_stack()
    explainer = attribkit.Explainer(model, layer="2")
    for size in ((22, 24), (31, 22), (12, 12), (22, 24)):
        images = pictures(2, 3, *size)
        found = explainer(images, channel=1)
        assert wanted_of(found.units) == strongest(output_of(model, images, "2"), 1)
        assert_close(found.values, maps_by_oracle(model, images, wanted_of(found.units), "guided", "2"))


def test_errors_come_when_it_is_made() -> None:
    """What is wrong with model, method or options need not wait for images."""
    with pytest.raises(ValueError, match=r"no layer 'conv22' in Classifier; the nearest: conv2"):
        attribkit.Explainer(classifier(), layer="conv22")
    with pytest.raises(ValueError, match="no rule is called 'gided'"):
        attribkit.Explainer(classifier(), "gided")
    with pytest.raises(ValueError, match="norms is one of"):
        attribkit.Explainer(classifier(), norms="none")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"layer='a' needs an nn\.Module, not a function"):
        attribkit.Explainer(lambda x: F.relu(x), layer="a")


def test_a_function_is_explained_too() -> None:
    """What can be rewritten can be explained: a plain function of images, without layers."""
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = attribkit.explain(lambda x: F.relu(F.conv2d(x, weight)).mean((2, 3)), pictures(2, 3, 9, 9), target=1)
    hidden = F.conv2d(pictures(2, 3, 9, 9), weight)[:, 1]
    signal = torch.zeros(2, 4, 5, 5, dtype=torch.float64)
    signal[:, 1] = (hidden > 0).double() / 25
    assert_close(found.values, F.conv_transpose2d(signal, weight))


# What a loaded model brings ----------------------------------------------------------------------------------


@dataclass
class Loaded:
    """As far as explain goes, what `attribkit.load` gives."""

    model: nn.Module
    output: Callable[[Any], Tensor] | None = None


def test_a_loaded_model_is_its_model() -> None:
    model, images = classifier(), images_for_classifier()
    for asked in ({}, {"layer": "conv2"}):
        found = attribkit.explain(Loaded(model), images, **asked)  # type: ignore[arg-type]
        assert torch.equal(found.values, attribkit.explain(model, images, **asked).values)  # type: ignore[arg-type]
        assert found.model == "Classifier"


def test_a_loaded_model_brings_its_output() -> None:
    """It picks from the model's output, and has no say in that of a layer; what is passed goes before it."""
    model, images = seeded(Detector), pictures(2, 3, 20, 18)

    def logits(output: Any) -> Tensor:
        return output["logits"]

    loaded = Loaded(model, logits)
    found = attribkit.explain(loaded, images)
    assert torch.equal(found.values, attribkit.explain(model, images, output=logits).values)
    inside = attribkit.explain(loaded, images, layer="backbone.two")
    assert torch.equal(inside.values, attribkit.explain(model, images, layer="backbone.two").values)
    coarse = attribkit.explain(loaded, images, output=lambda output: output["maps"][1])
    assert {len(unit.position or ()) for unit in coarse.units} == {2}


def test_a_module_that_holds_a_model_is_no_loaded_model() -> None:
    """What has a `.model` and is a network itself is the network that is explained."""

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = classifier()

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.model(x)

    images = images_for_classifier()
    assert_close(
        attribkit.explain(seeded(Doubled), images, target=1).values,
        2 * attribkit.explain(classifier(), images, target=1).values,
    )


# What is paid for --------------------------------------------------------------------------------------------


def test_a_model_is_made_ready_once(rewrites: list[nn.Module]) -> None:
    """However often it is asked, about images of whatever size."""
    explainer = attribkit.Explainer(dense_stack(), RULES)
    for size in (20, 30, 20):
        explainer(pictures(2, 3, size, size))
    assert len(rewrites) == 1


@pytest.mark.parametrize("made", [{}, {"layer": "conv2"}, {"layer": "fc1"}], ids=str)
def test_one_forward_pass_is_all_that_is_paid(made: dict[str, Any]) -> None:
    """For a logit and for a unit of a layer that sees much, by three methods; once the layer was probed."""
    model, images = classifier(), images_for_classifier()
    passes = Passes(model.conv1)
    explainer = attribkit.Explainer(model, RULES, **made)
    explainer(images)
    passes.clear()
    explainer(images)
    explainer(images.flip(0))
    assert passes.with_gradient == [(3, 3, 12, 10)] * 2
    assert passes.without == []


def test_a_unit_that_sees_little_costs_a_look_and_a_crop() -> None:
    """The strongest unit is looked for in a forward pass that keeps nothing, and explained on what it sees."""
    model, images = dense_stack(), pictures(2, 3, 40, 40)
    passes = Passes(model[0])  # type: ignore[index]
    explainer = attribkit.Explainer(model, layer="2")
    explainer(images, channel=1)
    passes.clear()
    explainer(images, channel=1)
    assert passes.without == [(2, 3, 40, 40)]
    assert sum(n for n, *_ in passes.with_gradient) == 2
    assert all(h <= 5 and w <= 5 for _, _, h, w in passes.with_gradient)


@pytest.mark.parametrize("asked", [{"channel": 1}, {"channel": [2, 0]}, {"channels": [3, 1]}], ids=str)
def test_of_a_known_unit_only_the_crop_goes_through_the_network(asked: dict[str, Any]) -> None:
    """Where channel and position are given; the first images of a size are run whole, too, and compared."""
    model, images = dense_stack(), pictures(2, 3, 40, 40)
    passes = Passes(model[0])  # type: ignore[index]
    explainer = attribkit.Explainer(model, layer="2")
    first = explainer(images, at=(20, 11), **asked)
    assert (2, 3, 40, 40) in passes.without
    passes.clear()
    found = explainer(images, at=(20, 11), **asked)
    assert passes.without == []
    assert {shape[2:] for shape in passes.with_gradient} == {(5, 5)}
    assert torch.equal(found.values, first.values)
    assert wanted_of(found.units) == wanted_of(first.units)
    assert [unit.box for unit in found.units] == [unit.box for unit in first.units]
    assert [u.activation for u in found.units] == pytest.approx([u.activation for u in first.units])
    wanted = wanted_of(found.units)
    assert_close(found.values, maps_by_oracle(model, images, wanted, "guided", "2"))
    # The same by explain, which makes an explainer anew: what is known of the model is known.
    passes.clear()
    attribkit.explain(model, images, layer="2", at=(20, 11), **asked)
    assert passes.without == []


def test_of_many_known_units_a_few_are_compared_with_whole_images() -> None:
    """One in each of nine images: four of these go through the network whole."""
    model, images = dense_stack(), pictures(9, 3, 40, 40)
    units = [Unit(image, "2", image % 6, (2 * image, 39 - image), 0.0) for image in range(9)]
    passes = Passes(model[0])  # type: ignore[index]
    explainer = attribkit.Explainer(model, layer="2")
    maps = explainer.maps(images, units)["guided"]
    whole = [n for n, *_, width in (*passes.without, *passes.with_gradient) if width == 40]
    assert [n for n in whole if n > 1] == [4]  # and one at a time while the layer is probed
    assert_close(maps, maps_by_oracle(model, images, wanted_of(units), "guided", "2"))
    channels = [unit.channel for unit in units]
    found = attribkit.Explainer(dense_stack(), layer="2")(images, channel=channels, at=(7, 7))
    assert_close(found.values, maps_by_oracle(model, images, wanted_of(found.units), "guided", "2"))


def wide_stack() -> nn.Module:
    """Units of its last layer see 101 pixels."""
    return seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, dilation=25), nn.ReLU(), nn.Conv2d(4, 4, 3, dilation=25)))


@pytest.mark.parametrize("side", [160, 120], ids=["little", "much"])
def test_units_of_one_large_part_share_the_way_up(side: int) -> None:
    """Where they are known, also where they see so much of the image that none would be looked for."""
    model, images = wide_stack(), pictures(2, 3, side, side)
    passes = Passes(model[0])  # type: ignore[index]
    explainer = attribkit.Explainer(model, layer="2")
    first = explainer(images, channels=[3, 0, 1], at=(9, 9))
    passes.clear()
    found = explainer(images, channels=[3, 0, 1], at=(9, 9))
    assert passes.with_gradient == [(2, 3, 101, 101)]
    assert passes.without == []
    for each in (first, found):
        assert_close(each.values, maps_by_oracle(model, images, wanted_of(each.units), "guided", "2"))
    assert [unit.channel for unit in found.units] == [3, 0, 1] * 2


def test_known_units_without_a_position_in_common_are_explained_on_parts_too() -> None:
    model, images = wide_stack(), pictures(3, 3, 120, 120)
    units = [Unit(0, "2", 1, (2, 3), 0.0), Unit(1, "2", 0, (19, 7), 0.0), Unit(2, "2", 3, (0, 19), 0.0)]
    maps = attribkit.Explainer(model, RULES, layer="2").maps(images, units)
    for name, values in maps.items():
        assert_close(values, maps_by_oracle(model, images, wanted_of(units), name, "2"))


def test_known_units_are_checked_without_a_look() -> None:
    """A channel or a position that is not there is refused in the same words, looked at or not."""
    explainer = attribkit.Explainer(dense_stack(), layer="2")
    images = pictures(2, 3, 40, 40)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"the layer '2' has 6 channels, 0 to 5; there is no 6"):
            explainer(images, channel=6, at=(3, 3))
        with pytest.raises(ValueError, match=r"no position \(3, 40\) in a map of 40x40"):
            explainer(images, channel=1, at=(3, 40))
        found = explainer(images, channel=1, at=(-1, 3))
        assert found.units[0].position == (39, 3)


def test_a_net_of_functions_is_explained_at_its_first_layer() -> None:
    """Where no rectifier lies below and none is a module, the net is run to its end to look for one: not on a crop."""
    model = seeded(lambda: Functions())
    images = pictures(2, 3, 30, 30)
    for _ in range(2):
        found = attribkit.explain(model, images, layer="conv1", channel=1, at=(10, 12))
        assert found.note is not None
        assert_close(found.values, maps_by_oracle(model, images, wanted_of(found.units), "guided", "conv1"))


class Functions(nn.Module):
    """All rectifiers are functions, and the head takes one size of image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4 * 26 * 26, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv2(F.relu(self.conv1(x)))).flatten(1))


class Bright(nn.Module):
    """Subtracts the mean of images that are bright, through which no gradient goes: noise does not show it."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.detach().mean((1, 2, 3), keepdim=True)
        return x - torch.where(mean > 3, mean, 0)


def test_crops_that_give_something_else_are_not_tried_again() -> None:
    """What noise has not shown the first images do: from then on they are explained whole."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Bright(), nn.ReLU(), nn.Conv2d(4, 4, 3)).double()
    with torch.no_grad():
        model[0].weight.abs_()  # type: ignore[operator,union-attr]
    images = pictures(2, 3, 40, 40) + 20
    images[:, :, :10, :10] = 0
    passes = Passes(model[0])
    explainer = attribkit.Explainer(model, layer="3")
    for turn in range(3):
        passes.clear()
        found = explainer(images, channel=1, at=(3, 30))
        if turn:
            assert passes.with_gradient == [(2, 3, 40, 40)]
        assert_close(found.values, maps_by_oracle(model, images, wanted_of(found.units), "guided", "3"))


# Maps of known units -----------------------------------------------------------------------------------------


def test_maps_of_one_known_unit_per_image() -> None:
    """Each image's own channel and position; of a logit, and of a whole channel, without one."""
    model, images = classifier(), images_for_classifier()
    units = [Unit(0, "conv2", 3, (1, 2), 0.0), Unit(1, "conv2", 0, (5, 4), 0.0), Unit(2, "conv2", 7, (0, 0), 0.0)]
    for positions in (True, False):
        asked = [Unit(u.image, u.layer, u.channel, u.position if positions else None, 0.0) for u in units]
        wanted = wanted_of(asked)
        maps = attribkit.Explainer(model, RULES, layer="conv2").maps(images, asked)
        assert list(maps) == RULES
        for rule in RULES:
            assert_close(maps[rule], maps_by_oracle(model, images, wanted, rule, "conv2"))
    maps = attribkit.Explainer(model).maps(images, [Unit(i, None, c, None, 0.0) for i, c in enumerate((4, 1, 0))])
    wanted = [(0, 4, None), (1, 1, None), (2, 0, None)]
    assert_close(maps["guided"], maps_by_oracle(model, images, wanted, "guided"))


def test_maps_of_known_units_on_crops() -> None:
    model, images = dense_stack(), pictures(2, 3, 40, 40)
    units = [Unit(0, "2", 3, (11, 12), 0.0), Unit(1, "2", 0, (39, 0), 0.0)]
    explainer = attribkit.Explainer(model, layer="2")
    for _ in range(2):
        expected = maps_by_oracle(model, images, wanted_of(units), "guided", "2")
        assert_close(explainer.maps(images, units)["guided"], expected)


# Results of a batch, image by image --------------------------------------------------------------------------


def test_a_batch_taken_apart() -> None:
    """The results of one image are those of the image alone."""
    model, images = classifier(), images_for_classifier()
    together = attribkit.explain(model, images, layer="conv2", channels=[4, 1])
    for number in range(3):
        one = together.of_image(number)
        alone = attribkit.explain(model, images[number : number + 1], layer="conv2", channels=[4, 1])
        assert wanted_of(one.units) == wanted_of(alone.units)
        assert_close(one.values, alone.values)
        assert one.manifest().keys() == alone.manifest().keys()


# Models that change ------------------------------------------------------------------------------------------


class Settings:
    """An object that holds a setting."""

    def __init__(self) -> None:
        self.scale, self.more = 1.0, {"shift": [0.0]}


class Changing(nn.Module):
    """A net with a bit of everything that can be changed from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu, self.middle = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1)
        self.norm, self.settings, self.slope = nn.BatchNorm2d(4), Settings(), 0.1
        self.conv2 = nn.Conv2d(4, 3, 3, padding=1)
        self.blocks = [nn.ReLU()]
        self.table = {"act": F.relu}
        self.register_buffer("mask", torch.ones(4, 1, 1))
        self.held = torch.ones(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv1(x))
        x = self.relu(x) * self.mask * self.held + self.blocks[0](x - 0.2)
        x = self.middle(x * self.settings.scale + self.settings.more["shift"][0])
        return self.conv2(self.table["act"](x - self.slope))


def weight_in_place(model: Any) -> None:
    with torch.no_grad():
        model.conv1.weight.mul_(-1)


def weight_data(model: Any) -> None:
    model.conv1.weight.data = -model.conv1.weight.data


def weight_data_in_place(model: Any) -> None:
    model.conv1.weight.data.mul_(-1)


def weight_anew(model: Any) -> None:
    model.conv1.weight = nn.Parameter(-model.conv1.weight.detach())


def weight_transposed(model: Any) -> None:
    model.conv1.weight.data = model.conv1.weight.data.transpose(2, 3)


def loaded(model: Any) -> None:
    state = copy.deepcopy(model.state_dict())
    state["conv1.weight"].mul_(-1)
    model.load_state_dict(state)


def assigned(model: Any) -> None:
    state = copy.deepcopy(model.state_dict())
    state["conv1.weight"].mul_(-1)
    model.load_state_dict(state, assign=True)


def trained(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    model.train()(torch.ones(2, 3, 8, 8, dtype=torch.float64)).sum().backward()
    optimizer.step()


def statistics(model: Any) -> None:
    model.norm.running_mean.sub_(0.5)


def statistics_anew(model: Any) -> None:
    model.norm.running_mean = model.norm.running_mean - 0.5


def buffer_in_place(model: Any) -> None:
    model.mask[0] = 0


def buffer_data_in_place(model: Any) -> None:
    model.mask.data[0] = 0


def buffer_anew(model: Any) -> None:
    model.mask = torch.tensor([0.0, 1, 1, 1], dtype=torch.float64).reshape(4, 1, 1)


def held_tensor_anew(model: Any) -> None:
    model.held = torch.tensor([0.0, 1, 1, 1]).reshape(4, 1, 1)


def held_tensor_in_place(model: Any) -> None:
    model.held[0] = 0


def a_layer(model: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model.conv1 = nn.Conv2d(3, 4, 3, padding=1).double()


def an_activation(model: Any) -> None:
    model.relu = nn.LeakyReLU(0.3)


def an_activation_in_a_list(model: Any) -> None:
    model.blocks[0] = nn.LeakyReLU(0.3)


def a_function_in_a_table(model: Any) -> None:
    model.table["act"] = F.leaky_relu


def a_stride(model: Any) -> None:
    model.conv1.dilation, model.conv1.padding = (2, 2), (2, 2)


def a_number(model: Any) -> None:
    model.slope = -0.5


def a_number_in_an_object(model: Any) -> None:
    model.settings.scale = 3.0


def a_number_deep_in_an_object(model: Any) -> None:
    model.settings.more["shift"][0] = 0.3


def a_hook(model: Any) -> None:
    model.conv1.register_forward_hook(lambda module, args, output: output * 2)


def a_hook_before(model: Any) -> None:
    model.conv2.register_forward_pre_hook(lambda module, args: (args[0] * 2,))


def another_forward(model: Any) -> None:
    model.relu.forward = lambda x: x


def single_precision(model: Any) -> None:
    model.float()
    model.held = model.held.float()


CHANGES = [
    *(weight_in_place, weight_data, weight_data_in_place, weight_anew, weight_transposed, loaded, assigned, trained),
    *(statistics, statistics_anew, buffer_in_place, buffer_data_in_place, buffer_anew),
    *(held_tensor_anew, held_tensor_in_place, a_layer, an_activation, an_activation_in_a_list, a_function_in_a_table),
    *(a_stride, a_number, a_number_in_an_object, a_number_deep_in_an_object),
    *(a_hook, a_hook_before, another_forward, single_precision),
]
IN_PLACE = {weight_in_place, weight_data_in_place, trained, statistics, buffer_data_in_place}


@pytest.mark.parametrize("made", [{}, {"layer": "conv2"}], ids=str)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_noticed(change: Callable[[Any], None], made: dict[str, Any], rewrites: list[nn.Module]) -> None:
    """The next answer is what an explainer that is made after the change gives; weights alone need no new net."""
    model, images = seeded(Changing), pictures(2, 3, 16, 16)
    explainer = attribkit.Explainer(model, RULES, **made)
    before = explainer(images, at=(8, 8))
    change(model)
    images = images.float() if change is single_precision else images
    rewrites.clear()
    after = explainer(images, at=(8, 8))
    assert len(rewrites) == (0 if change in IN_PLACE else 1)
    expected = attribkit.Explainer(copy.deepcopy(model), RULES, **made)(images, at=(8, 8))
    tolerance = 1e-5 if change is single_precision else 1e-9
    for rule in RULES:
        assert wanted_of(after[rule].units) == wanted_of(expected[rule].units)
        assert_close(after[rule].values, expected[rule].values, tolerance)
    if change is not single_precision:
        assert not all(torch.equal(before[rule].values, after[rule].values) for rule in RULES)
    # And nothing is made anew for as long as nothing changes.
    rewrites.clear()
    explainer(images, at=(8, 8))
    assert rewrites == []


@pytest.mark.parametrize("change", [lambda m: m.train(), lambda m: m.requires_grad_(False), lambda m: m.zero_grad()])
def test_what_matters_to_no_map_makes_nothing_anew(change: Callable[[Any], None], rewrites: list[nn.Module]) -> None:
    """Modes, gradients and what needs them."""
    model, images = seeded(Changing).eval(), pictures(2, 3, 16, 16)
    model(images).sum().backward()
    explainer = attribkit.Explainer(model)
    before = explainer(images).values
    change(model)
    assert torch.equal(explainer(images).values, before)
    assert len(rewrites) == 1


def test_a_layer_that_is_gone_is_named() -> None:
    """An explainer whose layer was taken away says so at the next question."""
    model, images = plain_stack(), pictures(1, 3, 12, 12)
    explainer = attribkit.Explainer(model, layer="4")
    explainer(images)
    del model[4]
    with pytest.raises(ValueError, match=r"no layer '4' in Sequential"):
        explainer(images)


def test_an_explainer_leaves_the_model_as_it_was() -> None:
    model, images = classifier(), images_for_classifier()
    before, kept = state_digest(model), images.clone()
    explainer = attribkit.Explainer(model, RULES, layer="conv2")
    assert state_digest(model) == before
    for _ in range(2):
        explainer(images, channels=[1, 2])
    assert state_digest(model) == before
    assert torch.equal(images, kept)


# Threads -----------------------------------------------------------------------------------------------------


class Trained(nn.Module):
    """Whose forward pass is met by a step of training half way, as another thread might take it just then."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        if STEPS:
            thread = threading.Thread(target=STEPS.pop())
            thread.start()
            thread.join()
        return self.second(x).relu()


STEPS: list[Callable[[], object]] = []


@pytest.mark.parametrize("weight", ["first.weight", "second.bias"])
def test_a_map_of_two_states_of_a_model_is_refused(weight: str) -> None:
    model, x = seeded(Trained), pictures(1, 1, 8, 8)
    explainer = attribkit.Explainer(model)
    before = explainer(x)
    STEPS.append(lambda: model.get_parameter(weight).detach().mul_(2))
    with pytest.raises(ModelChanged, match="the weights of Trained changed while it was explained: ask again"):
        explainer(x)
    assert explainer(x).units[0].activation != before.units[0].activation
    assert torch.equal(explainer(x).values, attribkit.explain(model, x).values)


def test_a_write_that_torch_does_not_count_is_seen_while_there_is_another_thread() -> None:
    """As optimizers write that go through `.data`."""
    model, x = seeded(Trained), pictures(1, 1, 8, 8)
    explainer, over = attribkit.Explainer(model), threading.Event()
    another = threading.Thread(target=over.wait)
    another.start()
    try:
        assert torch.equal(explainer(x).values, explainer(x).values)
        STEPS.append(lambda: model.second.weight.data.mul_(2))
        with pytest.raises(ModelChanged):
            explainer(x)
        assert torch.equal(explainer(x).values, attribkit.explain(model, x).values)
    finally:
        over.set()
        another.join()


@pytest.mark.parametrize(
    "weight",
    [
        torch.randn(4, 3, 2, 2),
        torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        torch.randn(1, 768),
        torch.randn(5, 1, 3).transpose(0, 1),
        torch.randn(6, dtype=torch.float64),
        torch.tensor(3),
        torch.tensor([True, False]),
        torch.randn(2, 2).half(),
        torch.randn(4, 1, 1, 1).expand(4, 3, 2, 2),
        torch.full((2,), torch.nan),
    ],
    ids=lambda weight: f"{weight.dtype} {tuple(weight.shape)}",
)
def test_weights_of_every_kind_are_watched_while_there_is_another_thread(weight: Tensor) -> None:
    (before,) = samples([weight])
    assert torch.equal(before, samples([weight])[0])
    weight.data.fill_(not weight.flatten()[0]) if weight.dtype == torch.bool else weight.data.fill_(7)
    assert not torch.equal(before, samples([weight])[0])


def test_what_has_no_values_here_is_not_watched() -> None:
    assert samples([torch.empty(4, 0), torch.empty(3, device="meta"), torch.eye(3).to_sparse()]) == []


@pytest.mark.parametrize("made", [{}, {"layer": "conv2"}, {"layer": "relu1"}], ids=str)
def test_four_threads_and_several_shapes(made: dict[str, Any]) -> None:
    """One explainer, asked at the same time about images of several sizes, gives each exactly what it gives alone."""
    model = seeded(AnySize)
    questions = [pictures(1 + n % 3, 3, 14 + 4 * (n % 4), 12 + 2 * (n % 5), seed=n) for n in range(24)]
    alone = attribkit.Explainer(model, RULES, **made)
    expected = [alone(images) for images in questions]
    explainer = attribkit.Explainer(model, RULES, **made)
    together = threading.Barrier(4)

    def ask(numbers: range) -> list[tuple[int, Any]]:
        together.wait()
        return [(number, explainer(questions[number])) for number in numbers]

    with ThreadPoolExecutor(4) as pool:
        answers = [pair for part in pool.map(ask, [range(turn, 24, 4) for turn in range(4)]) for pair in part]
    assert len(answers) == 24
    for number, found in answers:
        for rule in RULES:
            assert found[rule].units == expected[number][rule].units
            assert found[rule].sites == expected[number][rule].sites
            assert torch.equal(found[rule].values, expected[number][rule].values)


class AnySize(Classifier):
    """The classifier for images of any size, with a ReLU that serves twice."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return self.fc2(self.relu1(self.fc1(F.adaptive_avg_pool2d(x, (6, 5)).flatten(1))))


def test_a_net_for_each_thread_and_no_more(rewrites: list[nn.Module]) -> None:
    """Those who ask at the same time have a net each; who asks later takes one that is idle."""
    model, images = dense_stack(), pictures(1, 3, 12, 12)
    inside = threading.Barrier(3)
    model[0].register_forward_hook(lambda *_: (inside.wait(60), None)[1])  # type: ignore[index]
    explainer = attribkit.Explainer(model)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(explainer, [images] * 3))
        assert len(rewrites) == 3
        list(pool.map(explainer, [images] * 3))
    assert len(rewrites) == 3


# Precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked", [{}, {"layer": "2", "channel": 1, "at": (10, 11)}, {"layer": "2", "channel": 3}], ids=str
)
def test_bfloat16_is_near_and_comes_back_in_the_type_of_the_images(asked: dict[str, Any]) -> None:
    """Forwards and backwards in bfloat16; the settings say so."""
    model, images = dense_stack().float(), pictures(2, 3, 22, 24).float()
    made = {"layer": asked.pop("layer")} if "layer" in asked else {}
    exact = attribkit.Explainer(model, RULES, **made)
    coarse = attribkit.Explainer(model, RULES, **made, precision="bfloat16")
    seen: list[torch.dtype] = []
    model[2].register_forward_hook(lambda module, args, output: seen.append(output.dtype))  # type: ignore[index]
    for _ in range(2):
        fine, rough = exact(images, **asked), coarse(images, **asked)
        for rule in RULES:
            assert rough[rule].values.dtype == torch.float32
            assert rough[rule].settings["precision"] == "bfloat16"
            assert "precision" not in fine[rule].settings
            error = (rough[rule].values - fine[rule].values).norm() / fine[rule].values.norm()
            assert 0 < error < 0.1
    assert {torch.bfloat16, torch.float32} <= set(seen)


def test_bfloat16_is_refused_where_it_would_do_nothing() -> None:
    """Autocast leaves float64 alone: that is said, not passed over."""
    with pytest.raises(TypeError, match=r"precision='bfloat16' needs images of float32, not of torch\.float64"):
        attribkit.explain(dense_stack(), pictures(1, 3, 12, 12), precision="bfloat16")


# Rules by part -----------------------------------------------------------------------------------------------


def test_a_method_by_part() -> None:
    """A mapping is one method, named after its parts; it may stand in a list with others."""
    model, images = plain_stack(), pictures(2, 3, 12, 12)
    parts = {"1": "backprop", "*": "guided"}
    found = attribkit.explain(model, images, parts)
    assert found.method == "1: backprop, *: guided"
    net = attribkit.rewrite(model, parts)
    x = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(x).flatten(1).max(1).values.sum(), x)
    assert_close(found.values, expected)
    several = attribkit.explain(model, images, ["guided", parts])
    assert list(several) == ["guided", "1: backprop, *: guided"]
    assert torch.equal(several["1: backprop, *: guided"].values, found.values)
    assert not torch.equal(several["guided"].values, found.values)


@pytest.mark.parametrize("methods", [{"13": "guided"}, [{"13": "guided"}, "backprop"]], ids=["one", "several"])
@pytest.mark.parametrize("layer", [None, "4"])
def test_a_part_that_is_not_there_is_refused(methods: Any, layer: str | None) -> None:
    """Also below a layer, and beside another method."""
    with pytest.raises(ValueError, match=r"no site matches the pattern '13' of the rule; the nearest: 3, 1"):
        attribkit.explain(plain_stack(), pictures(1, 3, 12, 12), methods, layer=layer)
