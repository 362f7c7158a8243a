"""The figures on nets small enough to draw them by hand."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attribkit
from attribkit.reference_models.switch_study import figures
from attribkit.reference_models.switch_study.figures import lower_layers, side_by_side
from attribkit.reference_models.switch_study.subjects import Subject
from attribkit.report.pictures import Picture, enlarged, grid, panel, picture

SIDE, COUNT = 16, 12
GREY = 128


def head() -> list[nn.Module]:
    return [nn.Conv2d(8, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def all_strides() -> nn.Sequential:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *head())


def with_pools() -> nn.Sequential:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), *head())


def made(net: nn.Module, middle: str, last: str, pictures: Tensor | None = None) -> Subject:
    if pictures is None:
        pictures = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    strides = any(isinstance(module, nn.Conv2d) and module.stride != (1, 1) for module in net.modules())
    pooled = attribkit.strides_to_pools(net) if strides else None
    return Subject("small", "trained", net, pooled, middle, last, pictures * 2 - 1, pictures)


@pytest.fixture(scope="module")
def strided() -> Subject:
    return made(all_strides(), "0", "2")


@pytest.fixture(scope="module")
def pooled() -> Subject:
    return made(with_pools(), "0", "3")


def classic(values: Tensor, factor: int) -> Picture:
    return enlarged(picture(values.detach().numpy(), "classic"), factor)


def photograph(values: Tensor, factor: int) -> Picture:
    return enlarged(np.rint(255 * values.numpy()).astype(np.uint8).transpose(1, 2, 0), factor)


def patches(one: Subject, layer: str, *options: Any, **named: Any) -> Picture:
    return figures.strongest_patches(one, [layer], *options, **named)[layer]


def tile(sheet: Picture, row: int, column: int, size: int) -> Picture:
    """The part of a grid, whose lines are four pixels wide."""
    top, left = 4 + row * (size + 4), 4 + column * (size + 4)
    return sheet[top : top + size, left : left + size]


def same(left: Picture, right: Picture) -> bool:
    """Up to the rounding of a float32."""
    return left.shape == right.shape and bool((abs(left.astype(int) - right) <= 1).all())


# -------------------------------------------------------------------------------------------------- the lower layers


def test_the_first_layer_responds_to_its_own_kernels() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
    kernels = net.get_parameter("0.weight")
    assert same(lower_layers(net, "0", SIDE), grid([classic(kernel, 22) for kernel in kernels]))


def test_a_signal_is_rectified_on_its_way_down_to_the_image() -> None:
    """By hand: a row of kernels, what is above zero of it, and through the first layer's kernels with its stride."""
    net = all_strides()
    first, second = net.get_parameter("0.weight"), net.get_parameter("2.weight")
    tiles = [
        classic(F.conv_transpose2d(kernels[None].relu(), first, stride=2)[0], factor=66 // 7) for kernels in second[:4]
    ]
    for side in (8, SIDE, (SIDE, 2 * SIDE)):  # of 8 pixels only the unit in the middle sees no edge
        assert same(lower_layers(net, "2", side, most=4), grid(tiles))


def test_max_pools_spread_the_signal_evenly() -> None:
    net = with_pools()
    first, second = net.get_parameter("0.weight"), net.get_parameter("3.weight")
    spread = second.relu().repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
    tiles = [classic(F.conv_transpose2d(signal[None], first)[0], factor=8) for signal in spread]
    assert same(lower_layers(net, "3", SIDE), grid(tiles))


# ---------------------------------------------------------------------------------------------- the strongest patches


def test_the_strongest_patch_comes_first_wherever_it_is() -> None:
    """A kernel planted in two images, once at the edge: what is shown is the image there, and grey beyond."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU())
    kernel = net.get_parameter("0.weight")[1].detach()
    pictures = 0.5 + 0.01 * torch.rand(COUNT, 3, SIDE, SIDE)
    pictures[7, :, 0:2, 13:16] += 2 * kernel[:, 1:]  # around the unit at 0, 14
    pictures[3, :, 9:12, 4:7] += kernel
    sheet = patches(made(net, "0", "0", pictures), "0", channels=[1], count=3)
    assert sheet.shape == (2 * 70 + 4, 3 * 70 + 4, 3)
    first, second = tile(sheet, 0, 0, 66), tile(sheet, 0, 1, 66)
    assert (first[:22] == GREY).all()
    assert same(first[22:], photograph(pictures[7, :, 0:2, 13:16], 22))
    assert same(second, photograph(pictures[3, :, 9:12, 4:7], 22))
    at_the_edge = kernel.clone()
    at_the_edge[:, 0] = 0
    assert same(tile(sheet, 1, 0, 66), classic(at_the_edge, 22))
    assert same(tile(sheet, 1, 1, 66), classic(kernel, 22))


def test_neither_images_nor_patches_need_be_square() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, (1, 3), padding=(0, 1)), nn.ReLU())
    kernel = net.get_parameter("0.weight")[0].detach()
    pictures = 0.5 + 0.01 * torch.rand(COUNT, 3, SIDE, SIDE + 8)
    pictures[5, :, 15:, 22:] += 2 * kernel[:, :, :2]  # around the last unit
    sheet = patches(made(net, "0", "0", pictures), "0", channels=[0], count=1)
    assert sheet.shape == (4 + 2 * (22 + 4), 4 + 66 + 4, 3)
    assert same(sheet[4:26, 4:48], photograph(pictures[5, :, 15:, 22:], 22))
    assert (sheet[4:26, 48:70] == GREY).all()


def test_patches_and_maps_are_those_of_explain(strided: Subject) -> None:
    """Each channel of a deeper layer, pixel by pixel: a unit at y sees the rows from 2y - 3 to 2y + 3."""
    with torch.no_grad():
        strength, places = strided.net[:3](strided.images).flatten(2).max(2)  # type: ignore[index]
    sheet = patches(strided, "2", count=5)
    assert sheet.shape == (2 * 8 * 67 + 4, 5 * 67 + 4, 3)
    for channel in range(8):
        order = sorted(range(COUNT), key=lambda image: -float(strength[image, channel]))
        for column, image in enumerate(order[:5]):
            at = divmod(int(places[image, channel]), SIDE // 2)
            one = strided.images[image][None]
            explained = attribkit.explain(strided.net, one, "guided", layer="2", channel=channel, at=at)
            seen, map_of = torch.full((3, 7, 7), GREY / 255), torch.zeros(3, 7, 7)
            for dy, dx in np.ndindex(7, 7):
                y, x = 2 * at[0] - 3 + dy, 2 * at[1] - 3 + dx
                if 0 <= y < SIDE and 0 <= x < SIDE:
                    seen[:, dy, dx] = strided.pictures[image, :, y, x]
                    map_of[:, dy, dx] = explained.values[0, :, y, x]
            assert same(tile(sheet, 2 * channel, column, 63), photograph(seen, 9))
            assert same(tile(sheet, 2 * channel + 1, column, 63), classic(map_of, 9))


def test_without_channels_the_first_eight(strided: Subject) -> None:
    """Or all of them, and all images, where there are fewer."""
    assert (patches(strided, "2", count=2) == patches(strided, "2", range(8), 2)).all()
    assert (patches(strided, "4") == patches(strided, "4", range(4), 10)).all()
    assert same(patches(strided.first(3), "4"), patches(strided.first(3), "4", range(4), 3))
    assert not same(patches(strided, "2", [0, 1], 2), patches(strided, "2", [1, 0], 2))


def test_a_unit_that_sees_everything_is_shown_with_the_whole_image() -> None:
    """Nothing is cut off, wherever the unit is: each image once."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 31, padding=15), nn.ReLU())
    one = made(net, "0", "0")
    sheet = patches(one, "0", [0], count=COUNT)
    shown = [tile(sheet, 0, column, 64) for column in range(COUNT)]
    for whole in one.pictures:
        assert sum(same(part, photograph(whole, 4)) for part in shown) == 1


def test_a_large_patch_is_averaged_over_whole_pixels() -> None:
    """67 pixels are one too many: the means of two by two, and at the end of what is left."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 1, 67), nn.ReLU())
    pictures = torch.rand(2, 3, 74, 74)
    one = made(net, "0", "0", pictures)
    image, y, x = (int(i) for i in torch.unravel_index(net(one.images)[:, 0].argmax(), (2, 8, 8)))
    seen = pictures[image, :, y : y + 67, x : x + 67]
    means = torch.stack(
        [seen[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2)) for i in range(34) for j in range(34)], 1
    )
    sheet = patches(one, "0", [0], count=1)
    assert same(tile(sheet, 0, 0, 34), photograph(means.view(3, 34, 34), 1))


# ------------------------------------------------------------------------------------------------------- side by side


TITLES = [
    "picture",
    *("deconvnet, no switches", "deconvnet, own switches"),
    *("guided, no switches", "guided, own switches"),
    *("backprop, no switches", "backprop, own switches"),
]


@pytest.mark.parametrize("kind", ["middle", "last", "class"])
@pytest.mark.parametrize("which", ["strided", "pooled"])
def test_each_column_is_explains_under_its_title(request: pytest.FixtureRequest, which: str, kind: str) -> None:
    """The unit is that of the network as it is; without switches there are none in it, or they are spread evenly."""
    one: Subject = request.getfixturevalue(which)
    layer = {"middle": one.middle, "last": one.last, "class": None}[kind]
    ways = [(one.net, "own"), (one.pooled, "own")] if which == "strided" else [(one.net, "uniform"), (one.net, "own")]
    shown = [5, 2]
    columns = [[photograph(one.pictures[row], 14) for row in shown]]
    for rule in ("deconvnet", "guided", "backprop"):
        for net, switches in ways:
            columns.append([])
            for image in one.images[shown]:
                unit = attribkit.explain(one.net, image[None], "backprop", layer=layer).units[0]
                what = {"channel": unit.channel, "at": unit.position} if layer else {"target": unit.channel}
                found = attribkit.explain(net, image[None], rule, layer=layer, switches=switches, **what)
                columns[-1].append(classic(found.values[0], 14))
    expected = panel([grid(column, columns=1) for column in columns], TITLES)
    assert same(side_by_side(one, kind, shown), expected)


def test_a_deconvnet_without_switches_shows_the_same_for_every_image(strided: Subject) -> None:
    """For one class, that is; with switches it does not, and guided backprop never does."""
    assert len(strided.units["class"].channels[:2].unique()) == 1
    sheet = side_by_side(strided, "class", [0, 1])
    foot, height, width = len(sheet) - 12 - 4, 14 * SIDE, 14 * SIDE + 8
    upper, lower = (sheet[foot - end - height : foot - end] for end in (height + 4, 0))
    alike = [
        bool((upper[:, left : left + width] == lower[:, left : left + width]).all())
        for left in range(12, 12 + 7 * (width + 12), width + 12)
    ]
    assert alike == [False, True, False, False, False, False, False]


def test_of_each_class_the_image_that_the_network_is_surest_of() -> None:
    """Images that say their scores: class 1 is named rightly twice, class 0 once, class 2 never."""
    scores = torch.tensor([[9.0, 1, 1], [5, 1, 1], [1, 4, 1], [1, 6, 2], [1, 7, 1], [8, 1, 1]])
    images = scores[:, :, None, None].expand(-1, -1, SIDE, SIDE)
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.dirac_(net.get_parameter("0.weight"))
    one = Subject("says", "trained", net, None, "0", "0", images, images)
    labels = torch.tensor([1, 0, 1, 1, 2, 2])  # 9 and 8 for class 0 and 7 for class 1 are wrong
    assert figures.surest(one, labels) == [1, 3]
    assert figures.surest(one, None) == [0, 4]  # of the classes that it names, the surest first


# ---------------------------------------------------------------------------------------------------- all of a subject


def test_the_figures_of_a_net_without_pools(strided: Subject) -> None:
    """Patches are looked for in all images, and what stands side by side are a few."""
    few, labels = strided.first(6), torch.arange(6) % 4
    found = figures.figures(few, labels, strided)
    assert list(found) == [
        *("lower-layers-0", "lower-layers-2", "lower-layers-4"),
        *("strongest-patches-0", "strongest-patches-2"),
        *("side-by-side-last", "side-by-side-class"),
    ]
    rows = figures.surest(few, labels)
    assert (found["lower-layers-2"][0] == lower_layers(strided.net, "2", SIDE)).all()
    assert (found["strongest-patches-2"][0] == patches(strided, "2")).all()
    assert (found["side-by-side-class"][0] == side_by_side(strided, "class", rows)).all()
    assert found["lower-layers-2"][1].startswith("What 2 responds to")
    assert found["strongest-patches-0"][1].startswith("What excites 0 most, of 12 images")
    assert found["side-by-side-last"][1] == (
        "The strongest unit of 2, one row for each class, with the image that it is surest of among those that it "
        "names rightly: the picture, then deconvnet, guided and backprop, each without switches (as it is) and with "
        "the image's own after strides_to_pools."
    )


def test_the_figures_of_a_net_with_pools(pooled: Subject) -> None:
    """Its lower layers would not do without switches; the others are the control."""
    found = figures.figures(pooled, None, pooled)
    assert list(found) == ["strongest-patches-0", "strongest-patches-3", "side-by-side-last", "side-by-side-class"]
    assert found["side-by-side-class"][1] == (
        "The class that the network names, in the images that it is surest of, no two of one class: the picture, then "
        "deconvnet, guided and backprop, each without switches (uniform) and with the image's own."
    )


def figures_of(one: Subject) -> dict[str, tuple[Picture, str]]:
    return figures.figures(one, None, one)


def test_a_net_that_names_nothing_rightly_is_shown_where_it_is_surest(pooled: Subject) -> None:
    named = attribkit.Cases(pooled.net, pooled.images).classes
    found = figures.figures(pooled, (named + 1) % 4, pooled)
    assert (found["side-by-side-class"][0] == side_by_side(pooled, "class", figures.surest(pooled, None))).all()
    assert "no two of one class" in found["side-by-side-class"][1]


def test_the_papers_layers_where_there_are_some_of_these_names() -> None:
    names = ("conv1", "relu1", "conv6", "relu6", "conv9", "relu9", "mean", "flat")
    net = nn.Sequential(OrderedDict(zip(names, all_strides(), strict=True)))
    papers = [stem for stem in figures_of(made(net, "conv1", "conv6")) if "patches" in stem]
    assert papers == ["strongest-patches-conv6", "strongest-patches-conv9"]


def test_a_stem_has_no_suffix() -> None:
    """The path of a nested layer has dots."""
    body = nn.Sequential(*all_strides()[:4])
    net = nn.Sequential(OrderedDict(body=body, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()))
    found = figures_of(made(net, "body.0", "body.2"))
    assert "strongest-patches-body-2" in found
    assert "body.2" in found["strongest-patches-body-2"][1]
    assert not any("." in stem for stem in found)
