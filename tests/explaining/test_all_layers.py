"""What all layers of a net see, found in one forward pass, against each layer probed by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import state_digest
from test_receptive_field import GLOBAL, STACKS, UNEVEN, Branches, Growing, around, pictures, random_layers, seeded
from torch import Tensor, nn
from torch.nn import functional as F

from attribkit import receptive_field
from attribkit.adapters.layers import Layers
from attribkit.explaining import probing
from attribkit.explaining.probing import all_windows


def layers_called(model: nn.Module, images: Tensor) -> list[str]:
    return list(Layers.of(model, images))


def assert_as_each_by_itself(model: nn.Module, images: Tensor, layers: list[str] | None = None) -> None:
    """Every layer's windows, or those of some layers, are what `receptive_field` says of it alone."""
    together = all_windows(model, layers_called(model, images), images)
    for layer in layers or together:
        assert together[layer] == receptive_field(model, layer, images).windows, layer


@pytest.mark.parametrize("size", [(32, 32), (25, 31)], ids=str)
@pytest.mark.parametrize("name", STACKS)
def test_plain_stacks(name: str, size: tuple[int, int]) -> None:
    assert_as_each_by_itself(seeded(lambda: nn.Sequential(*STACKS[name]())), pictures(1, 1, *size))


@pytest.mark.parametrize("size", [(24, 24), (24, 32), (32, 20)], ids=str)
@pytest.mark.parametrize("name", [*GLOBAL, *UNEVEN])
def test_what_sees_all_and_what_moves_unevenly(name: str, size: tuple[int, int]) -> None:
    """Above such a step, too, where the graph may not be cut."""
    net = seeded(lambda: nn.Sequential(around((GLOBAL | UNEVEN)[name]()), nn.Conv2d(2, 2, 3), nn.MaxPool2d(2)))
    assert_as_each_by_itself(net, pictures(1, 1, *size))


def test_branches_and_residuals() -> None:
    assert_as_each_by_itself(seeded(Branches), pictures(1, 1, 41, 33))
    assert_as_each_by_itself(seeded(Growing), pictures(1, 1, 24, 24))


def test_lines_and_volumes() -> None:
    line = seeded(lambda: nn.Sequential(nn.Conv1d(2, 3, 5, 2), nn.ReLU(), nn.MaxPool1d(3, 2), nn.Conv1d(3, 2, 3)))
    assert_as_each_by_itself(line, pictures(1, 2, 80))
    solid = seeded(lambda: nn.Sequential(nn.Conv3d(1, 2, (1, 3, 5), padding=(0, 1, 2)), nn.ReLU(), nn.MaxPool3d(2)))
    assert_as_each_by_itself(solid, pictures(1, 1, 8, 9, 16))


@settings(deadline=None, max_examples=40)
@given(layers=random_layers(), size=st.tuples(st.integers(8, 36), st.integers(8, 36)))
def test_random_stacks(layers: list[nn.Module], size: tuple[int, int]) -> None:
    model, images = nn.Sequential(*layers).double(), pictures(1, 1, *size)
    try:
        model(images)
    except RuntimeError:  # nothing is left of an image this small
        assume(False)
    assert_as_each_by_itself(model, images)


class WritesInPlace(nn.Module):
    """Changes what its layers gave in their place: a sum, a rectifier, a sum into what a container gave."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 3, 3, padding=1), nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Identity())
        self.three, self.relu = nn.Conv2d(3, 2, 5), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.one(x))
        y = self.two(x)
        y += x
        self.relu(y)
        return self.three(y.mul_(2))


class Shared(nn.Module):
    """One block that is called three times, and a layer above."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU())
        self.top = nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.block(x)
        return self.top(x)


class Odd(nn.Module):
    """Layers of which no map comes, or none that hangs on the image; and one above them."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.constant, self.flat, self.top = Pair(), Constant(), nn.Flatten(), nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.pair(x)
        self.flat(x)
        return self.top(x + y + self.constant(x))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, F.avg_pool2d(x, 3, 1, 1)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x).detach()


class Stops(nn.Module):
    """A layer in the middle fails as soon as a gradient is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.stop, self.above = nn.Conv2d(1, 1, 3), Fussy(), nn.Conv2d(1, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.stop(self.below(x)))


class Fussy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise KeyError("no")
        return x


@pytest.mark.parametrize("make", [WritesInPlace, Shared, Odd], ids=lambda make: make.__name__)
def test_odd_nets(make: Callable[[], nn.Module]) -> None:
    assert_as_each_by_itself(seeded(make), pictures(1, 1, 26, 30))


def test_what_lies_above_a_layer_that_fails_sees_all() -> None:
    """And what lies below it keeps its window."""
    model, images = seeded(Stops), pictures(1, 1, 20, 20)
    found = all_windows(model, ["below", "stop", "above"], images)
    assert found["below"] == receptive_field(model, "below", images).windows
    assert found["above"] == receptive_field(model, "above", images).windows
    assert found["above"][0].before is None


@pytest.mark.parametrize(
    "name", ["resnet18", "googlenet", "densenet121", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "vgg11"]
)
def test_networks_of_torchvision(name: str) -> None:
    """A dozen layers of each, and the last ones: sums, branches, dense blocks, squeeze-excite, shuffled channels."""
    options: dict[str, Any] = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    if name == "vgg11":  # a hundred million weights of its classifier, which sees all in any case
        model.classifier[0], model.classifier[3] = nn.Linear(25_088, 64), nn.Linear(64, 4096)
    images = torch.zeros(1, 3, 64, 96)
    layers = layers_called(model, images)
    assert_as_each_by_itself(model, images, [*layers[:: -(-len(layers) // 12)], *layers[-4:]])


def test_the_model_stays_as_it_was() -> None:
    model, images = seeded(WritesInPlace).train(), pictures(1, 1, 26, 30)
    before, kept = state_digest(model), images.clone()
    all_windows(model, layers_called(model, images), images)
    assert state_digest(model) == before
    assert torch.equal(images, kept)


def test_one_forward_pass_is_all() -> None:
    """Each layer runs once, whatever comes above it."""
    model, images = seeded(lambda: nn.Sequential(*STACKS["pools"]())), pictures(1, 1, 32, 32)
    layers = layers_called(model, images)
    passes: list[str] = []
    for name in layers:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: passes.append(name))
    all_windows(model, layers, images)
    assert passes == layers


def test_signals_go_down_to_the_layers_right_below_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """However deep a stack is, a signal from a layer passes that layer alone."""
    grounds: list[int] = []
    send = probing.Signals.send

    def counting(self: probing.Signals, units: Tensor, position: Any) -> Any:
        reached = send(self, units, position)
        grounds.append(len(reached))
        assert units.grad_fn is not None
        assert depth(units) <= 4
        return reached

    monkeypatch.setattr(probing.Signals, "send", counting)
    stack = nn.Sequential(*(nn.Conv2d(1, 1, 3) for _ in range(8))).double()
    all_windows(stack, [str(i) for i in range(8)], pictures(1, 1, 40, 40))
    assert set(grounds) == {1}


def depth(tensor: Tensor) -> int:
    """How many steps of autograd's graph lie between a tensor and its farthest leaf."""

    def below(node: Any) -> int:
        return 0 if node is None else 1 + max((below(step) for step, _ in node.next_functions), default=0)

    return below(tensor.grad_fn)
