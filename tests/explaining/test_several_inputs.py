"""Models of several inputs: the map of each is what autograd brings down to it through the rewritten model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attribkit
from attribkit.errors import BadType, BadValue


class Pair(nn.Module):
    """A picture and some numbers, which meet in a map and in a class."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.ear = nn.Sequential(nn.Linear(5, 6), nn.ReLU())
        self.both = nn.Sequential(nn.Conv2d(6, 7, 3), nn.ReLU())
        self.head = nn.Linear(7, 4)

    def forward(self, picture: Tensor, numbers: Tensor) -> Tensor:
        joined = self.both(self.eye(picture) + self.ear(numbers)[..., None, None])
        return self.head(joined.amax((2, 3)))


@pytest.fixture
def model() -> Pair:
    torch.manual_seed(0)
    return Pair().eval()


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 16, 18, generator=random), torch.randn(2, 5, generator=random)


def by_autograd(model: nn.Module, rule: str, inputs: tuple[Tensor, ...], layer: str | None, unit: Any) -> list[Tensor]:
    net = attribkit.rewrite(model, rule)
    given = [each.clone().requires_grad_() for each in inputs]
    output = net(*given) if layer is None else net.forward_to(layer, *given)
    return list(torch.autograd.grad(output[unit].sum(), given))


@pytest.mark.parametrize("rule", ["backprop", "guided"])
def test_each_input_gets_its_map_of_a_class(model: Pair, inputs: tuple[Tensor, Tensor], rule: str) -> None:
    results = attribkit.explain(model, inputs, rule, target=2)
    expected = by_autograd(model, rule, inputs, None, (slice(None), 2))
    assert [result.values.shape for result in results] == [each.shape for each in inputs]
    for result, values in zip(results, expected, strict=True):
        torch.testing.assert_close(result.values, values)
        assert result.model == "Pair"
        assert {site.name for site in result.sites} == {"eye.1", "eye.2", "ear.1", "both.1", "#amax"}


def test_a_unit_of_a_layer(model: Pair, inputs: tuple[Tensor, Tensor]) -> None:
    for layer in ("both", model.both):
        picture, numbers = attribkit.explain(model, inputs, layer=layer, channel=3, at=(2, 1))
        assert {unit.layer for unit in picture.units} == {"both"}
        expected = by_autograd(model, "guided", inputs, "both", (slice(None), 3, 2, 1))
        torch.testing.assert_close(picture.values, expected[0])
        torch.testing.assert_close(numbers.values, expected[1])


def test_several_methods_and_the_strongest_unit(model: Pair, inputs: tuple[Tensor, Tensor]) -> None:
    for of_input, alone in zip(
        attribkit.explain(model, inputs, ["guided", "deconvnet"], layer="both"),
        attribkit.explain(model, inputs, "deconvnet", layer="both"),
        strict=True,
    ):
        assert list(of_input) == ["guided", "deconvnet"]
        torch.testing.assert_close(of_input["deconvnet"].values, alone.values)


def test_the_model_stays_as_it_was(model: Pair, inputs: tuple[Tensor, Tensor]) -> None:
    model.train()
    model.eye.eval()
    before = {name: (value.clone(), value.requires_grad) for name, value in model.named_parameters()}
    attribkit.explain(model, inputs)
    assert (model.training, model.eye.training, model.ear.training) == (True, False, True)
    for name, value in model.named_parameters():
        assert value.equal(before[name][0])
        assert (value.requires_grad, value.grad) == (before[name][1], None)


def test_inputs_that_do_not_go_together_are_refused(model: Pair, inputs: tuple[Tensor, Tensor]) -> None:
    picture, numbers = inputs
    for wrong, kind, words in (
        ((picture, numbers.long()), BadType, "a batch of floats; bind others in a function of your own"),
        ((picture, [1, 2]), BadType, "a batch of floats"),
        ((picture, numbers[:1]), BadValue, "batches of one size and one type"),
        ((picture, numbers.double()), BadValue, "batches of one size and one type"),
        ((), BadType, "a batch of floats"),
    ):
        with pytest.raises(kind, match=words):
            attribkit.explain(model, wrong)  # type: ignore[arg-type]
    with pytest.raises(BadType, match=r"several inputs need an nn\.Module, not a function"):
        attribkit.explain(lambda x, y: x, inputs)
