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
from attribkit.adapters.preprocessing import Preprocess, Size
from attribkit.reference_models.switch_study import judging, subjects, testset, validation
from attribkit.reference_models.switch_study.subjects import WITH, ChosenUnits, Subject
from attribkit.reference_models.switch_study.testset import TestSet

SIDE, COUNT = 16, 24


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
    """A net without pools gets them for the condition with switches, and is itself the one without."""
    assert list(strided.conditions) == [WITH, "as it is"]
    assert any(isinstance(module, nn.MaxPool2d) for module in strided.conditions[WITH][0].modules())
    assert strided.conditions["as it is"][0] is strided.net
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


@pytest.fixture(scope="module")
def scored(strided: Subject) -> dict[str, validation.Scored]:
    return {metric: of(strided, metric)[0] for metric in validation.MARGINS}


def of(one: Subject, metric: str) -> tuple[validation.Scored, dict[str, validation.ByMapper]]:
    return validation.scores(one, metric, asked=COUNT, steps=4, seed=0)


def test_every_cell_has_a_score_an_image(scored: dict[str, validation.Scored]) -> None:
    """Metrics that run the net often are asked of logits only."""
    for metric, kinds in scored.items():
        assert list(kinds) == (["class"] if metric in validation.OF_LOGITS else ["middle", "last", "class"])
        for cells in kinds.values():
            assert list(cells) == [WITH, "as it is"]
            assert {rule: len(row) for rule, row in cells[WITH].items()} == dict.fromkeys(validation.RULES, COUNT)


def test_other_ways_down_are_asked_of_trained_weights_where_it_is_cheap(pooled: Subject) -> None:
    trained = replace(pooled, weights="trained")
    assert list(of(trained, "source retrieval")[0]["last"]) == list(pooled.conditions)
    for one, metric in ((pooled, "source retrieval"), (trained, "grid")):
        assert list(of(one, metric)[0]["class"]) == [WITH, "uniform"]


def test_a_deconvnet_without_switches_does_not_see_the_image(scored: dict[str, validation.Scored]) -> None:
    """Image dependence exactly zero, and no source found but by chance; with switches it is another matter."""
    dependence = scored["image dependence"]["last"]
    without = torch.tensor(dependence["as it is"]["deconvnet"])
    assert without.abs().max() < 1e-6
    assert torch.tensor(dependence[WITH]["deconvnet"]).mean() > 0.3
    assert torch.tensor(dependence["as it is"]["guided"]).mean() > 0.3


def test_a_mosaic_needs_images_of_other_classes(strided: Subject, scored: dict[str, validation.Scored]) -> None:
    """This net takes them all for one, so no score is defined; one that tells them apart has a score for each."""
    assert len(strided.units["class"].channels.unique()) == 1
    assert torch.tensor(scored["grid"]["class"][WITH]["guided"]).isnan().all()
    apart = made(all_strides())
    apart.__dict__["units"] = {"class": ChosenUnits(None, torch.arange(COUNT) % 4)}
    judge = validation._judge("grid", apart, "class", apart.net, 4, 0)
    found = judge.score(lambda units, images: torch.ones_like(images))
    torch.testing.assert_close(found, torch.full((COUNT,), 1 / 9, dtype=torch.float64))


def test_the_same_seed_gives_the_same_scores(strided: Subject, scored: dict[str, validation.Scored]) -> None:
    for metric, row in scored.items():
        assert str(of(strided, metric)[0]) == str(row)  # NaN is not equal to itself


def test_bounds_are_those_of_maps_that_ask_no_network(strided: Subject) -> None:
    """The image itself is found, a hill in the middle says nothing of it, noise finds it by chance."""
    retrieval = {name: sum(row) for name, row in of(strided, "source retrieval")[1]["last"].items()}
    assert retrieval["the image itself"] == COUNT
    assert retrieval["centred Gaussian"] <= 1  # one image fits it best
    assert retrieval["random map"] < COUNT / 4
    dependence = of(strided, "image dependence")[1]["last"]
    assert max(dependence["centred Gaussian"]) < 1e-6 < min(dependence["Sobel map"])
    assert len(of(strided, "occlusion")[1]["class"]["the other occluder"]) == COUNT


def test_groups_of_a_hundred_or_more() -> None:
    sizes = {count: [len(group) for group in validation._groups(torch.zeros(count, 1))] for count in (60, 120, 500)}
    assert sizes == {60: [60], 120: [120], 500: [100] * 5}


def test_what_does_not_depend_on_what_is_asked_is_seen() -> None:
    """Two classes that read the same channels with the same weights have the same map; others have not."""
    same, other = all_strides(), all_strides()
    with torch.no_grad():
        for net in (same, other):
            net[4].bias.fill_(1.0)  # every class answers
        same[4].weight[:] = same[4].weight[:1]
    for net, low, high in ((same, 0.999, 1.001), (other, -1, 0.9)):
        alike = validation.failures(made(net), seed=0)["class sensitivity"]["as it is"]["backprop"]
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
        torch.tensor(validation.failures(subject, seed=0)["signal convergence"][WITH]["guided"]).nanmean()
        for subject in (one, made(all_strides()))
    ]
    assert alike[0] == pytest.approx(1)
    assert alike[1] < 0.9


def test_the_cascade_ends_with_all_layers_random(strided: Subject) -> None:
    """From the top to the first layer; maps of the class are like the trained net's no longer."""
    stages = validation.cascade(strided, seed=0)
    assert [layer for layer, *_ in stages] == ["4", "2", "0"]
    for _, rank, ssim in stages:
        assert rank.keys() == ssim.keys() == set(validation.RULES)
    last = torch.tensor(stages[-1][1]["backprop"])
    assert last.nanmean() < 0.9


def test_losses_and_verdicts_follow_from_the_scores() -> None:
    """Made-up scores: guided keeps what the deconvnet loses, but for one metric."""
    keeps = {WITH: [1.0] * 50, "uniform": [1.0] * 50}
    loses = {WITH: [1.0] * 50, "uniform": [0.0] * 50}

    def cells(deconvnet: dict[str, list[float]]) -> dict[str, dict[str, list[float]]]:
        return {
            condition: {"backprop": keeps[condition], "guided": keeps[condition], "deconvnet": deconvnet[condition]}
            for condition in keeps
        }

    made_up = {metric: {"class": cells(loses)} for metric in validation.MARGINS}
    made_up["grid"] = {"class": cells(keeps)}
    made_up["source retrieval"]["middle"] = cells(keeps)
    measured = judging.measurements(made_up, "uniform", resamples=100, seed=0)
    assert measured[0].losses["deconvnet"].mean == 1
    assert judging.verdicts(measured) == {
        "source retrieval": "refuted",  # by its worst kind of unit
        "image dependence": "supported",
        "insertion - deletion": "supported",
        "occlusion": "supported",
        "grid": "refuted",
    }


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
