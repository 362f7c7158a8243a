"""Many units on one sheet: which tile stands where, and what is said beside it."""

import numpy as np
import pytest

from attribkit.report import pictures
from attribkit.report.layout import Image, Text, drawn
from attribkit.report.many import rows, strips, tiles
from attribkit.report.shown import Shown
from attribkit.units import Unit

WAYS = ("guided, own switches", "guided, no switches", "backprop, own switches", "backprop, no switches")
SIDE = 132


def shown(seed, height=33, width=33, columns=WAYS, name="cat.jpg"):
    random = np.random.default_rng(seed)
    maps = {column: random.standard_normal((3, height, width)) for column in columns}
    picture = random.integers(0, 256, (height, width, 3), np.uint8)
    unit = Unit(0, "conv9", seed, (3, 4), 1.25)
    return Shown(name, picture, maps, unit, "lion, king of beasts 38%", dict.fromkeys(columns, "9 of 9 sites swapped"))


def images(layout):
    return [item.pixels for item in layout.items if isinstance(item, Image)]


def words(layout):
    return [item.words for item in layout.items if isinstance(item, Text)]


def enlarged(image, times):
    return image.repeat(times, 0).repeat(times, 1)


def test_a_row_has_the_picture_and_every_map_by_switches_and_then_by_rule():
    two = [shown(1), shown(2)]
    strips = images(rows(two))
    assert len(strips) == 5
    for number, one in enumerate(two):
        top = 4 + number * (SIDE + 4)
        found = [strip[top : top + SIDE, 4 : 4 + SIDE] for strip in strips]
        assert (found[0] == enlarged(one.picture, 4)).all()
        order = (WAYS[0], WAYS[2], WAYS[1], WAYS[3])
        for tile, name in zip(found[1:], order, strict=True):
            assert (tile == enlarged(pictures.picture(one.maps[name]), 4)).all()


def test_each_row_says_its_unit_and_its_class():
    told = words(rows([shown(1), shown(2, name="dog.jpg")], foot=["net, weights w"]))
    for part in ("cat.jpg", "dog.jpg", "conv9, channel 1 at 3,4", "conv9, channel 2 at 3,4", "lion", "net, weights w"):
        assert part in told
    assert "Each map has a scale of its own." in told
    assert not any("king" in line for line in told)


def test_a_large_map_is_averaged_before_it_is_drawn():
    one = shown(1, 2 * SIDE, 2 * SIDE, columns=("guided",))
    tile = images(rows([one]))[1][4 : 4 + SIDE, 4 : 4 + SIDE]
    means = one.maps["guided"].reshape(3, SIDE, 2, SIDE, 2).mean((2, 4))
    assert abs(tile.astype(int) - pictures.picture(means)).max() <= 1


@pytest.mark.parametrize(("view", "zero"), [("classic", 128), ("signed", 255), ("positive", 0)])
def test_around_a_small_map_is_the_colour_of_zero(view, zero):
    strip = images(rows([shown(1, 33, 10, columns=("guided",))], view))[1]
    assert (strip[4 : 4 + SIDE, 4:40] == zero).all()


def test_units_of_different_methods_have_no_sheet():
    with pytest.raises(ValueError, match=r"other\.jpg was explained by guided, the first one by"):
        rows([shown(1), shown(2, columns=("guided",), name="other.jpg")])
    with pytest.raises(ValueError, match="nothing to show"):
        rows([])


def test_strips_are_columns_of_tiles():
    random = np.random.default_rng(0)
    table = [[random.integers(0, 256, (5, 7, 3), np.uint8) for _ in range(3)] for _ in range(2)]
    for column, strip in enumerate(strips(table)):
        assert strip.shape == (2 * 9 + 4, 7 + 8, 3)
        for row in range(2):
            assert (strip[4 + 9 * row : 9 + 9 * row, 4:11] == table[row][column]).all()


@pytest.mark.parametrize("count", [7, 16])
def test_many_maps_have_a_tile_each_with_lines_below(count):
    maps = [pictures.picture(np.random.default_rng(seed).standard_normal((3, 44, 44))) for seed in range(count)]
    layout = tiles(maps, [["conv9, 3", f"at {seed}: {'long ' * (40 * (seed == 0))}"] for seed in range(count)])
    placed = [item for item in layout.items if isinstance(item, Image)]
    assert [(each.pixels == enlarged(image, 3)).all() for each, image in zip(placed, maps, strict=True)] == [
        True
    ] * count
    assert len({each.top for each in placed}) == -(-count // len({each.left for each in placed}))
    told = words(layout)
    assert told.count("conv9, 3") == count
    assert sum(line.endswith(" ...") for line in told) == 1
    sheet = drawn(layout)
    assert sheet.shape == (layout.height, layout.width, 3)
    assert (sheet[-5:] == 255).all()
