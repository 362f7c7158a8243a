"""The experiment on nets small enough to know what comes out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import attribkit
from attribkit.reference_models import validation
from attribkit.reference_models.validation import WITH, Subject, Units

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


def made(net: nn.Module, last: str) -> Subject:
    pictures = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return validation.subject("small", "untrained", net, ("0", last), pictures * 2 - 1, pictures)


@pytest.fixture(scope="module")
def strided() -> Subject:
    return made(all_strides(), "2")


@pytest.fixture(scope="module")
def pooled() -> Subject:
    return made(with_pools(), "3")


@pytest.mark.parametrize("kind", ["middle", "last", "class"])
def test_units_and_maps_are_those_of_explain(pooled: Subject, kind: str) -> None:
    """One image after the other, by the library's front door."""
    units = pooled.units[kind]
    maps = validation.maps_of(pooled.net, "own", "guided", units, pooled.images)
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


def test_another_images_switches_are_anothers(pooled: Subject) -> None:
    """Recorded on the image before and replayed."""
    units = pooled.units["last"]
    maps = validation.maps_of(pooled.net, "another", "deconvnet", units, pooled.images)
    switches = attribkit.record_switches(pooled.net, pooled.images[4][None])
    net = attribkit.rewrite(pooled.net, "deconvnet", switches=switches)
    x = pooled.images[5][None].clone().requires_grad_()
    row = units.of(slice(5, 6))
    (expected,) = torch.autograd.grad(row.responses(net.forward_to("3", x)).sum(), x)
    torch.testing.assert_close(maps[5], expected[0], rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def scored(strided: Subject) -> validation.Scored:
    return validation.scores(strided, asked=COUNT, steps=4, seed=0)


def test_every_cell_has_a_score_an_image(scored: validation.Scored) -> None:
    """Metrics that run the net often are asked of logits only."""
    assert scored.keys() == validation.MARGINS.keys()
    for metric, kinds in scored.items():
        assert list(kinds) == (["class"] if metric in validation.OF_LOGITS else ["middle", "last", "class"])
        for cells in kinds.values():
            assert list(cells) == [WITH, "as it is"]
            assert {rule: len(row) for rule, row in cells[WITH].items()} == dict.fromkeys(validation.RULES, COUNT)


def test_a_deconvnet_without_switches_does_not_see_the_image(scored: validation.Scored) -> None:
    """Image dependence exactly zero, and no source found but by chance; with switches it is another matter."""
    dependence = scored["image dependence"]["last"]
    without = torch.tensor(dependence["as it is"]["deconvnet"])
    assert without.abs().max() < 1e-6
    assert torch.tensor(dependence[WITH]["deconvnet"]).mean() > 0.3
    assert torch.tensor(dependence["as it is"]["guided"]).mean() > 0.3


def test_a_mosaic_needs_images_of_other_classes(strided: Subject, scored: validation.Scored) -> None:
    """This net takes them all for one, so no score is defined; one that tells them apart has a score for each."""
    assert len(strided.units["class"].channels.unique()) == 1
    assert torch.tensor(scored["grid"]["class"][WITH]["guided"]).isnan().all()
    apart = made(all_strides(), "2")
    apart.__dict__["units"] = {"class": Units(None, torch.arange(COUNT) % 4)}
    judge = validation._grid(apart, "class", apart.net, 4, 0)
    found = judge(lambda units, images: torch.ones_like(images))
    torch.testing.assert_close(found, torch.full((COUNT,), 1 / 9, dtype=torch.float64))


def test_the_same_seed_gives_the_same_scores(strided: Subject, scored: validation.Scored) -> None:
    assert str(validation.scores(strided, asked=COUNT, steps=4, seed=0)) == str(scored)  # NaN is not equal to itself


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
    found = validation.judged(made_up, "uniform", resamples=100, seed=0)
    assert found[0].losses["deconvnet"].mean == 1
    assert validation.verdicts(found) == {
        "source retrieval": "refuted",  # by its worst kind of unit
        "image dependence": "supported",
        "insertion - deletion": "supported",
        "occlusion": "supported",
        "grid": "refuted",
    }


def test_other_weights_leave_the_subject_as_it_is(strided: Subject) -> None:
    before = {name: tensor.clone() for name, tensor in strided.net.state_dict().items()}
    others = list(validation.with_other_weights(strided, seed=0))
    assert [other.weights for other in others] == ["untrained", "upper third random"]
    assert all(torch.equal(before[name], tensor) for name, tensor in strided.net.state_dict().items())
    first = {other.weights: other.net.get_parameter("0.weight") for other in others}
    assert torch.equal(first["upper third random"], before["0.weight"])
    assert not torch.equal(first["untrained"], before["0.weight"])


def test_units_of_a_part(strided: Subject) -> None:
    units = Units("2", torch.tensor([1, 2, 0]), torch.tensor([5, 0, 3]))
    output = torch.arange(3 * 3 * 6).view(3, 3, 2, 3).float()
    picked: Tensor = units.of(slice(1, 3)).responses(output[1:])
    assert picked.tolist() == [output[1, 2, 0, 0].item(), output[2, 0, 1, 0].item()]
