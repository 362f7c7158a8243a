"""The experiment on nets small enough to know what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

import attribkit
from attribkit import metrics
from attribkit.adapters.preprocessing import Preprocess, Size
from attribkit.reference_models.switch_study import beside, failures, subjects, testset, validation
from attribkit.reference_models.switch_study.subjects import AFTER, WITH, ChosenUnits, Subject
from attribkit.reference_models.switch_study.testset import TestSet

SIDE, COUNT = 16, 24
KINDS = ("middle", "last", "class")


def all_strides() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def with_pools() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def made(net: nn.Module) -> Subject:
    pictures = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return subjects.made("small", "untrained", net, pictures * 2 - 1, pictures)


class Plain(Preprocess):
    """Colours from 0 to 1, of a picture as it is."""

    def transform(self, size: Size | None) -> Callable[[Image.Image], Tensor]:
        return lambda image: torch.from_numpy(np.asarray(image) / np.float32(255)).permute(2, 0, 1)

    def restore(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture(scope="module")
def strided() -> Subject:
    return made(all_strides())


@pytest.fixture(scope="module")
def pooled() -> Subject:
    return made(with_pools())


@pytest.mark.parametrize("kind", ["middle", "last", "class"])
def test_units_and_maps_are_those_of_explain(pooled: Subject, kind: str) -> None:
    """One image after the other, by the library's front door."""
    units = pooled.units[kind]
    maps = subjects.maps_of(pooled.net, "own", "guided", units, pooled.images)
    for index, image in enumerate(pooled.images):
        one = attribkit.explain(pooled.net, image[None], "guided", layer=units.layer)
        assert one.units[0].channel == units.channels[index]
        torch.testing.assert_close(maps[index], one.values[0], rtol=1e-4, atol=1e-6)


def test_conditions_with_pools_and_without(strided: Subject, pooled: Subject) -> None:
    """A net without pools gets them for the condition with switches, and is itself the one without.

    And with pools it is asked without switches, too: one and the same function.
    """
    assert list(strided.conditions) == [WITH, "as it is", "uniform"]
    assert any(isinstance(module, nn.MaxPool2d) for module in strided.conditions[WITH][0].modules())
    assert strided.conditions["as it is"][0] is strided.net
    assert strided.conditions["uniform"][0] is strided.conditions[WITH][0]
    assert (strided.compared, pooled.compared) == (["as it is", "uniform"], ["uniform"])
    assert list(pooled.conditions) == [WITH, "uniform", "center", "corner", "another image's"]


def test_pools_that_are_functions_are_pools(pooled: Subject) -> None:
    """A net that calls one has switches, and is not given pools in place of its strides."""

    class Calls(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.max_pool2d(x, 2)

    net = with_pools()
    net[2] = Calls()
    assert list(made(net).conditions) == list(pooled.conditions)


def test_another_images_switches_are_anothers(pooled: Subject) -> None:
    """Recorded on the image before and replayed."""
    units = pooled.units["last"]
    maps = subjects.maps_of(pooled.net, "another", "deconvnet", units, pooled.images)
    switches = attribkit.record_switches(pooled.net, pooled.images[4][None])
    net = attribkit.rewrite(pooled.net, "deconvnet", switches=switches)
    x = pooled.images[5][None].clone().requires_grad_()
    row = units.of(slice(5, 6))
    (expected,) = torch.autograd.grad(row.responses(net.forward_to("3", x)).sum(), x)
    torch.testing.assert_close(maps[5], expected[0], rtol=1e-4, atol=1e-6)


def test_units_are_chosen_both_ways(strided: Subject, pooled: Subject) -> None:
    """In the network as it is, and in the one after surgery: the strongest of each."""
    kinds = ["middle", "last", "class"]
    assert list(strided.units) == [*kinds, *(kind + AFTER for kind in kinds)]
    assert list(pooled.units) == kinds
    assert strided.pooled is not None
    with torch.no_grad():
        for net, kind in ((strided.net, "last"), (strided.pooled, "last" + AFTER)):
            strengths = net[:3](strided.images).flatten(2)  # type: ignore[index]
            assert torch.equal(strengths.amax(2).argmax(1), strided.units[kind].channels)
    assert not torch.equal(strided.units["last"].positions, strided.units["last" + AFTER].positions)  # type: ignore[arg-type]


ASKED = 10
EFFORT = validation.Effort(asked=ASKED, paired=COUNT, steps=2, seed=0)


@pytest.fixture(scope="module")
def scored(strided: Subject) -> dict[str, validation.Scored]:
    return {metric: cells for task in validation.TASKS for metric, cells in of(strided, task).items()}


def of(one: Subject, task: str) -> dict[str, validation.Scored]:
    return validation.scores(one, task, EFFORT)[0]


def test_every_cell_has_a_score_an_image(scored: dict[str, validation.Scored]) -> None:
    """Or one per pair; metrics that run the net often are asked of classes only. With switches floors are asked."""
    assert list(scored) == list(validation.MARGINS)
    for metric, kinds in scored.items():
        asked = ["class"] if metric in validation.OF_CLASS else ["middle", "last", "class"]
        assert list(kinds) == [*asked, *(kind + AFTER for kind in asked)]
        for cells in kinds.values():
            assert list(cells) == [WITH, "as it is", "uniform"]
            assert list(cells["uniform"]) == list(validation.RULES)
            assert list(cells[WITH]) == [*validation.RULES, *validation.FLOORS, *validation.BESIDE]
            count = ASKED if metric in validation.OF_CLASS else COUNT
            assert {len(row) for makers in cells.values() for row in makers.values()} == {count}


def test_other_ways_down_are_asked_of_trained_weights_where_it_is_cheap(pooled: Subject) -> None:
    trained = replace(pooled, weights="trained")
    assert list(of(trained, "sources")["source retrieval"]["last"]) == list(pooled.conditions)
    for one, task in ((pooled, "sources"), (trained, "grid")):
        assert all(list(cells["class"]) == [WITH, "uniform"] for cells in of(one, task).values())


def test_a_deconvnet_without_switches_does_not_see_the_image(scored: dict[str, validation.Scored]) -> None:
    """Two theorems, in the network as it is and after surgery: no image dependence, and the same map for a class.

    With switches it is another matter.
    """
    dependence = scored["image dependence"]["last"]

    def pairs(condition: str, rule: str) -> Tensor:
        return torch.tensor([value for row in dependence[condition][rule] for value in row])  # type: ignore[union-attr]

    for condition in ("as it is", "uniform"):
        assert pairs(condition, "deconvnet").abs().max() < 1e-6
        assert pairs(condition, "guided").mean() > 0.05
        for metric in validation.LESS_ANOTHERS:
            assert torch.tensor(scored[metric]["class"][condition]["deconvnet"]).abs().nanmean() < 1e-3
    assert pairs(WITH, "deconvnet").mean() > 0.3
    assert torch.tensor(scored["occlusion"]["class"][WITH]["guided"]).abs().nanmean() > 0.01


def test_a_mosaic_needs_images_of_other_classes(strided: Subject, scored: dict[str, validation.Scored]) -> None:
    """This net takes them all for one, so no score is defined; one that tells them apart has a score for each."""
    assert len(strided.units["class"].channels.unique()) == 1
    assert torch.tensor(scored["grid"]["class"][WITH]["guided"]).isnan().all()
    apart = made(all_strides())
    apart.__dict__["units"] = {"class": ChosenUnits(None, torch.arange(COUNT) % 4)}
    judge = validation._judge("grid", apart, "class", apart.net, EFFORT, None)
    for maps in (torch.ones_like, torch.zeros_like):  # a map that is zero everywhere scores what chance does
        nothing: list[Tensor] = []
        found = judge(lambda units, images, maps=maps: maps(images), nothing)["grid"]
        torch.testing.assert_close(found, torch.full((COUNT,), 1 / 9, dtype=torch.float64))
        assert torch.cat(nothing).all() == (maps is torch.zeros_like)


@pytest.mark.parametrize("task", list(validation.TASKS))
def test_a_map_of_zeros_shows_nothing_in_any_metric(pooled: Subject, task: str) -> None:
    """It is not found, depends on no image and gains nothing; and it is counted."""
    apart = made(pooled.net)
    apart.__dict__["units"] = {"class": ChosenUnits(None, torch.arange(COUNT) % 4)}
    judge = validation._judge(task, apart, "class", apart.net, EFFORT, None)
    nothing: list[Tensor] = []
    for values in judge(lambda units, images: torch.zeros_like(images), nothing).values():
        known = values[~values.isnan()]
        assert known.tolist() == [validation.SHOWS_NOTHING.get(task, 0.0)] * len(known)
    assert torch.cat(nothing).all()


def test_zero_maps_are_counted_by_rule() -> None:
    """A unit whose gates are shut gives guided backprop none of its signal, and the deconvnet all of it."""
    net = with_pools()
    with torch.no_grad():
        net[0].bias.fill_(-100.0)
    _, zeros = validation.scores(made(net), "sources", EFFORT)
    assert zeros["last"][WITH]["guided"] == COUNT
    assert zeros["last"][WITH]["deconvnet"] < COUNT


def test_another_of_the_same_class() -> None:
    """The next one, round and round; the next of any, where there is no other."""
    classes = torch.tensor([0, 1, 0, 2, 1, 0])
    assert validation.another_of_the_same(classes).tolist() == [2, 4, 5, 4, 1, 0]


def test_another_images_score_is_subtracted(pooled: Subject) -> None:
    """By the library's own metric, one image after the other."""
    net = with_pools()
    with torch.no_grad():
        net[5].bias.fill_(1.0)  # every class answers
    cases = metrics.Cases(net, pooled.images, torch.arange(COUNT) % 4)
    shown = torch.rand(COUNT, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    maps = {image.sum().item(): one for image, one in zip(pooled.images, shown, strict=True)}

    def mapper(_: ChosenUnits, images: Tensor) -> Tensor:
        return torch.stack([maps[image.sum().item()] for image in images])

    answerable = torch.ones(COUNT, dtype=torch.bool)
    found = validation._of_class("occlusion", cases, answerable, mapper, [])["occlusion"]
    for index in (0, 5, COUNT - 1):
        drops = {size: some[index][None] for size, some in cases.drops.items()}
        own, other = (
            torch.stack(
                [metrics.occlusion_agreement(shown[at][None], some, size) for size, some in drops.items()]
            ).mean()
            for at in (index, (index + 4) % COUNT)
        )
        assert found[index].item() == pytest.approx((own - other).item())


def test_the_same_seed_gives_the_same_scores(strided: Subject, scored: dict[str, validation.Scored]) -> None:
    for task in ("occlusion",):
        for metric, row in of(strided, task).items():
            assert str(row) == str(scored[metric])  # NaN is not equal to itself


def test_bounds_are_those_of_maps_that_ask_no_network(strided: Subject, scored: dict[str, validation.Scored]) -> None:
    """A hill in the middle says nothing of the image, noise finds it by chance; a hill gains nothing in any metric."""
    retrieval = scored["source retrieval"]["last"][WITH]
    assert sum(retrieval["centred Gaussian"]) <= 1  # type: ignore[arg-type]  # one image fits it best
    assert sum(retrieval["random map"]) < COUNT / 4  # type: ignore[arg-type]
    for metric in validation.LESS_ANOTHERS:
        assert torch.tensor(scored[metric]["class"][WITH]["centred Gaussian"]).nan_to_num().abs().max() < 1e-9
    assert validation.floors_of("image dependence") == ("centred Gaussian",)
    assert validation.floors_of("grid") == ("random map", "centred Gaussian")


def test_sources_are_looked_for_among_all_pictures(strided: Subject) -> None:
    """Among more of them a map leads by less."""
    torch.manual_seed(4)
    own = strided.pictures.mean(1, keepdim=True)
    more = torch.cat([own, torch.rand(400, 1, SIDE, SIDE)])

    def mapper(units: ChosenUnits, images: Tensor) -> Tensor:
        return subjects.maps_of(strided.net, "own", "guided", units, images)

    few, many = (
        validation.leads(strided, "class", pictures, torch.arange(COUNT), mapper, []) for pictures in (own, more)
    )
    assert bool((many <= few + 1e-9).all())
    assert many.mean() < few.mean()


def test_a_deconvnet_with_another_images_switches_draws_that_one(pooled: Subject) -> None:
    """The switches alone say what is drawn: the donor is found more often than by guided backprop."""
    found = validation.donors(pooled, pooled.pictures)["last"]
    assert list(found) == list(validation.RULES)
    own = torch.tensor(found["deconvnet"]).mean()
    assert own > torch.tensor(found["guided"]).mean()
    assert validation.donors(made(all_strides()), pooled.pictures) == {}


def test_strides_are_replaced_one_after_another() -> None:
    """From the last to the first; the first step is the network as it is, and the last is all of surgery."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    one = made(net)
    steps = beside.one_after_another(one, one.pictures, count=8)
    assert [step["layer"] for step in steps] == [None, "2", "0"]
    assert steps[0]["renamed"] == 0
    assert {len(row) for step in steps for row in step["found"].values()} == {8}
    assert one.pooled is not None
    found = beside._found(one.first(8), one.pooled, one.pictures)
    assert steps[-1]["found"] == found
    assert beside.one_after_another(made(with_pools()), one.pictures, count=8) == []


def test_the_lattice_is_that_of_the_strides_below(strided: Subject, pooled: Subject) -> None:
    for one in (strided, pooled):
        assert [failures.stride_below(one, kind) for kind in ("middle", "last")] == [2, 2]
    shares = failures.lattice(strided)["class"]
    assert list(shares) == [WITH, "as it is", "uniform"]
    without, own = (torch.tensor(shares[name]["deconvnet"]).nanmean() for name in ("as it is", WITH))
    assert without > 2 * own  # one and the same kernel at every step


def test_what_does_not_depend_on_what_is_asked_is_seen() -> None:
    """Two classes that read the same channels with the same weights have the same map; others have not."""
    same, other = all_strides(), all_strides()
    with torch.no_grad():
        for net in (same, other):
            net[4].bias.fill_(1.0)  # every class answers
        same[4].weight[:] = same[4].weight[:1]
    for net, low, high in ((same, 0.999, 1.001), (other, -1, 0.9)):
        alike = failures.failures(made(net), seed=0)["class sensitivity"]["as it is"]["backprop"]
        assert low < torch.tensor(alike).nanmean() < high


def test_start_signals_converge_where_one_channel_is_left() -> None:
    """What guided backprop lets through one channel is that channel's map, whatever was sent."""
    torch.manual_seed(0)
    narrow = nn.Sequential(
        *(nn.Conv2d(3, 1, SIDE), nn.ReLU(), nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten()),
    )
    with torch.no_grad():
        narrow[0].bias.fill_(10.0)
    pictures = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    one = Subject("narrow", "trained", narrow, None, "0", "2", pictures, pictures)
    alike = [
        torch.tensor(failures.failures(subject, seed=0)["signal convergence"][WITH]["guided"]).nanmean()
        for subject in (one, made(all_strides()))
    ]
    assert alike[0] == pytest.approx(1)
    assert alike[1] < 0.9


def test_the_cascade_ends_with_all_layers_random(strided: Subject) -> None:
    """From the top to the first layer; maps of the class are like the trained net's no longer."""
    stages = failures.cascade(strided, seed=0)
    assert [layer for layer, *_ in stages] == ["4", "2", "0"]
    for _, rank, ssim in stages:
        assert rank.keys() == ssim.keys() == set(validation.RULES)
    last = torch.tensor(stages[-1][1]["backprop"])
    assert last.nanmean() < 0.9


def test_other_weights_leave_the_subject_as_it_is(strided: Subject) -> None:
    before = {name: tensor.clone() for name, tensor in strided.net.state_dict().items()}
    pictures = TestSet(tuple(np.zeros((2, SIDE, SIDE, 3), np.uint8)), "black")
    loaded = attribkit.LoadedModel("small", strided.net, Plain())
    others = {name: subjects.prepared("small", name, loaded, pictures, 0) for name in subjects.RANDOM_SHARE}
    assert all(torch.equal(before[name], tensor) for name, tensor in strided.net.state_dict().items())
    assert others["trained"].net is strided.net
    first = {name: other.net.get_parameter("0.weight") for name, other in others.items()}
    assert torch.equal(first["upper third random"], before["0.weight"])
    assert not torch.equal(first["untrained"], before["0.weight"])


def test_units_of_a_part(strided: Subject) -> None:
    units = ChosenUnits("2", torch.tensor([1, 2, 0]), torch.tensor([5, 0, 3]))
    output = torch.arange(3 * 3 * 6).view(3, 3, 2, 3).float()
    picked: Tensor = units.of(slice(1, 3)).responses(output[1:])
    assert picked.tolist() == [output[1, 2, 0, 0].item(), output[2, 0, 1, 0].item()]


def test_what_lies_below_random_layers_is_left_out() -> None:
    """It would repeat the trained network's: of three layers the upper one is random, below the others' units."""
    net = all_strides()
    pictures = TestSet(tuple(np.full((4, SIDE, SIDE, 3), 90, np.uint8)), "grey")
    loaded = attribkit.LoadedModel("small", net, Plain())
    kinds = {name: subjects.prepared("small", name, loaded, pictures, 0).units for name in subjects.RANDOM_SHARE}
    assert list(kinds["trained"]) == list(kinds["untrained"]) == [*KINDS, *(kind + AFTER for kind in KINDS)]
    assert list(kinds["upper third random"]) == ["class", "class" + AFTER]


def test_a_depthwise_layer_stands_back_for_the_next_convolution() -> None:
    """Which mixes its channels, and counts with its norm; in a net of depthwise ones nothing else sees more."""
    torch.manual_seed(0)
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    net = nn.Sequential(
        *(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            depthwise,
            nn.ReLU(),
            nn.Conv2d(8, 8, 1),
            nn.BatchNorm2d(8),
        ),
        *(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ).eval()
    one = made(net)
    assert (one.middle, one.last) == ("5", "5")
    with pytest.raises(ValueError, match="mixes channels"):
        subjects._asked_layers(nn.Sequential(depthwise))


def test_rivals_are_the_first_of_the_others() -> None:
    """As many as are wanted, and no picture twice; names say which are which."""
    every = TestSet(tuple(np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1)), "eight", names=tuple("abcdefgh"))
    drawn = every.drawn(3, seed=0, candidates=6)
    shown = [int(picture.item()) for picture in (*drawn.pictures, *drawn.rivals)]  # type: ignore[union-attr]
    assert len(set(shown)) == 6
    assert [*drawn.names] == ["abcdefgh"[index] for index in shown[:3]]
    assert sorted(shown[3:]) == shown[3:]
    assert drawn.digest != every.drawn(3, seed=0, candidates=5).digest


@pytest.mark.parametrize(("norm", "asked"), [(nn.BatchNorm2d(8), "3"), (BatchNormAct2d(8), "3.drop")])
def test_layers_are_asked_after_their_norms(norm: nn.Module, asked: str) -> None:
    """And before the activation that timm's norms end with, where a closed gate would stop everything."""
    torch.manual_seed(0)
    net = nn.Sequential(*all_strides()[:2], nn.Conv2d(8, 8, 3, padding=1), norm, nn.ReLU(), *all_strides()[4:]).eval()
    one = made(net)
    assert (one.middle, one.last) == (asked, asked)
    values = net[:3](one.images).flatten(2)
    assert (values.max(2).values.max(1).indices == one.units["last"].channels).float().mean() > 0.9  # norms as new


def test_the_same_photographs_and_as_many_of_each_class(tmp_path: Path) -> None:
    """Any folder of pictures, however they are sorted; labelled sets are drawn class by class."""
    for index, name in enumerate(("a/one.png", "two.JPG", "b/c/three.png", "notes.txt")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (tmp_path / name).write_text("no picture")
        else:
            Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / name)
    read = testset.read(tmp_path)
    assert [path.name for path in read.pictures if isinstance(path, Path)] == ["one.png", "three.png", "two.JPG"]
    assert read.labels is None
    assert len(read.drawn(2, seed=0).pictures) == 2
    assert read.drawn(500, seed=0).digest == read.drawn(500, seed=0).digest != read.drawn(500, seed=1).digest
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    labelled = TestSet(tuple(np.zeros((6, 4, 4, 3), np.uint8)), "six", labels, ("no", "yes")).drawn(4, seed=0)
    assert labelled.labels is not None
    assert labelled.labels.tolist() == [0, 1, 0, 1]
