"""`fast=True`: a quicker copy computes, and gives what the model gives, to rounding; what it changes is refused."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torchvision
from oracles import state_digest
from torch import Tensor, nn
from torch.nn import functional as F

import attribkit

METHODS = ["backprop", "deconvnet", "guided"]


class Net(nn.Module):
    """Norms behind convolutions with padding, dilation and a stride; a residual, branches, an overlapping pool."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.pool(F.relu(self.bn2(self.conv2(x)) + x))
        return self.head(torch.cat([x, F.relu6(self.bn3(self.conv3(x)))], 1).mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    made = Net()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
    return made.eval()


def images(side: int = 33) -> Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))


def assert_near(fast: dict[str, Any], slow: dict[str, Any]) -> None:
    for name, result in slow.items():
        apart = (fast[name].values - result.values).abs().max() / result.values.abs().max()
        assert apart <= 1e-4, name
        assert [(u.channel, u.position) for u in fast[name].units] == [(u.channel, u.position) for u in result.units]
        assert fast[name].values.is_contiguous()


@pytest.mark.parametrize("layer", [None, "bn1", "pool"])
@pytest.mark.parametrize("switches", ["own", "uniform"])
def test_maps_are_those_of_the_model(layer: str | None, switches: str) -> None:
    model, x = net(), images()
    before = state_digest(model)
    slow = attribkit.explain(model, x, METHODS, layer=layer, switches=switches)
    fast = attribkit.explain(model, x, METHODS, layer=layer, switches=switches, fast=True)
    assert_near(fast, slow)
    assert fast["guided"].settings["fast"] is True
    assert "fast" not in slow["guided"].settings
    assert state_digest(model) == before


def test_it_goes_with_bfloat16() -> None:
    """Whose rounding is no sign of a fold that changes the network."""
    model, x = net(), images()
    coarse = attribkit.explain(model, x, target=3, precision="bfloat16", fast=True).values
    exact = attribkit.explain(model, x, target=3).values
    assert 0 < (coarse - exact).abs().max() < 0.5 * exact.abs().max()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "squeezenet1_1"])
def test_maps_of_real_networks(name: str) -> None:
    torch.manual_seed(0)
    model, x = torchvision.models.get_model(name, weights=None).eval(), images(64)
    assert_near(
        attribkit.explain(model, x, METHODS, target=3, fast=True), attribkit.explain(model, x, METHODS, target=3)
    )


class ByView(nn.Module):
    """Takes memory to lie as it does in torch by default."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Linear(8 * 49, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.conv(x))).view(len(x), -1))


def test_a_network_that_does_not_take_channels_last() -> None:
    torch.manual_seed(0)
    model, x = ByView().eval(), images(9)
    explainer, expected = attribkit.Explainer(model, METHODS, fast=True), attribkit.explain(model, x, METHODS)
    assert_near(explainer(x), expected)
    assert_near(explainer(x), expected)


def test_a_map_does_not_hang_on_what_was_asked_in_between() -> None:
    """Though weights are laid out at the first, for images of its size."""
    explainer = attribkit.Explainer(net(), fast=True, layer="pool")
    first, _, again = explainer(images()), explainer(images(41)), explainer(images())
    assert torch.equal(first.values, again.values)


def test_a_layer_that_folding_changes_is_refused() -> None:
    with pytest.raises(attribkit.AttribkitError, match=r"fast=True changes what layer 'conv1' gives.*ask for the norm"):
        attribkit.explain(net(), images(), layer="conv1", fast=True)


def test_weights_that_change_are_seen() -> None:
    model, x = net(), images()
    explainer = attribkit.Explainer(model, fast=True)
    explainer(x)
    with torch.no_grad():
        model.conv2.weight.mul_(-1)
    assert_near({"guided": explainer(x)}, {"guided": attribkit.explain(model, x)})


def test_threads_share_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    from attribkit.explaining import nets

    made: list[nn.Module] = []
    quickened = nets.quickened
    monkeypatch.setattr(nets, "quickened", lambda model: made.append(model) or quickened(model))
    model, x = net(), images()
    expected = attribkit.explain(model, x)
    explainer = attribkit.Explainer(model, fast=True)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(explainer, [x] * 8):
            assert_near({"guided": found}, {"guided": expected})
    assert len(made) == 1


def test_the_model_may_be_in_training_and_have_no_norm() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.LazyLinear(2))
    x = images(8)
    model(x)
    model.train()
    before = copy.deepcopy(model.state_dict())
    assert_near({"": attribkit.explain(model, x, fast=True)}, {"": attribkit.explain(model, x)})
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
