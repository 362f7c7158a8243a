"""A result as a picture: with the picture that the network saw where it is known, and the maps alone where not."""

import pickle
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

import attribkit
from attribkit.adapters.preprocessing import Preprocess
from attribkit.adapters.source import LoadedModel
from attribkit.report import pictures
from attribkit.report.page import page
from attribkit.report.panel import panel
from attribkit.report.shown import Shown


class Plain(Preprocess):
    """From bytes to numbers from 0 to 1."""

    def transform(self, size):
        return lambda image: torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255

    def restore(self, x):
        return x


@pytest.fixture
def loaded():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 12, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    return LoadedModel("net", net, Plain(), labels=tuple(f"name {i}, other" for i in range(12)))


@pytest.fixture
def images(loaded):
    random = np.random.default_rng(0)
    return torch.stack([loaded.preprocess(random.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(2)])


def saved(result, path, **options):
    result.save(path / "x.png", **options)
    return cv2.imread(str(path / "x.png"))[..., ::-1]


def expected(result, number, picture, label="", view="classic"):
    unit = result.units[number]
    name = f"image {unit.image}" if len({each.image for each in result.units}) > 1 else result.model
    values = {result.method: result.values[number].numpy()}
    one = Shown(name, picture, values, unit, label, {result.method: result.sites_in_words})
    return panel(one, view, foot=[f"{result.model}, {result.method}; switches own"])


def test_a_loaded_model_knows_the_picture_and_what_classes_are_called(loaded, images, tmp_path):
    result = attribkit.explain(loaded, images[:1])
    label = loaded.labels[result.units[0].channel]
    sheet = saved(result, tmp_path, view="signed")
    assert (sheet == expected(result, 0, loaded.unpreprocess(images[0]), label, "signed")).all()


def test_what_is_done_to_the_input_later_does_not_matter(loaded, images, tmp_path):
    result = attribkit.explain(loaded, images)
    before = saved(result, tmp_path)
    images.zero_()
    assert (saved(result, tmp_path) == before).all()


def test_a_picture_can_be_given_for_a_bare_network(loaded, images, tmp_path):
    result = attribkit.explain(loaded.model, images, layer="1")
    seen = [loaded.unpreprocess(image) for image in images]
    assert result.inputs is None
    sheet = saved(result, tmp_path, picture=seen)
    assert (sheet == np.concatenate([expected(result, number, seen[number]) for number in range(2)])).all()
    assert (saved(result, tmp_path) == np.asarray(result.picture())).all()


def test_a_part_of_a_result_has_its_own_picture(loaded, images, tmp_path):
    both = attribkit.explain(loaded, images)
    for one in (both[1], both.of_image(1)):
        label = loaded.labels[one.units[0].channel]
        assert (saved(one, tmp_path) == expected(one, 0, loaded.unpreprocess(images[1]), label)).all()


def test_a_panel_is_the_picture_that_is_saved(loaded, images, tmp_path):
    result = attribkit.explain(loaded, images)
    assert (np.asarray(result.panel(view="signed")) == saved(result, tmp_path, view="signed")).all()


def test_a_page_shows_each_map_over_its_picture(loaded, images, tmp_path):
    result = attribkit.explain(loaded, images, layer="1", channels=[0, 3])
    result.save(tmp_path / "a.html")
    seen = [loaded.unpreprocess(image) for image in images]
    units = [
        Shown(f"image {unit.image}", seen[unit.image], {"guided": values.numpy()}, unit, "", {"guided": "2 of 2"})
        for unit, values in zip(result.units, result.values, strict=True)
    ]
    shown, expected = (tmp_path / "a.html").read_text(), page(units, {}).decode()
    assert (tmp_path / "a.html").read_text() == result.page()
    pixels = re.compile(r'"data:image/[^"]+"')
    assert len(pixels.findall(shown)) >= 2
    assert pixels.findall(shown) == pixels.findall(expected)
    assert loaded.name in shown
    assert attribkit.__version__ in shown


def test_a_page_of_a_bare_network_needs_its_picture(loaded, images, tmp_path):
    result = attribkit.explain(loaded.model, images[:1])
    with pytest.raises(ValueError, match="give picture="):
        result.save(tmp_path / "a.html")
    assert not list(tmp_path.iterdir())
    assert "data:image/" in result.page(picture=loaded.unpreprocess(images[0]))


@pytest.mark.parametrize("known", [True, False])
def test_many_units_are_tiles(loaded, images, tmp_path, known):
    """Each once, in rows of four: of what the unit sees where that is known."""
    result = attribkit.explain(loaded if known else loaded.model, images[:1], layer="1", channels=range(12), at=(8, 8))
    sheet = saved(result, tmp_path)
    for number, values in enumerate(result.values):
        part = values.numpy()[:, 7:10, 7:10] if known else values.numpy()
        tile = pictures.picture(part, strength=pictures.full_strength(values.numpy()))
        times = 132 // len(tile)
        tile = tile.repeat(times, 0).repeat(times, 1)
        row, column = divmod(number, 4)
        off = (132 - len(tile)) // 2
        top, left = 20 + row * (132 + 4 + 2 * 17 + 12) + off, 20 + column * (132 + 12) + off
        assert (sheet[top : top + len(tile), left : left + len(tile)] == tile).all()


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        (np.zeros((16, 16, 3)), "takes H x W x 3 bytes, what the network saw, not .* of float64"),
        (np.zeros((16, 16, 3), np.uint8), "1 pictures do not fit 2 images"),
        ([np.zeros((9, 16, 3), np.uint8)] * 2, "a map is C x H x W with the height and width of its picture"),
    ],
)
def test_a_picture_that_does_not_fit_is_refused(loaded, images, tmp_path, picture, why):
    result = attribkit.explain(loaded, images)
    with pytest.raises(ValueError, match=why):
        result.save(tmp_path / "x.png", picture=picture)
    assert not list(tmp_path.iterdir())


def test_a_result_is_copied_and_packed_without_its_model(loaded, images):
    loaded.model.add_module("large", torch.nn.Linear(500, 500))
    result = attribkit.explain(replace(loaded, output=None), images[:1], layer="1")
    packed = pickle.dumps(result)
    assert len(packed) < 200_000
    assert pickle.loads(packed)._repr_png_() == result._repr_png_()
