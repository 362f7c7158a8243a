"""Which unit is explained where not all of it is given: the strongest, inside of the image, the most unusual."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from commands import Command
from torch import Tensor, nn

import attribkit
from attribkit.errors import BadValue
from attribkit.explaining.targets import Strongest, Unusual


def seeded(make: Callable[[], nn.Sequential]) -> nn.Sequential:
    torch.manual_seed(0)
    return make().eval()


def net() -> nn.Sequential:
    """Two padded convolutions with a pool between them: units at the edges see beyond the image."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 9, 3, padding=1), nn.ReLU()
    )


def pictures(count: int) -> Tensor:
    return torch.rand(count, 3, 24, 28, generator=torch.Generator().manual_seed(3))


def strongest_inside(values: Tensor) -> list[tuple[int, int, int]]:
    """Of each image channel and position, among the units whose window lies in the image: found with a plain loop.

    A unit of the second convolution sees 8 pixels from two pixels before twice its position minus one.
    """
    best = []
    for image in values:
        found = (-np.inf, 0, 0, 0)
        for channel in range(image.shape[0]):
            for row in range(image.shape[1]):
                for column in range(image.shape[2]):
                    edges = [(2 * at - 3, 2 * at + 5) for at in (row, column)]
                    if edges[0][0] >= 0 and edges[0][1] <= 24 and edges[1][0] >= 0 and edges[1][1] <= 28:
                        found = max(found, (float(image[channel, row, column]), -channel, -row, -column))
        best.append((-found[1], -found[2], -found[3]))
    return best


def test_inside_leaves_out_units_that_see_beyond_the_edges() -> None:
    model, images = seeded(net), pictures(4)
    with torch.no_grad():
        model[3].weight[:, :, 0, 1:] -= 2  # what lies beyond the upper edge is zero, and so strong
        values = model(images)
    plain = attribkit.explain(model, images, layer="4")
    inside = attribkit.explain(model, images, layer="4", at="inside")
    assert [(u.channel, *(u.position or ())) for u in inside.units] == strongest_inside(values)
    assert any(unit.position[0] == 0 for unit in plain.units if unit.position)
    for unit in inside.units:
        top, left, bottom, right = unit.box or ()
        assert (bottom - top, right - left) == (8, 8)
        assert unit.activation == pytest.approx(float(values[unit.image, unit.channel][unit.position]))
    one = attribkit.explain(model, images, layer="4", channel=2, at="inside")
    assert {unit.channel for unit in one.units} == {2}


def test_where_every_unit_sees_an_edge_there_is_no_inside() -> None:
    with pytest.raises(BadValue, match="no unit of 4 sees the inside of an image only: leave out at='inside'"):
        attribkit.explain(seeded(net), pictures(1)[..., :6, :6], layer="4", at="inside")


@pytest.mark.parametrize("count", [1, 3, 9, None])
def test_the_strongest_channels(count: int | None) -> None:
    model, images = seeded(net), pictures(3)
    values = model(images).detach()
    units = attribkit.Explainer(model, layer="4").explained(images, Strongest("4", "max", count)).units
    for image in range(3):
        strengths = values[image].amax((1, 2)).tolist()
        order = sorted(range(9), key=lambda channel: -strengths[channel])[:count]
        assert [u.channel for u in units if u.image == image] == (order if count else list(range(9)))


@pytest.mark.parametrize("given", [False, True])
def test_the_most_unusual_channel_is_furthest_above_its_mean(given: bool) -> None:
    model, images = seeded(net), pictures(5)
    with torch.no_grad():
        model[3].bias[4] += 50  # a channel that is the strongest everywhere
    strengths = model(images).detach().amax((2, 3))
    usual = torch.linspace(0, 60, 9) if given else None
    explainer = attribkit.Explainer(model, layer="4")
    units = explainer.explained(images, Unusual("4", "max", usual)).units
    for image, unit in enumerate(units):
        others = [other for other in range(5) if other != image]
        means = usual if usual is not None else strengths[others].mean(0)
        above = [float(strengths[image, channel] - means[channel]) for channel in range(9)]
        assert unit.channel == above.index(max(above))
    assert {unit.channel for unit in attribkit.explain(model, images, layer="4").units} == {4}
    if not given:
        with pytest.raises(BadValue, match="what is unusual shows beside other images"):
            explainer.explained(images[:1], Unusual("4", "max", None))


def test_the_command_says_what_it_chose_and_why(run: Command, tmp_path: Path) -> None:
    """By the other images, or by a gallery; the strongest stays the default, as an answer hangs on its image alone."""
    for number in range(3):
        colours = np.random.default_rng(number).integers(256, size=(40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), colours)
    words = ("explain", "0.png", "1.png", "2.png", "--model", "all_cnn_c", "--method", "guided", "--layer", "conv3")
    assert run(*words).out.count("(the strongest unit)") == 3
    assert run(*words, "--at", "inside").out.count("(the strongest unit inside)") == 3
    assert run(*words, "--channel", "unusual").out.count("(the most unusual channel beside 2 other images)") == 3
    made = run(
        "gallery", ".", "--model", "all_cnn_c", "--layer", "conv3", "--top", 1, "--format", "npz,html", "--out", "g"
    )
    assert made.code == 0, made.err
    (usual,) = (tmp_path / "g").glob("*.npz")
    found = run(*words, "--usual", usual, "--json")
    means, loaded = np.load(usual)["mean"], attribkit.load("all_cnn_c")
    for number, entry in enumerate(json.loads(found.out)["explained"]):
        strengths = loaded.model[:5](loaded.preprocess(f"{number}.png")[None]).detach().amax((2, 3))[0].numpy()
        assert entry["units"][0]["channel"] == int((strengths - means).argmax())
    assert f"(the most unusual channel by {usual.name})" in run(*words, "--usual", usual).out
    assert run(*words, "--usual", usual, "--format", "html", "--out", "pages/first").code == 0
    page = (tmp_path / "pages" / "first" / "explain.html").read_text()
    links = re.findall(r'<a href="([^"#]+)#(conv3-\d+)">what this channel looks for</a>', page)
    assert {(tmp_path / "pages" / "first" / link).resolve() for link, _ in links} == {
        usual.with_suffix("") / "index.html"
    }
    assert [unit for _, unit in links] == [
        f"conv3-{entry['units'][0]['channel']}" for entry in json.loads(found.out)["explained"]
    ]
    other = run(*words[:-1], "conv4", "--usual", usual)
    assert (other.code, f"{usual.name} says what is usual in conv3, not in conv4" in other.err) == (1, True)
    assert "no npz that attribkit gallery has written" in run(*words, "--usual", "0.png").err
    assert run(*words[:-2], "--usual", usual).code == 2
