"""`evaluate` on a classifier that looks at known pixels only: the map of those pixels wins, a constant gets chance."""

from __future__ import annotations

import captum.attr
import pytest
import torch
from torch import Tensor, nn

import attribkit
from attribkit import Cases, evaluate

SIDE, COUNT = 32, 24


class Quarters(nn.Module):
    """The score of each of four classes is the brightness of one quarter of the image, whatever its size."""

    def forward(self, x: Tensor) -> Tensor:
        quarters = nn.functional.adaptive_avg_pool2d(x.relu().mean(1, keepdim=True), 2)
        return quarters.flatten(1)


def bright(images: Tensor, classes: Tensor) -> Tensor:
    """Where the image is bright, in the quarter of the class: the right answer."""
    top, left = classes // 2 == 0, classes % 2 == 0
    half = images.shape[-1] // 2
    mask = torch.zeros(len(images), 1, *images.shape[2:])
    for index in range(len(images)):
        rows = slice(0, half) if top[index] else slice(half, None)
        columns = slice(0, half) if left[index] else slice(half, None)
        mask[index, :, rows, columns] = 1
    return images.relu().mean(1, keepdim=True) * mask


def constant(images: Tensor, classes: Tensor) -> Tensor:
    return torch.ones_like(images)


@pytest.fixture(scope="module")
def cases() -> Cases:
    """Noise, with one quarter of each image brighter."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(COUNT, 3, SIDE, SIDE, generator=generator)
    classes = torch.arange(COUNT) % 4
    return Cases(Quarters(), images + 0.5 * (bright(torch.ones_like(images), classes) > 0))


def test_the_classes_are_those_that_the_model_names(cases: Cases) -> None:
    assert cases.classes.tolist() == [index % 4 for index in range(COUNT)]
    asked = torch.full((COUNT,), 2)
    assert Cases(Quarters(), cases.images, asked).classes is asked


@pytest.mark.parametrize(
    ("metric", "at_least", "chance"),
    [
        ("source retrieval", 1.0, 0.0),
        ("image dependence", 0.3, 0.0),
        ("insertion - deletion", 0.5, 0.0),
        ("occlusion", 0.5, None),  # a constant has no ranks
    ],
)
def test_the_pixels_that_count_are_found(cases: Cases, metric: str, at_least: float, chance: float | None) -> None:
    right, nothing = evaluate(bright, metric, cases), evaluate(constant, metric, cases)
    assert right.shape == nothing.shape == (COUNT,)
    assert right.mean() >= at_least
    if chance is None:
        assert nothing.isnan().all()
    else:
        assert nothing.mean() == pytest.approx(chance, abs=0.1)


def test_the_grid_game(cases: Cases) -> None:
    """A map that knows its cell has all of it there; a constant has a ninth."""

    class Whole(nn.Module):
        """Classes by brightness of each colour, so that a mosaic is what its images are."""

        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    images = 0.1 * torch.rand(12, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    for index in range(12):
        images[index, index % 3] += 1
    game = Cases(Whole(), images)

    def colour(mosaics: Tensor, classes: Tensor) -> Tensor:
        return (mosaics.gather(1, classes[:, None, None, None].expand(-1, 1, *mosaics.shape[2:])) > 0.5).float()

    right = evaluate(colour, "grid", game)
    assert right.tolist() == pytest.approx([1.0] * 12)
    assert evaluate(constant, "grid", game).tolist() == pytest.approx([1 / 9] * 12)
    assert evaluate(constant, "grid", Cases(Whole(), images[:8])).isnan().all()


def test_class_sensitivity(cases: Cases) -> None:
    """Maps of two quarters have nothing in common; one that does not ask for the class is the same for both."""
    assert evaluate(bright, "class sensitivity", cases).tolist() == pytest.approx([0.0] * COUNT)
    assert evaluate(constant, "class sensitivity", cases).tolist() == pytest.approx([1.0] * COUNT)


@pytest.mark.filterwarnings("ignore:Setting backward hooks", "ignore:Input Tensor 0 did not already")
def test_captums_methods_and_rewritten_networks_alike() -> None:
    """The same rule by either tool scores the same, image by image."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ).eval()
    images = torch.randn(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    few = Cases(net, images, torch.arange(COUNT) % 4)
    theirs = evaluate(captum.attr.GuidedBackprop(net).attribute, "image dependence", few)
    ours = evaluate(attribkit.rewrite(net, "guided"), "image dependence", few)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert not torch.allclose(ours, evaluate(attribkit.rewrite(net, "backprop"), "image dependence", few))


def test_a_metric_of_ones_own(cases: Cases) -> None:
    def brightness(method: object, some: Cases) -> Tensor:
        assert callable(method)
        maps = method(some.images, some.classes)
        assert isinstance(maps, Tensor)
        return maps.flatten(1).sum(1)

    assert evaluate(constant, brightness, cases).tolist() == [3 * SIDE * SIDE] * COUNT


def test_bad_cases_are_told(cases: Cases) -> None:
    with pytest.raises(ValueError, match="there is no metric 'beauty'; choose one of source retrieval"):
        evaluate(bright, "beauty", cases)
    with pytest.raises(ValueError, match="targets do not fit 24 images"):
        evaluate(bright, "grid", Cases(Quarters(), cases.images, torch.tensor([1])))
    with pytest.raises(ValueError, match="use a classifier"):
        evaluate(bright, "grid", Cases(nn.Conv2d(3, 2, 3), cases.images))


def test_the_images_stay_as_they_are() -> None:
    """Also where the first layer writes into what it gets."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(3 * 8 * 8, 4)).eval()
    images = torch.randn(4, 3, 8, 8)
    before = images.clone()
    for metric in ("source retrieval", "image dependence", "insertion - deletion", "occlusion", "class sensitivity"):
        evaluate(lambda images, classes: torch.ones_like(images), metric, Cases(net, images))
        assert torch.equal(images, before), metric
