"""Targets: which units of an output are meant, and the signal that starts at them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attribkit.explaining import targets
from attribkit.units import Unit


def some_output(*shape: int) -> Tensor:
    """Values from -1 to 1, no two of them equal, in no order."""
    count = torch.Size(shape).numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return (order.double() / (count - 1) * 2 - 1).reshape(shape)


def places(units: list[list[Unit]]) -> list[list[tuple[int, int, Any]]]:
    return [[(unit.image, unit.channel, unit.position) for unit in row] for row in units]


# choose ------------------------------------------------------------------------------------------------------


def test_the_strongest_unit_is_the_largest_value() -> None:
    """Of all channels and positions, the one place where the output has its maximum, for each image."""
    output = some_output(3, 4, 5, 6)
    for image, (unit,) in enumerate(targets.choose(output, "layer", None, "max")):
        assert unit.position is not None
        assert output[(image, unit.channel, *unit.position)] == output[image].max()
        assert unit == Unit(image, "layer", unit.channel, unit.position, output[image].max().item())


def test_the_strongest_is_not_the_largest_in_size() -> None:
    """A large negative value is a weak unit: a map of all negative values has its strongest nearest to zero."""
    output = -some_output(1, 2, 3, 3).abs() - 1
    output[0, 1, 2, 0], output[0, 0, 1, 1] = -0.5, -100
    assert places(targets.choose(output, "layer", None, "max")) == [[(0, 1, (2, 0))]]


def test_given_channels_are_taken_where_they_are_strongest() -> None:
    """Each channel has its own position; the order and repetitions of the channels are kept."""
    output = some_output(2, 4, 5, 6)
    channels = torch.tensor([[3, 0, 3], [1, 2, 0]])
    for image, row in enumerate(targets.choose(output, None, channels, "max")):
        assert [unit.channel for unit in row] == channels[image].tolist()
        for unit in row:
            assert unit.position is not None
            assert output[(image, unit.channel, *unit.position)] == output[image, unit.channel].max()
            assert unit.activation == output[image, unit.channel].max().item()


@pytest.mark.parametrize(
    ("at", "position"), [((4, 0), (4, 0)), ((-1, -6), (4, 0)), ([2, 3], (2, 3)), (torch.Size([1, 5]), (1, 5))], ids=str
)
def test_a_position_chooses_the_strongest_channel_there(at: Any, position: tuple[int, int]) -> None:
    """Without a channel it is the one that is strongest at this very position, not in the whole map."""
    output = some_output(2, 4, 5, 6)
    there = output[(slice(None), slice(None), *position)]
    expected = [[(image, int(there[image].argmax()), position)] for image in range(2)]
    assert places(targets.choose(output, "layer", None, at)) == expected
    ((unit,), _) = targets.choose(output, "layer", torch.tensor([[2], [2]]), at)
    assert (unit.channel, unit.position, unit.activation) == (2, position, there[0, 2].item())


def test_a_position_may_be_a_tensor() -> None:
    """A row of `tensor.nonzero()` is a position like another."""
    output = some_output(2, 4, 5, 6)
    ((unit,), _) = targets.choose(output, "layer", torch.tensor([[2], [2]]), torch.tensor([3, 4]))  # type: ignore[arg-type]
    assert unit.position == (3, 4)


def test_all_positions_are_one_unit_without_a_position() -> None:
    """at="all" is a whole channel: its activation is the sum, and the channel is the one of the strongest unit."""
    output = some_output(2, 4, 5, 6)
    for image, (unit,) in enumerate(targets.choose(output, "layer", None, "all")):
        assert unit.channel == int(output[image].amax((1, 2)).argmax())
        assert unit.position is None
        assert unit.activation == pytest.approx(output[image, unit.channel].sum().item())


@pytest.mark.parametrize("at", ["max", "all"])
def test_logits_have_no_positions(at: Any) -> None:
    """An output of images x channels has channels only, and their values are the activations."""
    output = some_output(3, 7)
    for image, (unit,) in enumerate(targets.choose(output, None, None, at)):
        assert unit == Unit(image, None, int(output[image].argmax()), None, output[image].max().item())


@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 4, 5, 6)], ids=["line", "volume"])
def test_positions_have_the_dimensions_of_the_output(shape: tuple[int, ...]) -> None:
    """One number along a line, three in a volume."""
    output = some_output(*shape)
    for image, (unit,) in enumerate(targets.choose(output, "layer", None, "max")):
        assert unit.position is not None
        assert len(unit.position) == len(shape) - 2
        assert output[(image, unit.channel, *unit.position)] == output[image].max()
    last = tuple(-1 for _ in shape[2:])
    assert targets.choose(output, "layer", None, last)[0][0].position == tuple(size - 1 for size in shape[2:])


def test_units_are_plain_numbers() -> None:
    """Whatever the output's type, a unit holds Python's ints and floats, which any file format can take."""
    output = some_output(1, 3, 4, 4).bfloat16()
    ((unit,),) = targets.choose(output, "layer", None, "max")
    assert type(unit.channel) is int
    assert type(unit.activation) is float
    assert unit.position is not None
    assert [type(i) for i in unit.position] == [int, int]


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ((5, 0), r"no position \(5, 0\) in a map of 5x6"),
        ((0, -7), r"no position \(0, -7\) in a map of 5x6"),
        ((1, 2, 3), r"no position \(1, 2, 3\) in a map of 5x6"),
        ((), r"no position \(\) in a map of 5x6"),
        ("everywhere", r"at is 'max', 'inside', 'all' or a position such as \(4, 7\), not 'everywhere'"),
    ],
    ids=str,
)
def test_wrong_positions(at: Any, message: str) -> None:
    """A position that the map has not is told, with the size of the map."""
    with pytest.raises(ValueError, match=message):
        targets.choose(some_output(1, 2, 5, 6), "layer", None, at)


@pytest.mark.parametrize("channel", [-1, 4, 400])
def test_wrong_channels(channel: int) -> None:
    """A channel that the layer has not, a negative one included, is told with the number of channels."""
    with pytest.raises(ValueError, match=rf"'layer' has 4 channels, 0 to 3; there is no {channel}$"):
        targets.choose(some_output(1, 4, 2, 2), "layer", torch.tensor([[0, channel]]), "max")
    with pytest.raises(ValueError, match=rf"the model has 4 outputs, 0 to 3; there is no {channel}$"):
        targets.choose(some_output(1, 4), None, torch.tensor([[channel]]), "max")


@pytest.mark.parametrize("output", [torch.zeros(3), torch.zeros(()), torch.zeros(2, 3).long()], ids=str)
def test_outputs_that_have_no_channels_or_no_gradient(output: Tensor) -> None:
    """A vector, a scalar and whole numbers are no images x channels of floats."""
    with pytest.raises(TypeError, match=r"cannot explain an output of shape .* pass output="):
        targets.choose(output, None, None, "max")


# signal ------------------------------------------------------------------------------------------------------


def test_the_signal_is_one_at_each_unit_and_zero_elsewhere() -> None:
    """One unit an image; a unit without a position is its whole channel."""
    output = some_output(3, 4, 5, 6).float()
    units = [Unit(0, "l", 2, (1, 5), 0.0), Unit(1, "l", 0, None, 0.0), Unit(2, "l", 3, (0, 0), 0.0)]
    expected = torch.zeros(3, 4, 5, 6)
    expected[0, 2, 1, 5], expected[1, 0], expected[2, 3, 0, 0] = 1, 1, 1
    found = targets.signal(output, units)
    assert found.dtype == output.dtype
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_the_signal_of_logits() -> None:
    """A logit's signal is a row of the unit matrix."""
    found = targets.signal(some_output(2, 3), [Unit(0, None, 1, None, 0.0), Unit(1, None, 0, None, 0.0)])
    assert found.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_a_signal_needs_a_unit_for_each_image() -> None:
    """Units that are fewer or more than the images are a mistake, never passed over."""
    with pytest.raises(ValueError, match="."):  # noqa: RUF043 (zip's own message)
        targets.signal(some_output(2, 3), [Unit(0, None, 1, None, 0.0)])


# as_channels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (3, [[3], [3]]),
        (torch.tensor(3), [[3], [3]]),
        (np.int64(3), [[3], [3]]),
        ([3, 1], [[3], [1]]),
        ((3, 1), [[3], [1]]),
        (np.array([3, 1]), [[3], [1]]),
        (torch.tensor([3, 1], dtype=torch.uint8), [[3], [1]]),
    ],
    ids=repr,
)
def test_one_channel_per_image(one: Any, expected: list[list[int]]) -> None:
    """The singular is a number for all images, or a list of one per image."""
    found = targets.as_channels(one, None, 2, "channel")
    assert found is not None
    assert found.dtype == torch.long
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("several", "expected"),
    [
        ([3], [[3], [3]]),
        ([3, 1], [[3, 1], [3, 1]]),
        ((3, 1, 2), [[3, 1, 2], [3, 1, 2]]),
        (range(3), [[0, 1, 2], [0, 1, 2]]),
        (np.array([3, 1]), [[3, 1], [3, 1]]),
        (torch.tensor([3, 1], dtype=torch.int16), [[3, 1], [3, 1]]),
        ([[3, 1, 0]], [[3, 1, 0], [3, 1, 0]]),
        ([[3, 1], [0, 2]], [[3, 1], [0, 2]]),
        (torch.tensor([[3, 1], [0, 2]]), [[3, 1], [0, 2]]),
    ],
    ids=repr,
)
def test_several_channels_of_every_image(several: Any, expected: list[list[int]]) -> None:
    """The plural is a flat list for all images, or a list for each."""
    found = targets.as_channels(None, several, 2, "channel")
    assert found is not None
    assert found.dtype == torch.long
    assert found.tolist() == expected


def test_no_channels_is_none() -> None:
    """None stands for the strongest, and stays None."""
    assert targets.as_channels(None, None, 2, "channel") is None


@pytest.mark.parametrize(
    "value",
    [1.5, [1.0, 2.0], True, [True, False], 1j, [[[1]]], torch.tensor([0.0]), "cat", ["cat"], [[1], [2, 3]], {"cat": 1}],
    ids=str,
)
def test_channels_that_are_no_whole_numbers(value: Any) -> None:
    """Floats, truth values, complex numbers and lists of lists of lists are refused, in both forms."""
    with pytest.raises(TypeError, match="channel= takes whole numbers, not"):
        targets.as_channels(value, None, 2, "channel")
    with pytest.raises(TypeError, match="targets= takes whole numbers, not"):
        targets.as_channels(None, value, 2, "target")


@pytest.mark.parametrize("value", [[], [1], [0, 1, 2], [[0, 1], [2, 3]]], ids=str)
def test_a_list_that_is_not_one_per_image(value: Any) -> None:
    """The error says what fits, and names the plural, which today's users of lists may have meant."""
    with pytest.raises(ValueError, match=r"does not fit 2 images: .* one per image; channels= takes several"):
        targets.as_channels(value, None, 2, "channel")
    with pytest.raises(ValueError, match=r"does not fit 2 images: .* one per image; targets= takes several"):
        targets.as_channels(value, None, 2, "target")


@pytest.mark.parametrize("value", [[[0], [1], [2]], torch.zeros(3, 2).long()], ids=str)
def test_lists_for_another_number_of_images(value: Any) -> None:
    """As many lists as images, or one: both numbers are named."""
    with pytest.raises(ValueError, match=r"3 lists of channels do not fit 2 images"):
        targets.as_channels(None, value, 2, "channel")
