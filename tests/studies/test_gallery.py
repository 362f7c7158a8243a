"""A gallery shows what brute force finds: all activations kept and sorted; and it survives whatever stops it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import studied
import torch
from oracles import attribution
from studied import Inputs, Net
from torch import Tensor, nn

import attribkit

IMAGES, TOP = 30, 4


@pytest.fixture(scope="module")
def net() -> Net:
    return studied.net()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return studied.inputs(IMAGES)


def activations(net: nn.Module, layer: str, images: Tensor) -> list[Tensor]:
    """Of each image alone, by the model itself."""
    kept: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o: kept.append(o.detach().clone()))
    with torch.no_grad():
        for image in images:
            net(image[None].clone())
    handle.remove()
    return [units[0] for units in kept]


def brute_force(units: list[Tensor], score: str, top: int) -> list[list[tuple[float, int, int, int]]]:
    """For each channel (-score, image, row, column) of the strongest images, everything sorted."""
    channels = []
    for channel in range(len(units[0])):
        rows = []
        for image, maps in enumerate(units):
            plane = maps[channel]
            value = {"max": plane.max(), "mean": plane.mean(), "sum": plane.sum()}[score]
            _, row, column = min((-float(v), y, x) for y, line in enumerate(plane) for x, v in enumerate(line))
            rows.append((-float(value), image, row, column))
        channels.append(sorted(rows)[:top])
    return channels


@pytest.mark.parametrize("score", ["max", "mean", "sum"])
@pytest.mark.parametrize("layer", ["conv1", "relu1", "relu2"])
def test_winners_are_those_of_brute_force(net: Net, images: Tensor, layer: str, score: Any) -> None:
    """Exactly in order, and to rounding in value."""
    found = attribkit.gallery(net, Inputs(images), layer=layer, top=TOP, score=score)
    for channel, rows in enumerate(brute_force(activations(net, layer, images), score, TOP)):
        assert found.image[channel].tolist() == [image for _, image, _, _ in rows]
        assert found.position[channel].tolist() == [[row, column] for _, _, row, column in rows]
        assert found.value[channel] == pytest.approx([-value for value, *_ in rows], abs=1e-5)
    assert found.unsure == ()


class ByView(nn.Module):
    """Takes memory to lie as it does in torch by default."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.folded = nn.Conv2d(3, 6, 3), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.folded(x.view(len(x), 12, -1)).view(x.shape)


@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_a_network_that_does_not_take_channels_last(images: Tensor, precision: Any) -> None:
    """As the pass over the data lays them out."""
    torch.manual_seed(0)
    model = nn.Sequential(ByView(), nn.ReLU()).eval()
    found = attribkit.gallery(model, Inputs(images), layer="1", top=TOP, precision=precision)
    for channel, rows in enumerate(brute_force(activations(model, "1", images), "max", TOP)):
        assert found.image[channel].tolist() == [image for _, image, _, _ in rows]
        assert found.value[channel] == pytest.approx([-value for value, *_ in rows], abs=1e-5)


@pytest.mark.parametrize("method", ["guided", "deconvnet", "backprop"])
def test_maps_are_those_of_the_oracle(net: Net, images: Tensor, method: str) -> None:
    """On the part that the unit sees, beyond which the oracle's map is zero."""
    found = attribkit.gallery(net, Inputs(images), layer="relu2", top=2, method=method, channels=[5, 1])
    assert found.channels.tolist() == [5, 1]
    for row, channel in enumerate((5, 1)):
        for place, projection in enumerate(found.projections(channel)):
            image, (y, x) = found.image[row, place], found.position[row, place]
            whole = oracle_map(net, images[image], channel, (y, x), method)
            top, left, bottom, right = projection.box
            inside = whole[:, top:bottom, left:right]
            assert np.abs(inside - projection.map).max() <= 1e-5 * np.abs(whole).max()
            assert np.abs(whole).sum() == pytest.approx(np.abs(inside).sum(), rel=1e-6)
            assert projection.patch.shape == (bottom - top, right - left, 3)


def oracle_map(net: Net, image: Tensor, channel: int, position: tuple[int, int], method: str) -> Any:
    """A map of the whole image."""
    seen: list[Tensor] = []
    handle = net.relu2.register_forward_hook(lambda m, i, o: seen.append(o))
    try:
        return attribution(net, image[None], lambda _: seen[-1][0, channel, position[0], position[1]], method)[
            0
        ].numpy()
    finally:
        handle.remove()


def test_several_layers_share_a_pass(net: Net, images: Tensor) -> None:
    """A layer whose output the next one writes into, too."""
    data = Inputs(images)
    found = attribkit.gallery(net, data, layer=["relu2", "conv2", "conv1"], top=3)
    for layer, of_layer in found.items():
        alone = attribkit.gallery(net, data, layer=layer, top=3)
        assert of_layer.layer == layer
        assert (of_layer.image == alone.image).all()
        assert (of_layer.value == alone.value).all()


def test_statistics_are_those_of_all_images(net: Net, images: Tensor) -> None:
    """How often a channel fires, its mean, percentiles, histogram, and the classes of its winners."""
    labels = [number % 3 for number in range(IMAGES)]
    found = attribkit.gallery(net, Inputs(images, labels), layer="conv2", top=TOP)
    units = torch.stack(activations(net, "conv2", images))
    strongest = units.amax((2, 3)).double().numpy()
    held = found.statistics
    assert held.fires == pytest.approx((strongest > 0).mean(0))
    assert held.mean == pytest.approx(strongest.mean(0), abs=1e-5)
    assert held.quantiles == pytest.approx(np.quantile(strongest, [0.99, 0.9, 0.5], axis=0).T, abs=1e-5)
    assert (held.histogram.sum(1) == IMAGES).all()
    for channel in range(8):
        winners = [labels[image] for image in found.image[channel]]
        assert held.classes[channel] == {str(label): winners.count(label) for label in set(winners)}
        shares = [winners.count(label) / TOP for label in set(winners)]
        assert held.entropy[channel] == pytest.approx(-sum(share * np.log2(share) for share in shares))
        for band, quantile in enumerate((0.99, 0.9, 0.5)):
            nearest = np.abs(strongest[:, channel] - np.quantile(strongest[:, channel], quantile)).argmin()
            assert found.bands.image[channel, 3 * band] == nearest


def test_dead_channels_are_named(images: Tensor) -> None:
    net = studied.net()
    with torch.no_grad():
        net.conv2.bias[3] = -1000.0
    found = attribkit.gallery(net, Inputs(images), layer="relu2", top=2)
    assert found.dead == [3]
    assert found.image[3].tolist() == [0, 1]  # all are equal, so the first ones


def test_equals_come_in_the_order_of_the_images(net: Net, images: Tensor) -> None:
    """Also over the borders of batches and shards."""
    same = images[:1].expand(1100, -1, -1, -1)
    found = attribkit.gallery(net, Inputs(same), layer="relu1", top=5)
    assert (found.image == np.arange(5)).all()


def test_a_channel_with_fewer_images_has_places_left(net: Net, images: Tensor) -> None:
    found = attribkit.gallery(net, Inputs(images[:2]), layer="relu2", top=4)
    assert (found.image[:, 2:] == -1).all()
    assert np.isnan(found.value[:, 2:]).all()
    assert (found.position[:, 2:] == -1).all()
    assert len(found.maps(0)) == 2


def test_images_of_several_sizes(net: Net, images: Tensor) -> None:
    """Each goes through the network as it is."""
    mixed = [image[:, : 16 + 4 * (number % 3)] for number, image in enumerate(images)]
    found = attribkit.gallery(net, mixed, layer="relu2", top=TOP)
    for channel, rows in enumerate(brute_force(activations(net, "relu2", mixed), "max", TOP)):  # type: ignore[arg-type]
        assert found.image[channel].tolist() == [image for _, image, _, _ in rows]
        assert len(found.maps(channel)) == TOP


def test_a_score_of_ones_own(net: Net, images: Tensor) -> None:
    def spread(units: Tensor) -> Tensor:
        return units.flatten(2).std(2)

    found = attribkit.gallery(net, Inputs(images), layer="relu2", top=3, score=spread)
    values = torch.stack([units.flatten(1).std(1) for units in activations(net, "relu2", images)])
    assert (found.image == values.argsort(0, descending=True)[:3].T.numpy()).all()


def test_a_layer_without_positions(net: Net, images: Tensor) -> None:
    """Its units see all of the image."""
    found = attribkit.gallery(net, Inputs(images), layer="head", top=2)
    logits = torch.cat([net(image[None]) for image in images])
    assert (found.image == logits.argsort(0, descending=True)[:2].T.numpy()).all()
    assert found.maps(0)[0].shape == (3, 24, 24)


def test_the_model_stays_as_it_is(images: Tensor) -> None:
    net = studied.net().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    attribkit.gallery(net, Inputs(images), layer="relu2", top=2).maps(0)
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
    assert all((before[name] == tensor).all() for name, tensor in net.state_dict().items())
