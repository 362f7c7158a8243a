"""A network that fails while it is tried is told from a bug of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attribkit
from attribkit.engine import lift, linear
from attribkit.explaining import failing, fields, probing
from attribkit.explaining.failing import NetworkFails, tried


class OfTheUser(Exception):
    """Raised by somebody's network."""


@pytest.mark.parametrize("error", [OfTheUser, KeyError, AttributeError, TypeError, AssertionError, RuntimeError])
def test_whatever_a_network_raises_is_its_failure(error: type[Exception]) -> None:
    """The reason is kept."""
    with pytest.raises(NetworkFails, match=f"{error.__name__}: .*too small") as failure, tried():
        raise error("too small")
    assert isinstance(failure.value.__cause__, error)


def test_what_torch_says_of_shapes_is_the_networks_failure_too() -> None:
    """Also where we call torch in its name."""
    with pytest.raises(NetworkFails, match="RuntimeError"), tried():
        attribkit.rewrite(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()))(torch.ones(1, 3, 2, 2))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_nobodys_failure(error: type[BaseException]) -> None:
    with pytest.raises(error), tried():
        raise error


def test_what_the_library_refuses_on_purpose_is_passed_on() -> None:
    with pytest.raises(attribkit.AttribkitError, match="never reached"), tried():
        attribkit.rewrite(Skipping()).forward_to("skipped", torch.ones(1, 3, 8, 8))


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.skipped = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x))


def buggy(*args: Any, **options: Any) -> Any:
    """As a function of ours would be with a slip of the pen."""
    return args[0].no_such_attribute


# As if it stood in a file of ours.
buggy = type(buggy)(buggy.__code__.replace(co_filename=failing.__file__), globals(), "buggy")


@pytest.mark.parametrize(
    "module_and_name", [(linear, "without_input"), (lift, "recognised_module"), (probing, "noise_like")], ids=str
)
@pytest.mark.parametrize(
    "ask", [lambda m, x: attribkit.receptive_field(m, "2", x), lambda m, x: probing.all_windows(m, ["0", "1", "2"], x)]
)
def test_a_bug_of_ours_is_not_taken_for_a_net_that_sees_everything(
    module_and_name: tuple[Any, str], ask: Callable[[nn.Module, Tensor], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes out as it is, wherever in the engine or the probe it lies."""
    model, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)), torch.ones(1, 3, 30, 30)
    module, name = module_and_name
    monkeypatch.setattr(module, name, buggy)
    if hasattr(fields, name):
        monkeypatch.setattr(fields, name, buggy)
    with pytest.raises(AttributeError, match="no_such_attribute"):
        ask(model, images)
