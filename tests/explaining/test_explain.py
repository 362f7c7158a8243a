"""`explain` against the oracle, on whole images and on the crops that units see; and facts that hold exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import Phase, assume, event, given, settings
from hypothesis import strategies as st
from oracles import attribution, copied, state_digest
from torch import Tensor, nn
from torch.nn import functional as F

import attribkit
from attribkit.explaining.windows import ReceptiveField
from attribkit.units import Unit

RULES = ["backprop", "deconvnet", "guided"]
Position = tuple[int, ...] | None
Wanted = tuple[int, int, Position]
Pick = Callable[[Any], Tensor]


# What is expected --------------------------------------------------------------------------------------------


class UpTo(nn.Module):
    """The first output of a layer, as it leaves that layer, whatever is done to it later."""

    def __init__(self, model: nn.Module, layer: str, pick: Pick) -> None:
        super().__init__()
        self.model, self.layer, self.pick = model, layer, pick

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        module = self.model.get_submodule(self.layer)
        handle = module.register_forward_hook(lambda m, args, output: kept.append(self.pick(output).clone()))
        try:
            self.model(x)
        finally:
            handle.remove()
        return kept[0]


class Picked(nn.Module):
    """A tensor of a model's output."""

    def __init__(self, model: nn.Module, pick: Pick) -> None:
        super().__init__()
        self.model, self.pick = model, pick

    def forward(self, x: Tensor) -> Tensor:
        return self.pick(self.model(x))


def the_output(output: Any) -> Tensor:
    """An output that is a tensor already."""
    return output


def explained_part(model: nn.Module, layer: str | None, pick: Pick = the_output) -> nn.Module:
    """What is explained, as a model of its own."""
    return Picked(model, pick) if layer is None else UpTo(model, layer, pick)


def maps_by_oracle(
    model: nn.Module,
    images: Tensor,
    wanted: Sequence[Wanted],
    rule: str,
    layer: str | None = None,
    pick: Pick = the_output,
    **options: Any,
) -> Tensor:
    """One map for each (image, channel, position); without a position it is the whole channel, or a logit."""
    part, maps = explained_part(model, layer, pick), []
    for image, channel, position in wanted:

        def unit(output: Tensor, where: Any = (image, channel, *(position or ()))) -> Tensor:
            return output[where].sum()

        maps.append(attribution(part, images, unit, rule, **options)[image])
    return torch.stack(maps)


def strongest(output: Tensor, channel: int | None = None) -> list[Wanted]:
    """For each image the channel and position of its largest value, by looking at every one."""
    found = []
    for image, values in enumerate(output.tolist()):
        cells = {
            (c, i, j): value
            for c, rows in enumerate(values)
            for i, row in enumerate(rows)
            for j, value in enumerate(row)
            if channel in (None, c)
        }
        c, i, j = max(cells, key=lambda cell: cells[cell])
        found.append((image, c, (i, j)))
    return found


def output_of(model: nn.Module, images: Tensor, layer: str | None = None, pick: Pick = the_output) -> Tensor:
    """The output of a layer or of the model, in eval mode, from an untouched copy."""
    return explained_part(copied(model).eval(), layer, pick)(images).detach()


def assert_close(found: Tensor, expected: Tensor, relative: float = 1e-9) -> None:
    """Equal to rounding, and not by being zero."""
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=relative * expected.abs().max().item())


def wanted_of(units: Sequence[Unit]) -> list[Wanted]:
    return [(unit.image, unit.channel, unit.position) for unit in units]


# Nets and images ---------------------------------------------------------------------------------------------


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A float64 net that is the same every time, in training mode as it is made."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().double()


def pictures(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Classifier(nn.Module):
    """Convolutions, pools, an in-place ReLU after conv1, dropout, batch norm and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True)
        self.pool1 = nn.MaxPool2d(3, 2, 1)
        self.conv2, self.norm2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop, self.fc1, self.fc2 = nn.Dropout(0.5), nn.Linear(8 * 6 * 5, 7), nn.Linear(7, 5)
        with torch.no_grad():
            self.norm2.running_mean.uniform_(-0.3, 0.3)
            self.norm2.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.drop(F.relu(self.norm2(self.conv2(x))))
        return self.fc2(self.drop(F.relu(self.fc1(x.flatten(1)))))


def classifier() -> nn.Module:
    return seeded(Classifier)


def images_for_classifier() -> Tensor:
    return pictures(3, 3, 12, 10, seed=5)


def plain_stack(seed: int = 0) -> nn.Sequential:
    """Three 3x3 convolutions: the last sees 7x7 pixels."""
    made = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3)
        ),
        seed,
    )
    assert isinstance(made, nn.Sequential)
    return made


# Classes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_predicted_class(rule: str) -> None:
    """Without target or layer each image's largest logit is explained."""
    model, images = classifier(), images_for_classifier()
    logits = output_of(model, images)
    wanted = [(i, int(row.argmax()), None) for i, row in enumerate(logits)]
    assert len({channel for _, channel, _ in wanted}) > 1
    found = attribkit.explain(model, images, rule)
    assert wanted_of(found.units) == wanted
    assert [unit.activation for unit in found.units] == pytest.approx(logits.amax(1).tolist())
    assert_close(found.values, maps_by_oracle(model, images, wanted, rule))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (2, [[2], [2], [2]]),
        (torch.tensor(2), [[2], [2], [2]]),
        ([4, 0, 1], [[4], [0], [1]]),
        ((4, 0, 1), [[4], [0], [1]]),
        (torch.tensor([4, 0, 1]), [[4], [0], [1]]),
    ],
    ids=["one", "tensor of one", "one each", "tuple", "tensor"],
)
def test_named_classes(target: Any, classes: list[list[int]], rule: str) -> None:
    """One class for all images, or one per image."""
    model, images = classifier(), images_for_classifier()
    wanted = [(image, channel, None) for image, row in enumerate(classes) for channel in row]
    found = attribkit.explain(model, images, rule, target=target)
    assert wanted_of(found.units) == wanted
    assert_close(found.values, maps_by_oracle(model, images, wanted, rule))


@pytest.mark.parametrize(
    ("targets", "classes"),
    [
        ([3, 1], [[3, 1], [3, 1], [3, 1]]),
        ((3,), [[3], [3], [3]]),
        (torch.tensor([3, 1, 0]), [[3, 1, 0], [3, 1, 0], [3, 1, 0]]),
        (torch.tensor([[0, 3], [4, 1], [2, 2]]), [[0, 3], [4, 1], [2, 2]]),
        ([[0, 3], [4, 1], [2, 2]], [[0, 3], [4, 1], [2, 2]]),
        ([[3, 1, 0]], [[3, 1, 0], [3, 1, 0], [3, 1, 0]]),
    ],
    ids=["list", "tuple", "tensor", "NxK tensor", "NxK lists", "1xK"],
)
def test_several_classes_of_every_image(targets: Any, classes: list[list[int]]) -> None:
    """A flat list for all images, as long as it likes to be, or a list for each: maps come image by image."""
    model, images = classifier(), images_for_classifier()
    wanted = [(image, channel, None) for image, row in enumerate(classes) for channel in row]
    found = attribkit.explain(model, images, targets=targets)
    assert wanted_of(found.units) == wanted
    assert_close(found.values, maps_by_oracle(model, images, wanted, "guided"))


def test_several_classes_of_one_image() -> None:
    """K classes of one image cost one forward pass."""
    model, images = classifier(), images_for_classifier()[:1]
    passes: list[int] = []
    model.conv1.register_forward_hook(lambda *_: passes.append(1))  # type: ignore[union-attr,operator]
    found = attribkit.explain(model, images, targets=[0, 1, 2, 3, 4])
    assert len(passes) == 1
    wanted = [(0, channel, None) for channel in range(5)]
    assert_close(found.values, maps_by_oracle(model, images, wanted, "guided"))


def test_maps_of_a_dense_output_have_positions() -> None:
    """A net whose output is a map has units with positions, without a layer too."""
    model, images = plain_stack(), pictures(2, 3, 9, 11)
    wanted = strongest(output_of(model, images))
    found = attribkit.explain(model, images)
    assert wanted_of(found.units) == wanted
    assert_close(found.values, maps_by_oracle(model, images, wanted, "guided"))
    chosen = attribkit.explain(model, images, target=[1, 3], at=(2, -1))
    assert wanted_of(chosen.units) == [(0, 1, (2, 8)), (1, 3, (2, 8))]
    assert_close(chosen.values, maps_by_oracle(model, images, wanted_of(chosen.units), "guided"))


# Layers ------------------------------------------------------------------------------------------------------

LAYERS = ["conv1", "relu1", "pool1", "conv2", "norm2"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", LAYERS)
def test_strongest_unit_of_a_layer(layer: str, rule: str) -> None:
    """Without a channel the largest value of the whole layer is explained, for each image its own."""
    model, images = classifier(), images_for_classifier()
    output = output_of(model, images, layer)
    wanted = strongest(output)
    found = attribkit.explain(model, images, rule, layer=layer)
    assert wanted_of(found.units) == wanted
    assert [unit.activation for unit in found.units] == pytest.approx(output.amax((1, 2, 3)).tolist())
    assert {unit.layer for unit in found.units} == {layer}
    assert_close(found.values, maps_by_oracle(model, images, wanted, rule, layer))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", LAYERS)
def test_channels_of_a_layer(layer: str, rule: str) -> None:
    """A channel is explained where it is strongest; a list of channels is explained for every image."""
    model, images = classifier(), images_for_classifier()
    output = output_of(model, images, layer)
    one = attribkit.explain(model, images, rule, layer=layer, channel=4)
    assert wanted_of(one.units) == strongest(output, 4)
    assert_close(one.values, maps_by_oracle(model, images, strongest(output, 4), rule, layer))
    by_channel = [strongest(output, c) for c in (5, 0, 3)]
    wanted = [row[image] for image in range(3) for row in by_channel]
    several = attribkit.explain(model, images, rule, layer=layer, channels=[5, 0, 3])
    assert wanted_of(several.units) == wanted
    assert [u.activation for u in several.units] == pytest.approx([output[(i, c, *p)].item() for i, c, p in wanted])
    assert_close(several.values, maps_by_oracle(model, images, wanted, rule, layer))


WAYS = [
    *({"channel": way} for way in (1, torch.tensor(1), [1, 1, 1], (1, 1, 1), torch.tensor([1, 1, 1]))),
    *({"channels": way} for way in ([1], (1,), torch.tensor([1]), [[1], [1], [1]], torch.tensor([[1], [1], [1]]))),
]


@pytest.mark.parametrize("way", WAYS, ids=repr)
def test_ways_to_write_a_channel(way: Any) -> None:
    """A number, or a list of one per image; in the plural a list, or one for each image: all name the same channel."""
    model, images = classifier(), images_for_classifier()
    found = attribkit.explain(model, images, layer="conv2", **way)
    assert wanted_of(found.units) == strongest(output_of(model, images, "conv2"), 1)


def test_a_list_of_as_many_channels_as_images_is_one_per_image() -> None:
    """The singular is never several units of an image, whatever the length of its list."""
    model, images = classifier(), images_for_classifier()
    found = attribkit.explain(model, images, layer="conv2", channel=[5, 0, 3], at=(2, 2))
    assert wanted_of(found.units) == [(0, 5, (2, 2)), (1, 0, (2, 2)), (2, 3, (2, 2))]


def test_another_channel_for_each_image() -> None:
    """An N x K tensor of channels names those of each image."""
    model, images = classifier(), images_for_classifier()
    found = attribkit.explain(model, images, layer="conv2", channels=torch.tensor([[1, 2], [0, 7], [3, 3]]), at=(2, 2))
    wanted = [(i, c, (2, 2)) for i, row in enumerate([[1, 2], [0, 7], [3, 3]]) for c in row]
    assert wanted_of(found.units) == wanted
    assert_close(found.values, maps_by_oracle(model, images, wanted, "guided", "conv2"))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("at", "position"), [((1, 3), (1, 3)), ([0, 0], (0, 0)), ((-1, -2), (5, 3)), ((-6, 4), (0, 4))]
)
def test_position(at: Any, position: tuple[int, int], rule: str) -> None:
    """A position is taken as given, from the end where negative; of all channels there the strongest."""
    model, images = classifier(), images_for_classifier()
    output = output_of(model, images, "conv2")
    found = attribkit.explain(model, images, rule, layer="conv2", channels=[2, 6], at=at)
    wanted = [(image, channel, position) for image in range(3) for channel in (2, 6)]
    assert wanted_of(found.units) == wanted
    assert [u.activation for u in found.units] == pytest.approx(
        [output[(i, c, *position)].item() for i, c, _ in wanted]
    )
    assert_close(found.values, maps_by_oracle(model, images, wanted, rule, "conv2"))
    best = attribkit.explain(model, images, rule, layer="conv2", at=at)
    wanted = [(i, int(output[(i, slice(None), *position)].argmax()), position) for i in range(3)]
    assert wanted_of(best.units) == wanted
    assert_close(best.values, maps_by_oracle(model, images, wanted, rule, "conv2"))


@pytest.mark.parametrize("rule", RULES)
def test_whole_channel(rule: str) -> None:
    """at="all" explains the sum of a channel over all positions; its activation is that sum, its box the image."""
    model, images = classifier(), images_for_classifier()
    output = output_of(model, images, "conv2")
    found = attribkit.explain(model, images, rule, layer="conv2", channels=[0, 5], at="all")
    wanted = [(image, channel, None) for image in range(3) for channel in (0, 5)]
    assert wanted_of(found.units) == wanted
    assert [u.activation for u in found.units] == pytest.approx([output[i, c].sum().item() for i, c, _ in wanted])
    assert {unit.box for unit in found.units} == {(0, 0, 12, 10)}
    assert_close(found.values, maps_by_oracle(model, images, wanted, rule, "conv2"))
    best = attribkit.explain(model, images, rule, layer="conv2", at="all")
    assert [unit.channel for unit in best.units] == [c for _, c, _ in strongest(output)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", ["fc1", "fc2"])
def test_linear_layers(layer: str, rule: str) -> None:
    """The units of a linear layer are channels without positions; they see the whole image."""
    model, images = classifier(), images_for_classifier()
    output = output_of(model, images, layer)
    found = attribkit.explain(model, images, rule, layer=layer)
    wanted = [(i, int(row.argmax()), None) for i, row in enumerate(output)]
    assert wanted_of(found.units) == wanted
    assert {unit.box for unit in found.units} == {(0, 0, 12, 10)}
    assert_close(found.values, maps_by_oracle(model, images, wanted, rule, layer))
    two = attribkit.explain(model, images, rule, layer=layer, channels=[1, 4])
    wanted = [(image, channel, None) for image in range(3) for channel in (1, 4)]
    assert wanted_of(two.units) == wanted
    assert_close(two.values, maps_by_oracle(model, images, wanted, rule, layer))


@pytest.mark.parametrize("rule", RULES)
def test_images_without_rows(rule: str) -> None:
    """A net of linear layers on N x F inputs is explained like any other, its logits and its layers."""
    model = seeded(lambda: nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    images = pictures(2, 8)
    found = attribkit.explain(model, images, rule, target=1)
    assert_close(found.values, maps_by_oracle(model, images, [(0, 1, None), (1, 1, None)], rule))
    found = attribkit.explain(model, images, rule, layer="2", channel=3)
    assert_close(found.values, maps_by_oracle(model, images, [(0, 3, None), (1, 3, None)], rule, "2"))


class Twice(nn.Module):
    """One convolution called in a row, and a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.never = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.again(F.relu(self.again(x)))


@pytest.mark.parametrize("rule", RULES)
def test_layer_that_is_reached_twice(rule: str) -> None:
    """The first call of a layer is the one explained."""
    model, images = seeded(Twice), pictures(2, 3, 9, 9)
    found = attribkit.explain(model, images, rule, layer="again")
    wanted = strongest(output_of(model, images, "again"))
    assert wanted_of(found.units) == wanted
    assert_close(found.values, maps_by_oracle(model, images, wanted, rule, "again"))


def test_layer_that_is_never_reached() -> None:
    """A layer that forward does not call is an error that says so."""
    with pytest.raises(ValueError, match=r"'never' was never reached"):
        attribkit.explain(seeded(Twice), pictures(1, 3, 9, 9), layer="never")


@pytest.mark.parametrize("rule", RULES)
def test_what_comes_after_the_layer_does_not_count(rule: str) -> None:
    """The forward pass stops at the layer, so an in-place ReLU right after it cannot change the unit.

    The first question of all sends another one to the end, to see how many times the layer is called.
    """
    model, images = classifier(), images_for_classifier()
    passed: list[str] = []
    for name, module in model.named_children():
        module.register_forward_hook(lambda *_, name=name: passed.append(name))
    # The weakest position of all: negative, so that the ReLU behind would make it zero.
    output = output_of(model, images, "conv1")
    assert (output[0, 0].min() < 0).item()
    position = tuple(int(i) for i in torch.unravel_index(output[0, 0].argmin(), output.shape[2:]))
    attribkit.explain(model, images[:1], rule, layer="conv1", channel=0, at=position)
    passed.clear()
    found = attribkit.explain(model, images[:1], rule, layer="conv1", channel=0, at=position)
    assert set(passed) == {"conv1"}
    assert found.units[0].activation == pytest.approx(output[0, 0].min().item())
    # The rules do not matter to a first convolution: its map is its kernel, laid out.
    assert_close(found.values, maps_by_oracle(model, images[:1], [(0, 0, position)], rule, "conv1"))


def test_a_sequential_is_a_layer_too() -> None:
    """A container's output is explained like a layer's."""
    model, images = nn.Sequential(plain_stack(), nn.ReLU()).double(), pictures(2, 3, 12, 12)
    wanted = strongest(output_of(model, images, "0"))
    found = attribkit.explain(model, images, layer="0")
    assert wanted_of(found.units) == wanted
    assert_close(found.values, maps_by_oracle(model, images, wanted, "guided", "0"))


@pytest.mark.parametrize("rule", RULES)
def test_other_numbers_of_dimensions(rule: str) -> None:
    """Nets over sequences and volumes are explained as those over images are."""
    line = seeded(lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 3, 3)))
    images = pictures(2, 2, 40)
    found = attribkit.explain(line, images, rule, layer="3", channels=[0, 2], at=(7,))
    wanted = [(image, channel, (7,)) for image in range(2) for channel in (0, 2)]
    assert wanted_of(found.units) == wanted
    assert [unit.box for unit in found.units] == [(14, 22)] * 4
    assert_close(found.values, maps_by_oracle(line, images, wanted, rule, "3"))
    solid = seeded(lambda: nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv3d(3, 2, 3, padding=1)))
    images = pictures(1, 1, 8, 10, 9)
    found = attribkit.explain(solid, images, rule, layer="2", channel=1, at=(0, 5, 8))
    assert found.units[0].box == (0, 3, 6, 3, 8, 9)
    assert_close(found.values, maps_by_oracle(solid, images, [(0, 1, (0, 5, 8))], rule, "2"))


# Outputs that are no tensor ----------------------------------------------------------------------------------


class Detector(nn.Module):
    """A backbone that gives a tuple of maps, under a model that gives a dict."""

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            fine = F.relu(self.one(x))
            return fine, self.two(fine)

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = self.Backbone(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        fine, coarse = self.backbone(x)
        return {"logits": self.head(F.relu(coarse).mean((2, 3))), "maps": (fine, coarse)}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("layer", "pick"),
    [
        (None, lambda output: output["logits"]),
        (None, lambda output: output["maps"][1]),
        ("backbone", lambda output: output[0]),
        ("backbone", lambda output: output[1]),
    ],
    ids=["logits", "a map", "layer's first", "layer's second"],
)
def test_output_picks_a_tensor(layer: str | None, pick: Pick, rule: str) -> None:
    """`output` picks what is explained from a model's or a layer's tuple or dict."""
    model, images = seeded(Detector), pictures(2, 3, 20, 18)
    output = output_of(model, images, layer, pick)
    wanted = strongest(output) if output.dim() == 4 else [(i, int(row.argmax()), None) for i, row in enumerate(output)]
    found = attribkit.explain(model, images, rule, layer=layer, output=pick)
    assert wanted_of(found.units) == wanted
    assert_close(found.values, maps_by_oracle(model, images, wanted, rule, layer, pick))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "pick",
    [
        lambda y: y.mean((2, 3)),
        lambda y: y.flip(3),
        lambda y: y[:, :, 4:, 6:],
        lambda y: y[:, :, ::2, ::2],
        lambda y: y.transpose(2, 3),
        lambda y: y - y.mean((2, 3), keepdim=True),
        lambda y: y.softmax(1),
    ],
    ids=["mean", "flip", "shift", "every other", "transpose", "centred", "softmax"],
)
def test_output_computes_on_a_layer(pick: Pick, rule: str) -> None:
    """What `output` makes of a layer's map is explained: its positions and its reach, not those of the layer."""
    model, images = plain_stack(), pictures(2, 3, 24, 24)
    output = output_of(model, images, "2", pick)
    at: Any = "max" if output.dim() == 2 else (5, 7)
    wanted = [(i, 3, None if output.dim() == 2 else (5, 7)) for i in range(2)]
    found = attribkit.explain(model, images, rule, layer="2", channel=3, at=at, output=pick)
    assert wanted_of(found.units) == wanted
    expected = maps_by_oracle(model, images, wanted, rule, "2", pick)
    assert_close(found.values, expected)
    for unit, values in zip(found.units, expected, strict=True):
        assert_seen_only_in_box(values, unit)


def assert_seen_only_in_box(values: Tensor, unit: Unit) -> None:
    """A unit's map is zero outside of its box."""
    assert unit.box is not None
    top, left, bottom, right = unit.box
    outside = values.clone()
    outside[:, top:bottom, left:right] = 0
    assert outside.abs().max() <= 1e-12 * values.abs().max()


def test_an_output_that_is_no_tensor_needs_output() -> None:
    """Without `output` a dict or a tuple is an error that names its type and the argument."""
    model, images = seeded(Detector), pictures(1, 3, 20, 18)
    with pytest.raises(TypeError, match=r"a dict; pass output="):
        attribkit.explain(model, images)
    with pytest.raises(TypeError, match=r"a tuple; pass output="):
        attribkit.explain(model, images, layer="backbone")


@pytest.mark.parametrize(
    "pick",
    [lambda output: output["logits"].argmax(1), lambda output: output["logits"].mean()],
    ids=["whole numbers", "a scalar"],
)
def test_an_output_that_cannot_be_explained(pick: Pick) -> None:
    """What is not a float tensor of images x channels is refused with its shape and type."""
    with pytest.raises(TypeError, match=r"cannot explain an output of shape"):
        attribkit.explain(seeded(Detector), pictures(2, 3, 20, 18), output=pick)


# Methods -----------------------------------------------------------------------------------------------------


class WithNorm(nn.Module):
    """LRN, which the deconvnet passes by and guided backprop does not, amid pools of two kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.pool, self.fc = nn.LocalResponseNorm(3, alpha=0.5), nn.MaxPool2d(3, 2), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.norm(F.relu(self.conv1(x))))
        return self.fc(F.relu(self.conv2(x)).amax((2, 3)))


OWN_RULE = attribkit.Rule("absolute", function=lambda signal, gate: signal.abs() * gate)
TARGETS: dict[str, dict[str, Any]] = {
    "predicted": {},
    "classes": {"targets": [[0, 3], [1, 2]]},
    "units": {"layer": "conv2", "channels": [0, 5], "at": (1, 2)},
    "channel": {"layer": "conv2", "channel": 2, "at": "all"},
}


@pytest.mark.parametrize("options", TARGETS.values(), ids=TARGETS)
def test_several_methods_at_once(options: dict[str, Any]) -> None:
    """Methods that share a forward pass give, in their order, what each gives alone."""
    model, images = seeded(WithNorm), pictures(2, 3, 11, 11)
    methods = ["guided", OWN_RULE, "backprop", "deconvnet"]
    together = attribkit.explain(model, images, methods, **options)
    assert list(together) == ["guided", "absolute", "backprop", "deconvnet"]
    for method, found in zip(methods, together.values(), strict=True):
        alone = attribkit.explain(model, images, method, **options)
        assert found.method == alone.method
        assert found.units == alone.units
        assert torch.equal(found.values, alone.values)
    assert len({found.values.sum().item() for found in together.values()}) == 4


def test_several_methods_share_one_forward_pass() -> None:
    """Three methods and K classes cost one forward pass."""
    model, images = classifier(), images_for_classifier()
    passes: list[int] = []
    model.conv1.register_forward_hook(lambda *_: passes.append(1))  # type: ignore[union-attr,operator]
    attribkit.explain(model, images, RULES, targets=[[0, 1, 2]])
    assert len(passes) == 1


def test_one_method_in_a_list_gives_a_dict() -> None:
    """A list always gives a dict by name, a name always an Attribution."""
    model, images = plain_stack(), pictures(1, 3, 9, 9)
    found = attribkit.explain(model, images, ["deconvnet"])
    assert isinstance(found, dict)
    assert torch.equal(found["deconvnet"].values, attribkit.explain(model, images, "deconvnet").values)


def absolute(signal: Tensor, gate: Tensor) -> Tensor:
    return signal.abs() * gate


@pytest.mark.parametrize("method", [absolute, attribkit.Rule("absolute", function=absolute)], ids=["function", "Rule"])
def test_a_rule_of_ones_own(method: Any) -> None:
    """A function of (signal, gate), bare or in a Rule, is the method, under its own name."""
    model, images = plain_stack(), pictures(1, 3, 9, 9)
    found = attribkit.explain(model, images, method, target=1, at=(3, 3))
    assert found.method == "absolute"
    first, second, third = (model[i] for i in (0, 2, 4))
    hidden1 = first(images)
    hidden2 = second(F.relu(hidden1))
    signal = torch.zeros(1, 4, 7, 7, dtype=torch.float64)
    signal[0, 1, 3, 3] = 1
    signal = F.conv_transpose2d(signal, third.weight).abs() * (hidden2 > 0)
    signal = F.conv_transpose2d(signal, second.weight, padding=1).abs() * (hidden1 > 0)
    assert_close(found.values, F.conv_transpose2d(signal, first.weight, padding=1).detach())


def test_two_booleans_are_a_rule() -> None:
    """A Rule of the guided row's booleans is guided backprop under another name."""
    model, images = classifier(), images_for_classifier()
    mine = attribkit.explain(model, images, attribkit.Rule("mine", gate=True, rectify=True))
    assert mine.method == "mine"
    assert torch.equal(mine.values, attribkit.explain(model, images, "guided").values)


@pytest.mark.parametrize(
    "methods",
    [
        ["guided", "guided"],
        [absolute, attribkit.Rule("absolute")],
        [lambda signal, gate: signal, lambda signal, gate: gate],
    ],
    ids=["same", "alike", "lambdas"],
)
def test_methods_need_names_of_their_own(methods: list[Any]) -> None:
    """Two methods of one name cannot be told apart in the result; the error says how to give them names."""
    with pytest.raises(ValueError, match=r"2 methods are called '(guided|absolute|<lambda>)'.*attribkit\.Rule\("):
        attribkit.explain(plain_stack(), pictures(1, 3, 9, 9), methods)


def test_lambdas_with_names() -> None:
    """What that error proposes works."""
    methods = [attribkit.Rule(name, function=lambda signal, gate: signal * gate) for name in ("one", "two")]
    assert list(attribkit.explain(plain_stack(), pictures(1, 3, 9, 9), methods)) == ["one", "two"]


def test_no_method_and_no_images() -> None:
    """An empty list of methods, or a batch of no images, is told in one line."""
    with pytest.raises(ValueError, match="at least one"):
        attribkit.explain(plain_stack(), pictures(1, 3, 9, 9), [])
    with pytest.raises(ValueError, match=r"nothing to explain in images of shape \(0, 3, 9, 9\)$"):
        attribkit.explain(plain_stack(), pictures(0, 3, 9, 9))


def test_a_layer_with_no_rectifier_below_says_so() -> None:
    """A guided map of the first convolution is a plain gradient, and is not passed off as more."""
    first = attribkit.explain(plain_stack(), pictures(1, 3, 9, 9), layer="0")
    assert first.note == "no rectifier lies below for the rule to act on: the map is the same as backprop's"
    assert first.manifest()["note"] == first.note
    assert f"0 of 0 sites swapped, not reached: {len(first.sites)}; {first.note})" in repr(first)
    plain = attribkit.explain(plain_stack(), pictures(1, 3, 9, 9), "backprop", layer="0")
    assert plain.note is None
    assert torch.equal(plain.values, first.values)
    assert attribkit.explain(plain_stack(), pictures(1, 3, 9, 9)).note is None


@pytest.mark.parametrize("act", [attribkit.explain, attribkit.rewrite])
def test_there_is_no_activations_everything(act: Callable[..., Any]) -> None:
    """Gates of squeeze-excite are swapped for probing only; nobody can ask for it."""
    with pytest.raises(ValueError, match="activations is one of 'rectifiers', 'all', not 'everything'"):
        act(*[plain_stack(), pictures(1, 3, 9, 9)][: 2 if act is attribkit.explain else 1], activations="everything")


def test_an_unknown_method() -> None:
    """A name that is no rule is refused with those that are."""
    with pytest.raises(ValueError, match=r"'gided'.*backprop, deconvnet, guided"):
        attribkit.explain(plain_stack(), pictures(1, 3, 9, 9), "gided")


# Calling it wrongly ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "conv22"}, r"no layer 'conv22' in Classifier; the nearest: conv2"),
        ({"layer": ""}, r"no layer ''"),
        ({"layer": "conv2", "channel": 8}, r"the layer 'conv2' has 8 channels, 0 to 7; there is no 8"),
        ({"layer": "conv2", "channels": [1, -1]}, r"0 to 7; there is no -1"),
        ({"layer": "conv2", "at": (6, 0)}, r"no position \(6, 0\) in a map of 6x5"),
        ({"layer": "conv2", "at": (0, -6)}, r"no position \(0, -6\) in a map of 6x5"),
        ({"layer": "conv2", "at": (1,)}, r"no position \(1,\) in a map of 6x5"),
        (
            {"layer": "conv2", "at": "middle"},
            r"at is 'max', 'inside', 'all' or a position such as \(4, 7\), not 'middle'",
        ),
        ({"layer": "fc1", "at": (0, 0)}, r"no position \(0, 0\) in a map of no positions"),
        ({"target": 5}, r"the model has 5 outputs, 0 to 4; there is no 5"),
        ({"target": [0, 1, 9]}, r"0 to 4; there is no 9"),
        ({"target": [0, 1]}, r"target=\[0, 1\] does not fit 3 images: .* targets= takes several for every image"),
        ({"layer": "conv2", "channel": [0, 1]}, r"one per image; channels= takes several for every image"),
        ({"layer": "conv2", "channel": [[0, 1]] * 3}, r"one per image; channels= takes several for every image"),
        (
            {"layer": "conv2", "channels": 1},
            r"channels= takes a list, such as channels=\[1\]; for a single one write channel=1",
        ),
        ({"layer": "conv2", "channels": [[1, 2]] * 2}, r"2 lists of channels do not fit 3 images"),
        ({"layer": "conv2", "channels": []}, r"1 lists of channels do not fit"),
        ({"layer": "conv2", "channel": 1, "channels": [1]}, r"channel= means one per image, channels= several"),
        ({"target": 1, "targets": [1]}, r"target= means one per image, targets= several"),
        ({"layer": "conv2", "targets": [1]}, r"with layer= write channel="),
        ({"channels": [1]}, r"channel goes with layer="),
        ({"precision": "float8"}, r"precision is 'bfloat16' or None, not 'float8'"),
        ({"channel": 1}, r"channel goes with layer=; for a class of the output write target="),
        ({"layer": "conv2", "target": 1}, r"target names a class of the output; with layer= write channel="),
        ({"switches": "mine"}, r"switches is one of"),
        ({"activations": "none"}, r"activations is one of"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    """What does not fit the model or the other arguments is a ValueError that says what would."""
    with pytest.raises(ValueError, match=message):
        attribkit.explain(classifier(), images_for_classifier(), **options)


@pytest.mark.parametrize("value", [1.0, True, [0.5], torch.tensor([1.0])], ids=repr)
def test_channels_are_whole_numbers(value: Any) -> None:
    """A channel or class that is no whole number is refused as such, not rounded."""
    with pytest.raises(TypeError, match="whole numbers"):
        attribkit.explain(classifier(), images_for_classifier(), layer="conv2", channel=value)
    with pytest.raises(TypeError, match="whole numbers"):
        attribkit.explain(classifier(), images_for_classifier(), target=value)


@pytest.mark.parametrize("value", [[], torch.tensor([], dtype=torch.long)], ids=["list", "tensor"])
def test_no_channels_at_all(value: Any) -> None:
    """An empty list of channels is refused."""
    with pytest.raises((TypeError, ValueError), match=r"channels|targets"):
        attribkit.explain(classifier(), images_for_classifier(), layer="conv2", channel=value)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 3, 12, 10, dtype=torch.uint8), torch.zeros(1, 3, 12, 10, dtype=torch.complex64), [[0.5]]],
    ids=["int", "complex", "no tensor"],
)
def test_images_of_another_type(images: Any) -> None:
    """Whole numbers, complex numbers and what is no tensor are refused with what was passed."""
    with pytest.raises(TypeError, match=r"not (torch\.uint8|torch\.complex64|list); preprocess"):
        attribkit.explain(classifier(), images)


@pytest.mark.parametrize("layer", [None, "conv2"])
def test_one_image_without_a_batch_dimension(layer: str | None) -> None:
    """C x H x W is refused with the way to write it; torch itself would take it for another thing."""
    with pytest.raises(ValueError, match=r"no batch dimension; write images\[None\]"):
        attribkit.explain(classifier(), images_for_classifier()[0], layer=layer)


class Detached(nn.Module):
    """Cuts the gradient in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.above = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.above(F.relu(self.below(x)).detach())


@pytest.mark.parametrize("layer", [None, "above"])
def test_a_model_that_detaches(layer: str | None) -> None:
    """Where no gradient reaches the images the error says so, for a layer as for a logit."""
    with pytest.raises(ValueError, match="no gradient reaches the images"):
        attribkit.explain(seeded(Detached), pictures(1, 3, 20, 20), layer=layer)


def test_nothing_to_rewrite() -> None:
    """A net without an activation has no guided backprop, whatever is asked of it; backprop it has."""
    model, images = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))), pictures(1, 3, 20, 20)
    with pytest.raises(attribkit.NothingToRewrite, match="guided rule"):
        attribkit.explain(model, images, "guided", layer="1")
    found = attribkit.explain(model, images, "backprop", target=1, at=(3, 3))
    assert_close(found.values, maps_by_oracle(model, images, [(0, 1, (3, 3))], "backprop"))


def test_backprop_of_a_layer_without_activations() -> None:
    """The gradient of a linear net's layer needs no activation."""
    model, images = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))), pictures(1, 3, 20, 20)
    found = attribkit.explain(model, images, "backprop", layer="1", channel=1, at=(3, 3))
    assert_close(found.values, maps_by_oracle(model, images, [(0, 1, (3, 3))], "backprop", "1"))


# Wrapped models ----------------------------------------------------------------------------------------------


WRAPPERS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "DataParallel": (nn.DataParallel, "module."),
    "torch.compile": (torch.compile, "_orig_mod."),  # type: ignore[dict-item]
    "rewritten": (attribkit.rewrite, "model."),
}


@pytest.mark.parametrize(("wrap", "prefix"), WRAPPERS.values(), ids=WRAPPERS)
def test_layers_of_a_wrapped_model(wrap: Callable[[nn.Module], nn.Module], prefix: str) -> None:
    """A wrapper that rewrite sees through has layers too, under the names that the error message offers."""
    model, images = plain_stack(), pictures(2, 3, 12, 12)
    wrapped = wrap(model)
    expected = attribkit.explain(model, images, "deconvnet", layer="4")
    with pytest.raises(ValueError, match="no layer '44'") as error:
        attribkit.explain(wrapped, images, "deconvnet", layer="44")
    name = f"{prefix}4" if f"{prefix}4" in str(error.value) else "4"
    found = attribkit.explain(wrapped, images, "deconvnet", layer=name)
    assert torch.equal(found.values, expected.values)


# Images of every kind, modes, types --------------------------------------------------------------------------

PLACES: dict[str, dict[str, Any]] = {
    "class": {"target": 1},
    "unit": {"layer": "2", "channels": [0, 3], "at": (10, 11)},
    "channel": {"layer": "2", "channels": [0, 3], "at": "all"},
}


def dense_stack() -> nn.Module:
    """The plain stack, and the mean of its map as logits."""
    return nn.Sequential(*plain_stack(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("options", PLACES.values(), ids=PLACES)
def test_images_that_require_grad(options: dict[str, Any]) -> None:
    """Images of the caller's that require a gradient get none, and the maps hang on no graph."""
    model, images = dense_stack(), pictures(2, 3, 22, 24)
    expected = attribkit.explain(model, images, **options).values
    leaf = images.clone().requires_grad_()
    for given_images in (leaf, leaf * 1):
        found = attribkit.explain(model, given_images, **options).values
        assert torch.equal(found, expected)
        assert not found.requires_grad
    assert leaf.grad is None
    assert leaf.requires_grad


@pytest.mark.parametrize("options", PLACES.values(), ids=PLACES)
def test_images_that_are_not_contiguous(options: dict[str, Any]) -> None:
    """However the images lie in memory, the maps are the same."""
    model, images = dense_stack(), pictures(2, 3, 22, 24)
    expected = attribkit.explain(model, images, **options).values
    layouts = {
        "channels last": images.contiguous(memory_format=torch.channels_last),
        "transposed": images.transpose(2, 3).contiguous().transpose(2, 3),
        "part of a larger one": F.pad(images, (3, 1, 2, 5))[:, :, 2:-5, 3:-1],
    }
    for layout in layouts.values():
        assert not layout.is_contiguous()
        assert_close(attribkit.explain(model, layout, **options).values, expected)
    same = images[:1].expand(2, -1, -1, -1)
    twice = attribkit.explain(model, same, **options).values
    assert_close(twice[: len(twice) // 2], expected[: len(twice) // 2])
    assert_close(twice[len(twice) // 2 :], expected[: len(twice) // 2])


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("options", PLACES.values(), ids=PLACES)
def test_types(options: dict[str, Any], dtype: torch.dtype, relative: float) -> None:
    """Maps have the type of the images, and the values of float64 as nearly as that type can hold them."""
    model, images = dense_stack(), pictures(2, 3, 22, 24)
    # Weights and pixels that bfloat16 holds exactly.
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().double()
    images = images.bfloat16().double()
    expected = attribkit.explain(model, images, "deconvnet", **options)
    found = attribkit.explain(model.to(dtype), images.to(dtype), "deconvnet", **options)
    assert found.values.dtype == dtype
    assert wanted_of(found.units) == wanted_of(expected.units)
    assert [unit.box for unit in found.units] == [unit.box for unit in expected.units]
    error = (found.values.double() - expected.values).norm() / expected.values.norm()
    assert expected.values.norm() > 0
    assert error <= relative


@pytest.mark.parametrize("options", PLACES.values(), ids=PLACES)
def test_under_no_grad(options: dict[str, Any]) -> None:
    """A caller who has switched gradients off gets the same maps, and finds them off afterwards."""
    model, images = dense_stack(), pictures(2, 3, 22, 24)
    expected = attribkit.explain(model, images, **options).values
    with torch.no_grad():
        found = attribkit.explain(dense_stack(), images, **options).values
        assert not torch.is_grad_enabled()
    assert torch.equal(found, expected)
    with torch.set_grad_enabled(False):
        attribkit.explain(model, images, **options)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("options", PLACES.values(), ids=PLACES)
def test_under_inference_mode(options: dict[str, Any]) -> None:
    """A caller in inference mode gets the same maps, and is in inference mode afterwards."""
    model, images = dense_stack(), pictures(2, 3, 22, 24)
    expected = attribkit.explain(model, images, **options).values
    with torch.inference_mode():
        found = attribkit.explain(model, images, **options).values
        assert torch.is_inference_mode_enabled()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("options", PLACES.values(), ids=PLACES)
def test_images_made_in_inference_mode(options: dict[str, Any]) -> None:
    """Images that come out of somebody's inference mode are images like others."""
    model, images = dense_stack(), pictures(2, 3, 22, 24)
    expected = attribkit.explain(model, images, **options).values
    with torch.inference_mode():
        made_there = images.clone()
    assert torch.equal(attribkit.explain(model, made_there, **options).values, expected)


@pytest.mark.parametrize("options", PLACES.values(), ids=PLACES)
def test_a_model_made_in_inference_mode(options: dict[str, Any]) -> None:
    """A model that was built or loaded in inference mode is explained like others, or refused with a reason."""
    images = pictures(2, 3, 22, 24)
    expected = attribkit.explain(dense_stack(), images, **options).values
    with torch.inference_mode():
        model = dense_stack()
    try:
        found = attribkit.explain(model, images, **options)
    except attribkit.CannotRewrite as refused:
        assert "inference" in str(refused)  # noqa: PT017 (either will do)
    else:
        assert torch.equal(found.values, expected)


@pytest.mark.parametrize(
    "options", [{}, {"target": 2}, {"layer": "conv2"}, {"layer": "norm2"}, {"layer": "fc1"}], ids=str
)
def test_training_mode_gives_what_eval_mode_gives(options: dict[str, Any]) -> None:
    """Dropout and batch statistics play no part, and the model stays in the mode that it was in."""
    images = images_for_classifier()
    training, evaluated = classifier().train(), classifier().eval()
    found, expected = (attribkit.explain(model, images, **options) for model in (training, evaluated))
    assert torch.equal(found.values, expected.values)
    assert found.units == expected.units
    assert training.training
    assert training.norm2.training
    assert not evaluated.training


# What belongs to the caller ----------------------------------------------------------------------------------


class Writes(nn.Module):
    """A net that writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2).sub_(0.1)
        return self.conv2(F.relu_(self.conv1(x))).mean((2, 3))


@pytest.mark.parametrize("options", [{}, {"layer": "conv2", "at": (3, 9)}, {"layer": "conv2", "at": "all"}], ids=str)
def test_a_net_that_writes_into_its_input(options: dict[str, Any]) -> None:
    """The caller's images stay as they were, and the map includes what the net does to them first."""
    model, images = seeded(Writes), pictures(2, 3, 20, 20)
    kept, version = images.clone(), images._version
    found = attribkit.explain(model, images, "deconvnet", **options)
    assert torch.equal(images, kept)
    assert images._version == version
    assert not images.requires_grad
    layer = options.get("layer")

    class Twin(Writes):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clone())

    twin = Twin().double()
    twin.load_state_dict(model.state_dict())
    assert_close(found.values, maps_by_oracle(twin, images, wanted_of(found.units), "deconvnet", layer))


EVERYTHING: list[dict[str, Any]] = [
    {},
    {"targets": [[0, 1], [2, 3], [4, 0]], "method": RULES},
    {"layer": "conv2", "channels": [0, 1]},
    {"layer": "conv1", "at": (6, 6)},
    {"layer": "conv1", "at": "all"},
    {"layer": "fc1", "switches": "uniform"},
]


@pytest.mark.parametrize("options", EVERYTHING, ids=str)
def test_the_model_stays_as_it_was(options: dict[str, Any]) -> None:
    """No tensor, gradient, hook, mode, class or attribute of the caller's model is touched."""
    model, images = classifier(), images_for_classifier()
    model.conv1.requires_grad_(False)  # type: ignore[union-attr]
    model.conv2.eval()  # type: ignore[union-attr]
    model(images).sum().backward()
    before, kept = state_digest(model), images.clone()
    attribkit.explain(model, images, **options)
    assert state_digest(model) == before
    assert torch.equal(images, kept)


class Fails(Exception):
    """Raised in the middle of a pass."""


@pytest.mark.parametrize("options", EVERYTHING, ids=str)
@pytest.mark.parametrize("fails_at", range(1, 6))
def test_the_model_stays_as_it_was_when_forward_fails(fails_at: int, options: dict[str, Any]) -> None:
    """Also when the n-th forward pass, one that probes among them, raises in the middle."""
    model, images = classifier(), images_for_classifier()
    passes = [0]

    def count(*_: Any) -> None:
        passes[0] += 1
        if passes[0] == fails_at:
            raise Fails

    model.conv1.register_forward_pre_hook(count)  # type: ignore[union-attr,operator]
    before, kept = state_digest(model), images.clone()
    try:
        attribkit.explain(model, images, **options)
    except Fails:
        assert passes[0] == fails_at
    assert state_digest(model) == before
    assert torch.equal(images, kept)
    assert torch.is_grad_enabled()
    # And nothing of it is left behind: the same call now gives what an unharmed model gives.
    passes[0] = 100
    again, expected = (attribkit.explain(m, images, **options) for m in (model, classifier()))
    if not isinstance(again, dict):
        again, expected = {"": again}, {"": expected}
    for name in expected:
        assert torch.equal(again[name].values, expected[name].values)


@pytest.mark.parametrize("options", EVERYTHING[:1] + EVERYTHING[2:5], ids=str)
def test_the_model_stays_as_it_was_when_backward_fails(options: dict[str, Any]) -> None:
    """Also when a rule raises on the way down."""
    model, images = classifier(), images_for_classifier()

    def failing(signal: Tensor, gate: Tensor) -> Tensor:
        raise Fails

    before, kept = state_digest(model), images.clone()
    if options.get("layer") == "conv1":  # nothing is below it that could fail
        attribkit.explain(model, images, failing, **options)
    else:
        with pytest.raises(Fails):
            attribkit.explain(model, images, failing, **options)
    assert state_digest(model) == before
    assert torch.equal(images, kept)


# The fields of the result ------------------------------------------------------------------------------------


def test_fields() -> None:
    """A result tells its method, model and settings, its units image by image, and every site of the model."""
    model, images = classifier(), images_for_classifier()
    found = attribkit.explain(model, images, "deconvnet", layer="conv2", channels=[3, 1], at=(2, 1), switches="center")
    assert (found.method, found.model) == ("deconvnet", "Classifier")
    assert found.settings == {
        "switches": "center",
        "activations": "rectifiers",
        "overlap": "add",
        "replay": "down",
        "norms": "rule",
    }
    output = output_of(model, images, "conv2")
    # conv2 sees 3 cells of pool1, each of which sees 3 of conv1, each of which sees 3 pixels: 9, in steps of 2.
    box = (2 * 2 - 4, 0, 2 * 2 + 5, 2 * 1 + 5)
    assert found.units == tuple(
        Unit(image, "conv2", channel, (2, 1), pytest.approx(output[image, channel, 2, 1].item()), box)
        for image in range(3)
        for channel in (3, 1)
    )
    assert found.values.shape == (6, 3, 12, 10)
    assert not found.values.requires_grad
    called = [(s.name, s.op, s.kind, s.how, s.calls, s.swapped) for s in found.sites if s.calls]
    assert called == [
        ("relu1", "relu", "rectifier", "module", 1, True),
        ("pool1", "max_pool2d", "pool", "module", 1, True),
    ]


def test_sites_of_a_whole_model() -> None:
    """The sites of a logit are all that the forward pass met, functions included, in that order."""
    found = attribkit.explain(classifier(), images_for_classifier(), target=0)
    met = [(site.name, site.op, site.how, site.swapped) for site in found.sites]
    assert met == [
        ("relu1", "relu", "module", True),
        ("pool1", "max_pool2d", "module", True),
        ("#relu", "relu", "function", True),
        ("#relu:1", "relu", "function", True),
    ]
    assert {unit.box for unit in found.units} == {(0, 0, 12, 10)}
    assert [(unit.layer, unit.position, unit.channel) for unit in found.units] == [(None, None, 0)] * 3


def test_sites_left_alone_are_told() -> None:
    """An activation that the rule passes by is among the sites, as not swapped."""
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    )
    images = pictures(1, 3, 12, 12)
    some = attribkit.explain(model, images)
    assert [(site.op, site.swapped) for site in some.sites] == [("gelu", False), ("relu", True)]
    both = attribkit.explain(model, images, activations="all")
    assert [(site.op, site.swapped) for site in both.sites] == [("gelu", True), ("relu", True)]
    assert both.settings["activations"] == "all"
    wanted = wanted_of(both.units)
    assert_close(some.values, maps_by_oracle(model, images, wanted, "guided"))
    assert_close(both.values, maps_by_oracle(model, images, wanted, "guided", activations="all"))


def test_sites_above_the_layer() -> None:
    """What lies above the layer has no part in the map: it is not told as called."""
    found = attribkit.explain(classifier(), images_for_classifier(), layer="conv1")
    assert [site.calls for site in found.sites] == [0] * len(found.sites)


def test_recorded_switches() -> None:
    """Another image's switches are replayed, and told as recorded; they name whole planes, so no crop is made."""
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()
        )
    )
    images, other = pictures(2, 3, 32, 32), pictures(1, 3, 32, 32, seed=7)
    switches = attribkit.record_switches(model, other)
    found = attribkit.explain(model, images, "deconvnet", layer="3", channel=1, at=(8, 8), switches=switches)
    assert found.settings["switches"] == "recorded"
    indices = [index.expand(2, -1, -1, -1) for index in switches.indices.values()]
    wanted = [(0, 1, (8, 8)), (1, 1, (8, 8))]
    expected = maps_by_oracle(model, images, wanted, "deconvnet", "3", pools=indices)
    assert_close(found.values, expected)
    assert (found.values - maps_by_oracle(model, images, wanted, "deconvnet", "3")).abs().max() > 0
    with pytest.raises(attribkit.SwitchMismatch, match="32x32"):
        attribkit.explain(model, images[..., :30, :30], layer="3", switches=switches)


@pytest.mark.parametrize("switches", ["uniform", "center", "corner"])
@pytest.mark.parametrize("options", [{"target": 1}, {"layer": "conv2", "channel": 1}, {"layer": "fc1"}], ids=str)
def test_other_switches(options: dict[str, Any], switches: str) -> None:
    """The pools' own switches give way to a fixed scheme."""
    model, images = classifier(), images_for_classifier()
    found = attribkit.explain(model, images, "deconvnet", switches=switches, **options)
    layer = options.get("layer")
    expected = maps_by_oracle(model, images, wanted_of(found.units), "deconvnet", layer, pools=switches)
    assert_close(found.values, expected)


OPTIONS: list[dict[str, Any]] = [
    {"overlap": "overwrite"},
    {"norms": "bypass"},
    {"norms": "gradient"},
    {"switches": "uniform", "replay": "both"},
    {"switches": "corner", "replay": "both", "norms": "bypass"},
]


@pytest.mark.parametrize("layer", [None, "conv2"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_options_of_rewrite(options: dict[str, Any], layer: str | None) -> None:
    """explain gives what a net that is rewritten with the same options gives, and tells them as its settings."""
    model, images = seeded(WithNorm), pictures(2, 3, 11, 11)
    for rule in ("guided", "deconvnet"):
        found = attribkit.explain(model, images, rule, layer=layer, **options)
        net = attribkit.rewrite(model, rule, **options)
        part = explained_part(net, layer and f"model.{layer}")
        for unit, values in zip(found.units, found.values, strict=True):
            x = images.clone().requires_grad_()
            (expected,) = torch.autograd.grad(part(x)[(unit.image, unit.channel, *(unit.position or ()))], x)
            assert_close(values, expected[unit.image])
        assert {name: found.settings[name] for name in options} == options
    rule = "deconvnet" if options == {"norms": "gradient"} else "guided"
    plain = attribkit.explain(model, images, rule, layer=layer, channel=None if layer is None else 1)
    other = attribkit.explain(model, images, rule, layer=layer, channel=None if layer is None else 1, **options)
    assert not torch.equal(plain.values, other.values)


def test_signals_that_overwrite() -> None:
    """overlap="overwrite" lets the last of overlapping windows have its way."""
    model, images = classifier(), images_for_classifier()
    found = attribkit.explain(model, images, "deconvnet", target=1, overlap="overwrite")
    wanted = wanted_of(found.units)
    assert_close(found.values, maps_by_oracle(model, images, wanted, "deconvnet", pools="overwrite"))
    assert not torch.equal(found.values, attribkit.explain(model, images, "deconvnet", target=1).values)


# Crops -------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A strided block with a projecting shortcut, and a dilated one with the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.down, self.short = nn.Conv2d(5, 6, 3, 2, 1), nn.Conv2d(5, 6, 1, 2)
        self.dilated, self.last = nn.Conv2d(6, 6, 3, padding=2, dilation=2), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.down(x) + self.short(x))
        return self.last(F.relu(x + self.dilated(x)))


class Inception(nn.Module):
    """Branches that see 1, 3, 5 and, through a pool, 3 pixels, beside each other; then a strided pool."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1)
        self.five = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1))
        self.pool, self.pooled = nn.MaxPool2d(3, 1, 1), nn.Conv2d(3, 3, 1)
        self.down, self.last = nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(self.pool(x))], 1)
        return self.last(F.relu(self.down(F.relu(x))))


class WithAttribute(nn.Module):
    """A net whose last layer is named, so that all local nets are explained in one way."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Doubling(nn.Module):
    """Doubles what it gets, in its place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


def conv(
    channels: int, made: int, kernel: Any = 3, stride: Any = 1, padding: Any = 0, **options: Any
) -> list[nn.Module]:
    return [nn.Conv2d(channels, made, kernel, stride, padding, **options), nn.ReLU()]


LOCAL: dict[str, Callable[[], nn.Module]] = {
    "padded": lambda: nn.Sequential(*conv(3, 5, padding=1), *conv(5, 6, padding=1), nn.Conv2d(6, 4, 3, padding=1)),
    "unpadded": lambda: nn.Sequential(*conv(3, 5), *conv(5, 6, 4), nn.Conv2d(6, 4, 3)),
    "more padding than kernel": lambda: nn.Sequential(*conv(3, 5, 3, padding=2), *conv(5, 4, 3, padding=2)),
    "strides": lambda: nn.Sequential(*conv(3, 5, 5, 2, 2), *conv(5, 6, 3, 2, 1), nn.Conv2d(6, 4, 1)),
    "stride 3 without overlap": lambda: nn.Sequential(*conv(3, 5, 3, 3), *conv(5, 6, 3, padding=1), nn.Conv2d(6, 4, 1)),
    "stride past its kernel": lambda: nn.Sequential(*conv(3, 5, 1, 2), *conv(5, 6, 3, padding=1), nn.Conv2d(6, 4, 1)),
    "uneven kernels": lambda: nn.Sequential(*conv(3, 5, (1, 4), (1, 2), (0, 1)), nn.Conv2d(5, 4, (3, 2), (2, 1))),
    "even kernels": lambda: nn.Sequential(*conv(3, 5, 2, padding=1), *conv(5, 6, 4, 2, 1), nn.Conv2d(6, 4, 2)),
    "dilated": lambda: nn.Sequential(*conv(3, 5, 3, padding=2, dilation=2), *conv(5, 4, 3, padding=3, dilation=3)),
    "grouped": lambda: nn.Sequential(*conv(3, 6, padding=1), *conv(6, 6, padding=1, groups=6), nn.Conv2d(6, 4, 1)),
    "max-pools": lambda: nn.Sequential(
        *conv(3, 5, padding=1), nn.MaxPool2d(2), *conv(5, 6, padding=1), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3, padding=1)
    ),
    "overlapping pools": lambda: nn.Sequential(
        *conv(3, 5, padding=1), nn.MaxPool2d(3, 2, 1), *conv(5, 6, padding=1), nn.MaxPool2d(3, 1, 1), nn.Conv2d(6, 4, 1)
    ),
    "ceil mode": lambda: nn.Sequential(
        *conv(3, 5, padding=1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        *conv(5, 6, padding=1),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.Conv2d(6, 4, 1),
    ),
    "dilated pool": lambda: nn.Sequential(*conv(3, 5, padding=1), nn.MaxPool2d(3, 2, 1, 2), nn.Conv2d(5, 4, 3)),
    "average pools": lambda: nn.Sequential(
        *conv(3, 5, padding=1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        *conv(5, 6, padding=1),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Conv2d(6, 4, 1),
    ),
    "LRN and batch norm": lambda: nn.Sequential(
        *conv(3, 6, 3, 2, 1), nn.LocalResponseNorm(3), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU()
    ),
    "reflecting": lambda: nn.Sequential(
        *conv(3, 5, padding=1, padding_mode="reflect"), nn.Conv2d(5, 4, 3, padding=1, padding_mode="replicate")
    ),
    "around the edge": lambda: nn.Sequential(*conv(3, 5, padding=1, padding_mode="circular"), nn.Conv2d(5, 4, 3)),
    "leaky": lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.LeakyReLU(0.1), nn.Conv2d(5, 4, 3), nn.LeakyReLU(0.1)),
    "upsampling": lambda: nn.Sequential(
        *conv(3, 5, 3, 2, 1), nn.Upsample(scale_factor=2), *conv(5, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
    ),
    "transposed": lambda: nn.Sequential(*conv(3, 5, 3, 2, 1), nn.ConvTranspose2d(5, 4, 4, 2, 1), nn.ReLU()),
    "shuffled": lambda: nn.Sequential(nn.PixelUnshuffle(2), *conv(12, 16, padding=1), nn.PixelShuffle(2)),
    "writing into its input": lambda: nn.Sequential(Doubling(), *conv(3, 5, padding=1), nn.Conv2d(5, 4, 3)),
    "residual": Residual,
    "inception": Inception,
}
CROPPED = {name for name in LOCAL if name not in ("around the edge", "upsampling", "transposed", "shuffled")}
"""Those whose windows move evenly, which a crop must do for. The others may be explained either way."""

SIZES = [(41, 47), (48, 40)]


def some_positions(size: Sequence[int]) -> list[tuple[int, int]]:
    """The corners, the middles of the edges, cells beside them, and the middle."""
    rows, columns = size
    return [
        (0, 0),
        (0, columns - 1),
        (rows - 1, 0),
        (rows - 1, columns - 1),
        (0, columns // 2),
        (rows // 2, columns - 1),
        (1, columns // 2 + 1),
        (rows - 2, 2),
        (rows // 2, columns // 2),
        (rows // 4, columns * 2 // 3),
    ]


def explain_whole(model: nn.Module, images: Tensor, methods: Any, **options: Any) -> Any:
    """The explanation without crops."""
    with mock.patch.object(ReceptiveField, "worth_cropping", return_value=False):
        return attribkit.explain(model, images, methods, **options)


class Watched:
    """The sizes of what passes a module in forward passes with a gradient: those that explain."""

    def __init__(self, module: nn.Module) -> None:
        self.sizes: list[tuple[int, ...]] = []
        module.register_forward_pre_hook(self.see)

    def see(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            self.sizes.append(tuple(args[0].shape))

    def __deepcopy__(self, memo: Any) -> Watched:
        return self


def assert_same_on_crops(model: nn.Module, images: Tensor, relative: float = 1e-9, **options: Any) -> None:
    """The explanation on crops is the one on the whole image, in every field."""
    whole = explain_whole(model, images, RULES, **options)
    found = attribkit.explain(model, images, RULES, **options)
    for rule in RULES:
        assert found[rule].units == tuple(
            Unit(u.image, u.layer, u.channel, u.position, pytest.approx(u.activation, abs=1e-4), u.box)
            for u in whole[rule].units
        )
        scale = whole[rule].values.abs().max().item()
        torch.testing.assert_close(found[rule].values, whole[rule].values, rtol=0, atol=relative * scale)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", LOCAL)
def test_crops_give_what_the_whole_image_gives(name: str, size: tuple[int, int]) -> None:
    """At corners, edges and in the middle, by every rule; and it was a crop, by every pixel that was convolved."""
    size = (40, 48) if name == "shuffled" else size
    model, images = seeded(lambda: WithAttribute(LOCAL[name]())), pictures(2, 3, *size)
    rows, columns = output_of(model, images, "net").shape[2:]
    watched = Watched(model.net)  # type: ignore[arg-type]
    for at in some_positions((rows, columns)):
        options = {"layer": "net", "channels": [1, 3], "at": at}
        attribkit.explain(model, images, RULES, **options)  # finds the receptive field, once
        watched.sizes.clear()
        found = attribkit.explain(model, images, RULES, **options)
        seen = list(watched.sizes)
        assert_same_on_crops(model, images, **options)
        assert any(values.abs().max() > 0 for values in found["deconvnet"].values)
        if name in CROPPED:
            pixels = sum(n * h * w for n, _, h, w in seen)
            assert pixels <= 4 * (size[0] * size[1]) / 2
            assert all(h * w <= size[0] * size[1] / 2 for _, _, h, w in seen)
        for unit, values in zip(found["backprop"].units, found["backprop"].values, strict=True):
            assert_seen_only_in_box(values, unit)


@pytest.mark.parametrize("name", LOCAL)
def test_crops_of_strongest_units(name: str) -> None:
    """Units that each image has elsewhere are explained each on its own crop."""
    size = (40, 48) if name == "shuffled" else (41, 47)
    model, images = seeded(lambda: WithAttribute(LOCAL[name]())), pictures(4, 3, *size)
    found = attribkit.explain(model, images, "guided", layer="net", channels=[0, 1, 2])
    assert len({unit.position for unit in found.units}) > 3
    assert_same_on_crops(model, images, layer="net", channels=[0, 1, 2])
    assert_same_on_crops(model, images, layer="net")


POOLED = ["max-pools", "overlapping pools", "ceil mode", "dilated pool", "LRN and batch norm", "inception"]


@pytest.mark.parametrize("switches", ["uniform", "center", "corner"])
@pytest.mark.parametrize("name", POOLED)
def test_crops_with_other_switches(name: str, switches: str) -> None:
    """Signals that are spread over windows stay within what the unit sees."""
    model, images = seeded(lambda: WithAttribute(LOCAL[name]())), pictures(2, 3, 41, 47)
    for at in some_positions(output_of(model, images, "net").shape[2:]):
        assert_same_on_crops(model, images, layer="net", channels=[1, 3], at=at, switches=switches)


@pytest.mark.parametrize("name", POOLED)
def test_crops_where_signals_overwrite(name: str) -> None:
    """Where the last window overwrites, also with nothing, windows count that the unit itself does not see."""
    model, images = seeded(lambda: WithAttribute(LOCAL[name]())), pictures(2, 3, 41, 47)
    for at in some_positions(output_of(model, images, "net").shape[2:]):
        assert_same_on_crops(model, images, layer="net", channels=[1, 3], at=at, overlap="overwrite")


@pytest.mark.parametrize("name", ["max-pools", "overlapping pools"])
@pytest.mark.parametrize("switches", ["uniform", "center", "corner"])
def test_crops_where_switches_condition_the_forward_pass(name: str, switches: str) -> None:
    """replay="both" changes the activations; what is explained are the changed ones."""
    model, images = seeded(lambda: WithAttribute(LOCAL[name]())), pictures(2, 3, 41, 47)
    assert_same_on_crops(model, images, layer="net", at=(4, 5), channels=[1, 3], switches=switches, replay="both")


@pytest.mark.parametrize("name", ["padded", "ceil mode", "residual", "inception"])
def test_crops_in_single_precision(name: str) -> None:
    """To 1e-5 of the largest value in float32."""
    model, images = seeded(lambda: WithAttribute(LOCAL[name]())).float(), pictures(2, 3, 41, 47).float()
    for at in some_positions(output_of(model, images, "net").shape[2:]):
        assert_same_on_crops(model, images, relative=1e-5, layer="net", channels=[1, 3], at=at)


def test_crops_of_intermediate_layers() -> None:
    """Each layer of a net has windows of its own."""
    model, images = seeded(Inception), pictures(2, 3, 41, 47)
    for layer in ("one", "three", "five", "five.1", "pool", "pooled", "down", "last"):
        watched = Watched(model.get_submodule(layer))
        for at in some_positions(output_of(model, images, layer).shape[2:]):
            assert_same_on_crops(model, images, layer=layer, at=at)
        attribkit.explain(model, images, layer=layer, at=(9, 9))
        watched.sizes.clear()
        attribkit.explain(model, images, layer=layer, at=(9, 9))
        assert all(h * w < 41 * 47 / 4 for _, _, h, w in watched.sizes)
        assert watched.sizes


def shifting(signal: Tensor, gate: Tensor) -> Tensor:
    return (signal + 1) * gate


def centring(signal: Tensor, gate: Tensor) -> Tensor:
    return (signal - signal.mean((2, 3), keepdim=True)) * gate


@pytest.mark.parametrize("rule", [shifting, centring])
def test_crops_of_rules_that_spread(rule: Any) -> None:
    """A rule of one's own may make a signal where there was none; then the whole image counts."""
    model, images = plain_stack(), pictures(2, 3, 32, 32)
    options = {"layer": "4", "channel": 1, "at": (10, 12)}
    whole = explain_whole(model, images, rule, **options)
    assert_close(attribkit.explain(model, images, rule, **options).values, whole.values)


@pytest.mark.parametrize("layer", ["conv1", "conv2", "norm2"])
def test_crops_of_a_model_in_training_mode(layer: str) -> None:
    """Dropout and batch norm are as in eval mode on crops, too."""
    model, images = seeded(Classifier).train(), pictures(2, 3, 12, 10)
    assert_same_on_crops(model, images, layer=layer, at=(3, 3))


# Nets of which a crop is another net -------------------------------------------------------------------------


class Excite(nn.Module):
    """Squeeze-excite: each channel is scaled by what the mean of all positions says."""

    def __init__(self, channels: int, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.gate = nn.Linear(channels, channels), gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc(x.mean((2, 3))))[..., None, None]


class CoordConv(nn.Module):
    """Adds the coordinates, from -1 to 1, as two channels."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (torch.linspace(-1, 1, size, dtype=x.dtype) for size in x.shape[2:])
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        return torch.cat([x, grid.expand(len(x), -1, -1, -1)], 1)


class CountedFromTheCorner(nn.Module):
    """Adds the number of the row: the same on a crop only where that begins at the top."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(x.shape[2], dtype=x.dtype)[:, None]


class Embedded(nn.Module):
    """A learned bias for each position of one size of map."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Interpolated(Embedded):
    """A learned bias that is stretched to the size at hand."""

    def forward(self, x: Tensor) -> Tensor:
        return x + F.interpolate(self.bias, x.shape[2:], mode="bilinear", align_corners=True)


class Framed(nn.Module):
    """Blackens a frame around whatever it gets."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, 2:-2, 2:-2], (2, 2, 2, 2))


class OneSize(nn.Module):
    """Takes images of one size, and says so with an error of some kind."""

    def __init__(self, size: tuple[int, int], error: type[Exception]) -> None:
        super().__init__()
        self.size, self.error = size, error

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            raise self.error(f"only {self.size}")
        return x


class Sorted(nn.Module):
    """Subtracts the median of the plane, through which no gradient goes."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.detach().flatten(2).median(2).values[..., None, None]


class PeakScaled(nn.Module):
    """Divides by the largest value of the whole plane, through which no gradient goes."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.detach().abs().amax((2, 3), keepdim=True)


class Cropping(nn.Module):
    """Cuts pixels off each border."""

    def __init__(self, by: int) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, self.by : -self.by, self.by : -self.by]


class Transposed(nn.Module):
    """Swaps rows and columns."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(2, 3)


class Aside(nn.Module):
    """Runs a module whose result is thrown away, as the other heads of a net are."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        self.module(x)
        return x


def between(module: nn.Module, channels: int = 5) -> nn.Module:
    """A module between local layers."""
    return nn.Sequential(*conv(3, 5, padding=1), module, *conv(channels, 6, padding=1), nn.Conv2d(6, 4, 3, padding=1))


WHOLE: dict[str, Callable[[], nn.Module]] = {
    "squeeze-excite": lambda: between(Excite(5, torch.sigmoid)),
    "squeeze-excite, hard": lambda: between(Excite(5, F.hardsigmoid)),
    "instance norm": lambda: between(nn.InstanceNorm2d(5)),
    "group norm": lambda: between(nn.GroupNorm(1, 5)),
    "layer norm": lambda: between(nn.LayerNorm((5, 32, 32))),
    "coordinates": lambda: between(CoordConv(), 7),
    "row numbers": lambda: between(CountedFromTheCorner()),
    "embedded": lambda: between(Embedded(1, 5, 32, 32)),
    "interpolated": lambda: between(Interpolated(1, 5, 4, 4)),
    "framed": lambda: between(Framed()),
    "median": lambda: between(Sorted()),
    "peak": lambda: between(PeakScaled()),
    "adaptive pool": lambda: between(nn.AdaptiveMaxPool2d(16)),
    "uneven adaptive pool": lambda: between(nn.AdaptiveAvgPool2d(13)),
    "cutting": lambda: between(Cropping(3)),
    "cutting last": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), Cropping(2), nn.LeakyReLU()),
    "transposed": lambda: between(Transposed()),
    "another head": lambda: between(Aside(nn.Conv2d(5, 5, 7))),
    "another head, small": lambda: nn.Sequential(
        Aside(nn.Conv2d(3, 5, 4)), *conv(3, 5, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1)
    ),
    **{
        f"one size, {error.__name__}": lambda error=error: between(OneSize((32, 32), error))
        for error in (
            RuntimeError,
            ValueError,
            AssertionError,
            IndexError,
            KeyError,
            TypeError,
            NotImplementedError,
            Fails,
        )
    },
}


@pytest.mark.parametrize("name", WHOLE)
def test_nets_that_cannot_be_cropped_are_never_wrong(name: str) -> None:
    """Global operations, positions that count, one size of image: what is explained is the whole net."""
    model, images = seeded(lambda: WithAttribute(WHOLE[name]())), pictures(2, 3, 32, 32)
    for at in some_positions(output_of(model, images, "net").shape[2:]):
        wanted = [(image, channel, at) for image in range(2) for channel in (1, 3)]
        for rule in ("backprop", "deconvnet"):
            found = attribkit.explain(model, images, rule, layer="net", channels=[1, 3], at=at)
            assert wanted_of(found.units) == wanted
            expected = maps_by_oracle(model, images, wanted, rule, "net")
            assert_close(found.values, expected)
            for unit, values in zip(found.units, expected, strict=True):
                assert_seen_only_in_box(values, unit)


@pytest.mark.parametrize("image", ["flat", "like a tile"])
def test_a_gate_that_noise_leaves_shut(image: str) -> None:
    """A hard gate that is saturated on noise and not on the image at hand makes units see the whole image."""

    def make() -> nn.Module:
        excite = Excite(5, F.hardsigmoid)
        net = WithAttribute(nn.Sequential(*conv(3, 5, 1), excite, *conv(5, 4, 1)))
        with torch.no_grad():
            nn.init.uniform_(net.net[0].weight, 0.5, 1)  # type: ignore[index,union-attr]
            nn.init.constant_(net.net[0].bias, 0)  # type: ignore[index,union-attr]
            # Means of noise are below 1, for which the gate is 0 sharp or 1 sharp; bright images are in between.
            excite.fc.weight.copy_(torch.eye(5) * 0.1)
            excite.fc.bias.fill_(-3.5)
            excite.fc.bias[0] = 3
        return net

    model = seeded(make)
    tile = torch.ones(2, 2) if image == "flat" else torch.tensor([[0.5, 1.5], [1.2, 0.8]])
    images = (8 * tile.repeat(16, 16)).expand(2, 3, -1, -1).double()
    for at in ((16, 16), (0, 31)):
        found = attribkit.explain(model, images, "backprop", layer="net", channels=[0, 1], at=at)
        wanted = [(i, c, at) for i in range(2) for c in (0, 1)]
        expected = maps_by_oracle(model, images, wanted, "backprop", "net")
        assert_close(found.values, expected)


def test_a_unit_that_is_off() -> None:
    """A unit at zero, which a crop leaves at zero too, is explained no less exactly."""

    def make() -> nn.Module:
        return nn.Sequential(*conv(3, 5, padding=1), Transposed(), *conv(5, 4, padding=1))

    model, images = seeded(make), pictures(1, 3, 32, 32)
    output = output_of(model, images, "4")
    off = [(0, 1, (i, j)) for i, j in ((3, 20), (5, 25), (20, 4), (28, 9), (2, 18)) if output[0, 1, i, j] == 0]
    assert off
    for unit in off:
        found = attribkit.explain(model, images, "deconvnet", layer="4", channel=1, at=unit[2])
        assert_close(found.values, maps_by_oracle(model, images, [unit], "deconvnet", "4"))


@pytest.mark.parametrize("needs", [2, 3])
def test_a_net_that_takes_batches_of_one_size(needs: int) -> None:
    """Where the net cannot be probed, because of its batches, it is explained whole."""

    class Paired(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1, needs, *x.shape[1:]).flatten(0, 1)

    model, images = seeded(lambda: nn.Sequential(Paired(), *plain_stack())), pictures(6, 3, 32, 32)
    found = attribkit.explain(model, images, "guided", layer="5", channel=1, at=(10, 10))
    wanted = [(image, 1, (10, 10)) for image in range(6)]
    assert_close(found.values, maps_by_oracle(model, images, wanted, "guided", "5"))


def test_images_of_another_size_are_probed_anew() -> None:
    """What was found for one size of image is not used for another."""
    model = seeded(lambda: WithAttribute(between(nn.AdaptiveAvgPool2d(16))))
    for size in ((32, 32), (16, 16), (48, 32), (40, 40)):
        images = pictures(1, 3, *size)
        for at in ((0, 0), (7, 9)):
            assert_same_on_crops(model, images, layer="net", channels=[1], at=at)


def test_small_effects_of_position_count() -> None:
    """A bias by position of a thousandth, under a square, is not lost in a tolerance."""

    class Slightly(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1e-4 * torch.linspace(-1, 1, x.shape[2], dtype=x.dtype)[:, None]

    class Squared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x**2

    model = seeded(lambda: nn.Sequential(*conv(3, 5, padding=1), Slightly(), Squared(), nn.Conv2d(5, 4, 3)))
    images = pictures(2, 3, 32, 32)
    for at in ((20, 9), (2, 11)):
        assert_same_on_crops(model, images, layer="4", channels=[1], at=at)


# Crops of random nets ----------------------------------------------------------------------------------------


@st.composite
def random_layers(draw: st.DrawFn) -> list[nn.Module]:
    """One to five convolutions and pools in a row, with what can be set of each."""
    layers: list[nn.Module] = []
    channels = 2
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["conv", "conv", "max", "average"]))
        dilation = draw(st.integers(1, 2)) if kind != "average" else 1
        kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        if kind == "conv":
            padding = draw(st.integers(0, 3))
            made = draw(st.integers(1, 4))
            layers += [nn.Conv2d(channels, made, kernel, stride, padding, dilation), nn.LeakyReLU(0.2)]
            channels = made
            continue
        padding, ceil_mode = draw(st.integers(0, kernel // 2)), draw(st.booleans())
        if kind == "max":
            layers.append(nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode))
        else:
            include = draw(st.booleans())
            layers.append(nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil_mode, count_include_pad=include))
    return [nn.Conv2d(2, 2, 1), nn.ReLU(), *layers]


@settings(deadline=None, max_examples=60, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
@given(
    layers=random_layers(),
    size=st.tuples(st.integers(9, 40), st.integers(9, 40)),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    switches=st.sampled_from(["own", "own", "uniform", "center", "corner"]),
    seed=st.integers(0, 100),
)
def test_crops_of_random_nets(
    layers: list[nn.Module], size: tuple[int, int], place: tuple[float, float], switches: str, seed: int
) -> None:
    """Whatever is stacked, wherever the unit is, the crop that it sees gives what the image gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
    model, images = WithAttribute(nn.Sequential(*layers)).double(), pictures(1, 2, *size, seed=seed)
    try:
        output = output_of(model, images, "net")
    except RuntimeError:  # nothing is left of an image this small
        assume(False)
    assume(bool(output.isfinite().all()))  # no pool has a window of padding alone
    plane = output.shape[2:]
    at = tuple(min(int(share * n), n - 1) for share, n in zip(place, plane, strict=True))
    options = {"layer": "net", "channels": [0], "at": at, "switches": switches}
    # A crop is taken wherever it is held to be exact, not only where it saves time.
    with mock.patch.object(ReceptiveField, "worth_cropping", lambda self: self.exact_on_crops):
        found = attribkit.explain(model, images, RULES, **options)
    field = attribkit.receptive_field(model, "net", images)
    event(
        "cropped"
        if field.exact_on_crops and math.prod(w.longest() for w in field.windows) < math.prod(size)
        else "whole"
    )
    whole = explain_whole(model, images, RULES, **options)
    for rule in RULES:
        expected = whole[rule].values
        assert found[rule].units[0].box == whole[rule].units[0].box
        assert_seen_only_in_box(expected[0], whole[rule].units[0])
        torch.testing.assert_close(found[rule].values, expected, rtol=0, atol=1e-9 * expected.abs().max().item())


# Exact facts -------------------------------------------------------------------------------------------------


def direction(values: Tensor) -> Tensor:
    """Maps without their scale."""
    return values / values.flatten(1).norm(dim=1)[:, None, None, None]


UNPOOLED: dict[str, dict[str, Any]] = {
    "class": {"target": 1},
    "unit": {"layer": "2", "channel": 4, "at": (8, 9)},
    "channel": {"layer": "2", "channel": 4, "at": "all"},
}


@pytest.mark.parametrize("options", UNPOOLED.values(), ids=UNPOOLED)
def test_a_deconvnet_without_pools_does_not_see_the_image(options: dict[str, Any]) -> None:
    """Without max-pooling the deconvnet's map is the same for every image; guided backprop's is not."""
    model, images = dense_stack(), pictures(3, 3, 16, 16)
    found = attribkit.explain(model, images, ["deconvnet", "guided"], **options)
    maps = direction(found["deconvnet"].values)
    assert_close(maps, maps[:1].expand_as(maps))
    others = direction(found["guided"].values)
    assert (others[0] - others[1]).abs().max() > 1e-3


def test_a_deconvnet_with_even_switches_does_not_see_the_image() -> None:
    """With fixed switches pools are linear on the way down: again one map for all images, which own switches break."""
    model, images = seeded(WithNorm), pictures(3, 3, 15, 15)
    for switches in ("uniform", "center", "corner"):
        maps = direction(attribkit.explain(model, images, "deconvnet", target=2, switches=switches).values)
        assert_close(maps, maps[:1].expand_as(maps))
    maps = direction(attribkit.explain(model, images, "deconvnet", target=2).values)
    assert (maps[0] - maps[1]).abs().max() > 1e-3


def test_guided_is_zero_where_the_signal_would_be_negative() -> None:
    """Weights that are all negative send nothing below a ReLU, though the gradient is far from zero."""
    model, images = plain_stack(), pictures(2, 3, 12, 12)
    with torch.no_grad():
        model[4].weight.copy_(-model[4].weight.abs())  # type: ignore[union-attr,operator,arg-type]
    found = attribkit.explain(model, images, RULES, layer="4", channels=[0, 3])
    assert found["guided"].values.abs().max() == 0
    assert found["deconvnet"].values.abs().max() == 0
    assert found["backprop"].values.abs().max() > 1e-3


@pytest.mark.parametrize("options", [{"target": 1}, {"layer": "conv2", "channels": [0, 3]}, {"layer": "fc1"}], ids=str)
def test_backprop_with_own_switches_is_autograd(options: dict[str, Any]) -> None:
    """The pools' own switches and the chain rule are torch's own gradient, overlapping windows and all."""
    model, images = classifier(), images_for_classifier()
    found = attribkit.explain(model, images, "backprop", switches="own", **options)
    part = explained_part(classifier().eval(), options.get("layer"))
    for unit, values in zip(found.units, found.values, strict=True):
        x = images.clone().requires_grad_()
        (expected,) = torch.autograd.grad(part(x)[(unit.image, unit.channel, *(unit.position or ()))], x)
        assert_close(values, expected[unit.image])


@pytest.mark.parametrize("rule", RULES)
def test_a_squared_relu_by_the_chain_rule_by_hand(rule: str) -> None:
    """The square is no activation: its factor 2 a goes with the signal in every rule, the gate of the ReLU need not."""

    class SquaredRelu(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.below, self.above = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.above(torch.relu(self.below(x)) ** 2)

    model, images = seeded(SquaredRelu), pictures(2, 3, 14, 14)
    for position in ((5, 6), (0, 13)):
        found = attribkit.explain(model, images, rule, layer="above", channel=1, at=position)
        hidden = F.conv2d(images, model.below.weight, model.below.bias, padding=1)  # type: ignore[union-attr,arg-type]
        signal = torch.zeros(2, 2, 14, 14, dtype=torch.float64)
        signal[(slice(None), 1, *position)] = 1
        signal = F.conv_transpose2d(signal, model.above.weight, padding=1)  # type: ignore[union-attr,arg-type]
        signal = signal * 2 * hidden.clamp(min=0)
        if rule != "backprop":
            signal = signal.clamp(min=0)
        if rule != "deconvnet":
            signal = signal * (hidden > 0)
        expected = F.conv_transpose2d(signal, model.below.weight, padding=1)  # type: ignore[union-attr,arg-type]
        assert_close(found.values, expected.detach())
