"""Layers that give tokens, images x tokens x features: what the studies of features make of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from studied import Inputs, inputs
from torch import Tensor, nn

import attribkit
from attribkit.errors import BadType
from attribkit.studies.featured import grid_of, pooled

PATCH = 8


class Patches(nn.Module):
    """A picture of 24 x 24 as nine tokens of six features, which no convolution looks at again."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 6, PATCH, stride=PATCH)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.mix(tokens).relu().mean(1))


def tokens(model: Patches, image: Tensor) -> list[list[float]]:
    """What `mix` gives, patch by patch."""
    found = []
    for top in range(0, 24, PATCH):
        for left in range(0, 24, PATCH):
            patch = image[:, top : top + PATCH, left : left + PATCH]
            feature = (model.embed.weight * patch).sum((1, 2, 3)) + model.embed.bias
            found.append((model.mix.weight @ feature + model.mix.bias).tolist())
    return found


def test_distances_are_those_of_all_tokens() -> None:
    model, x = Patches().eval(), inputs(2)
    found = attribkit.invariance(model, x, ["mix"], moves={"flip": [0]})
    for number, image in enumerate(x):
        own, mirrored = (np.array(tokens(model, each)) for each in (image, image.flip(2)))
        expected = np.linalg.norm(mirrored - own) / np.linalg.norm(own)
        assert found.distance[number, 0, 0] == pytest.approx(expected, rel=1e-4)


def test_a_layer_of_tokens_is_probed() -> None:
    """The class is in the sign of one feature of the last tokens; it is found where it is planted, among all layers."""
    model = Patches().eval()
    images = torch.randn(120, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 0.1
    targets = [number % 2 for number in range(120)]
    for image, target in zip(images, targets, strict=True):
        image[:, 16:, 16:] += (2 * target - 1) * model.embed.weight[0].detach()
    found = attribkit.probe(model, Inputs(images, targets), None)
    assert found.layers == ("embed", "mix", "head")
    assert found.accuracy[1] == 1
    assert found.features.tolist() == [54, 54, 2]


@pytest.mark.parametrize(
    ("channels", "sides", "most", "grid"),
    [(4, (), 1, ()), (4, (9,), 8, (2,)), (4, (9,), 3, (1,)), (4, (9,), 99, (9,)), (4, (6, 3), 60, (5, 3))],
)
def test_tokens_are_averaged_in_groups(channels: int, sides: tuple[int, ...], most: int, grid: tuple[int, ...]) -> None:
    assert grid_of(channels, sides, most) == grid
    units = torch.rand(2, channels, *sides, generator=torch.Generator().manual_seed(0))
    found = pooled(units, grid).reshape(2, channels, *grid)
    if grid == (2,):
        np.testing.assert_allclose(found, np.stack([units[..., :5].mean(-1), units[..., 4:].mean(-1)], -1), rtol=1e-6)
    if grid == sides:
        np.testing.assert_array_equal(found, units)


def test_a_gallery_of_tokens_is_refused() -> None:
    """It has no place in the image to show."""
    with pytest.raises(BadType, match="a gallery needs a layer of maps or of vectors; 'mix' gives tokens"):
        attribkit.gallery(Patches(), Inputs(inputs(4)), layer="mix")
