"""Arrays to pictures: what each colour means, and that nothing is stretched or left half written."""

import warnings

import cv2
import numpy as np
import pytest

from attribkit.report.pictures import FULL_STRENGTH, VIEWS, encode_png, full_strength, grid, panel, picture, write_png

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def percentile(magnitudes, percent):
    """The percentile by its definition: between the two nearest ranks, in proportion."""
    ordered = sorted(magnitudes)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def decoded(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_signed_shows_zero_as_white_and_the_signs_as_red_and_blue():
    values = np.zeros((3, 1, 3))
    values[:, 0, 1], values[:, 0, 2] = 1, -1
    zero, above, below = picture(values, "signed")[0].astype(int)
    assert tuple(zero) == WHITE
    assert above[0] > above[2] + 50
    assert below[2] > below[0] + 50


def test_signed_sums_over_the_channels():
    values = np.array([[[1.0, 2.0]], [[-1.0, 1.0]]])
    shown = picture(values, "signed")
    assert tuple(shown[0, 0]) == WHITE
    assert tuple(shown[0, 1]) == tuple(picture(np.ones((1, 1, 1)), "signed")[0, 0])


def test_signed_darkens_steadily_and_alike_on_both_sides():
    """In grey the picture reads as magnitude: neither side looks stronger, more never looks like less."""
    ramp = np.linspace(0, 1, 200)
    up, down = (picture(sign * ramp[None, None], "signed", 1.0)[0] @ [0.299, 0.587, 0.114] for sign in (1, -1))
    assert (np.diff(up) <= 0.5).all()
    assert (np.diff(down) <= 0.5).all()
    assert abs(up - down).max() < 40


def test_positive_is_the_colour_photograph_of_what_is_above_zero(random):
    values = random.standard_normal((3, 16, 16))
    strength = percentile([v for v in values.ravel() if v > 0], FULL_STRENGTH)
    expected = np.zeros((16, 16, 3), int)
    for channel, y, x in np.ndindex(3, 16, 16):
        expected[y, x, channel] = round(255 * min(max(values[channel, y, x], 0) / strength, 1))
    assert abs(picture(values, "positive").astype(int) - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_positive_is_grey_unless_there_are_three_channels(random, channels):
    shown = picture(random.standard_normal((channels, 8, 8)), "positive")
    assert (shown == shown[..., :1]).all()
    assert shown.max() == 255


def test_absolute_takes_the_largest_magnitude_over_the_channels():
    """A strong negative value in one channel is as bright as a strong positive one, and no sum cancels."""
    values = np.array([[[1.0, 0.0, -1.0, 0.0]], [[-1.0, -1.0, 0.0, 0.0]]])
    shown = picture(values, "absolute")[0].astype(int)
    assert (shown[0] == shown[1]).all()
    assert (shown[0] == shown[2]).all()
    assert shown[0].sum() > 500
    assert shown[3].sum() < 20


def test_classic_is_the_colour_photograph_with_zero_as_mid_grey(random):
    values = random.standard_normal((3, 16, 16))
    strength = percentile(abs(values).ravel().tolist(), FULL_STRENGTH)
    expected = np.zeros((16, 16, 3), int)
    for channel, y, x in np.ndindex(3, 16, 16):
        expected[y, x, channel] = round(128 + 127 * min(max(values[channel, y, x] / strength, -1), 1))
    assert abs(picture(values, "classic").astype(int) - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_classic_is_the_sum_in_grey_unless_there_are_three_channels(random, channels):
    values = random.standard_normal((channels, 8, 8))
    shown = picture(values, "classic", 1.0)
    assert (shown == shown[..., :1]).all()
    assert (shown == picture(values.sum(0, keepdims=True), "classic", 1.0)).all()


@pytest.mark.parametrize("view", VIEWS)
def test_without_a_strength_a_map_has_its_own(random, view):
    values = random.standard_normal((3, 8, 8))
    assert (picture(values, view) == picture(values, view, full_strength(values, view))).all()


def test_full_strength_is_told_in_the_units_of_the_map(random):
    values = 1e-3 * random.standard_normal((3, 8, 8))
    sums = [sum(values[:, y, x].tolist()) for y, x in np.ndindex(8, 8)]
    assert full_strength(values, "signed") == pytest.approx(percentile([abs(value) for value in sums], FULL_STRENGTH))
    assert full_strength(np.zeros((3, 2, 2))) == 0


@pytest.mark.parametrize("view", VIEWS)
def test_on_one_scale_half_a_map_is_half_as_strong(view):
    """A pixel at half the strength looks the same, whatever else the map holds."""
    half, both = np.full((3, 1, 1), 0.5), np.array([[[0.5, 1.0]]] * 3)
    assert (picture(half, view, 3.0)[0, 0] == picture(both, view, 3.0)[0, 0]).all()
    assert (picture(both, view, 3.0)[0, 0] != picture(both, view, 3.0)[0, 1]).any()


@pytest.mark.parametrize("strength", [-1.0, np.nan])
def test_a_strength_is_a_magnitude(strength):
    with pytest.raises(ValueError, match="not a magnitude"):
        picture(np.ones((3, 2, 2)), strength=strength)


@pytest.mark.parametrize(
    ("view", "colour"),
    [("signed", WHITE), ("absolute", (0, 0, 4)), ("positive", BLACK), ("classic", (128, 128, 128))],
)
def test_a_map_of_zeros_is_plain_and_brings_no_warning(view, colour):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = picture(np.zeros((3, 5, 7)), view)
    assert shown.shape == (5, 7, 3)
    assert (shown == colour).all()


def test_positive_of_a_negative_map_is_plain():
    assert (picture(np.full((3, 2, 2), -1.0), "positive") == 0).all()


def test_a_single_extreme_pixel_does_not_wash_out_the_rest(random):
    values = random.standard_normal((1, 64, 64))
    values[0, 0, 0] = 1e6
    assert picture(values).reshape(-1, 3).std(axis=0).min() > 20


def test_a_small_window_in_a_map_of_zeros_is_scaled_by_itself(random):
    """Zeros do not count towards full strength: a 20 x 20 unit looks the same in a large image as cut out."""
    window = random.standard_normal((3, 20, 20))
    values = np.zeros((3, 224, 224))
    values[:, 100:120, 50:70] = window
    assert (picture(values)[100:120, 50:70] == picture(window)).all()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1e20, 1e300])
def test_only_ratios_matter(random, view, scale):
    """Neither tiny nor huge maps vanish or overflow."""
    values = random.standard_normal((3, 8, 8))
    assert abs(picture(values * scale, view).astype(int) - picture(values, view)).max() <= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    values = np.zeros((3, 2, 2))
    values[1, 0, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        picture(values)


def test_a_wrong_view_is_told_the_right_ones():
    with pytest.raises(ValueError, match=r"'heat'.*'classic', 'signed', 'absolute', 'positive'"):
        picture(np.zeros((3, 2, 2)), "heat")


@pytest.mark.parametrize("shape", [(2, 2), (1, 3, 2, 2), (0, 2, 2), (3, 0, 2)])
def test_a_map_has_three_dimensions(shape):
    with pytest.raises(ValueError, match="C x H x W"):
        picture(np.zeros(shape))


def find(sheet, part):
    """Where `part` lies in `sheet`, looked for everywhere."""
    height, width = part.shape[:2]
    return [
        (y, x)
        for y in range(sheet.shape[0] - height + 1)
        for x in range(sheet.shape[1] - width + 1)
        if (sheet[y, x] == part[0, 0]).all() and (sheet[y : y + height, x : x + width] == part).all()
    ]


def test_a_panel_enlarges_small_pictures_by_whole_pixels_and_stretches_none(random):
    large = random.integers(0, 200, (224, 300, 3), np.uint8)
    small = random.integers(0, 200, (32, 20, 3), np.uint8)
    sheet = panel([large, small], ["large", "small"])
    nine_times = np.array([[small[y // 9, x // 9] for x in range(180)] for y in range(288)])
    assert len(find(sheet, large)) == 1
    assert len(find(sheet, nine_times)) == 1


def test_a_panel_has_room_for_long_titles(random):
    """They go over several lines, also where there is no space, and stay clear of the next column."""
    images = [random.integers(0, 200, (224, 224, 3), np.uint8) for _ in range(2)]
    short, long = panel(images, ["a", "b"]), panel(images, ["word " * 20 + "x" * 90, ""])
    assert len(long) > len(short) + 50
    (top, right) = find(long, images[1])[0]
    assert (long[: top - 1, right:] == 255).all()
    assert (long[:top] < 128).any()


@pytest.mark.parametrize("title", ["кошка", "猫と犬", "قطة", "", "   ", "\x00\n", "\udc80"])
def test_a_title_may_be_in_any_script(title):
    assert panel([np.zeros((8, 8, 3), np.uint8)], [title]).dtype == np.uint8


def test_a_panel_wants_a_title_for_each_picture():
    with pytest.raises(ValueError, match="2 images need as many titles, not 1"):
        panel([np.zeros((2, 2, 3), np.uint8)] * 2, ["one"])


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (5, 3, 2), (9, 3, 3)])
def test_a_grid_is_nearly_square_and_holds_every_picture(random, count, columns, rows):
    images = [random.integers(0, 200, (10, 12, 3), np.uint8) for _ in range(count)]
    sheet = grid(images)
    assert sheet.shape == (rows * 14 + 4, columns * 16 + 4, 3)
    places = [find(sheet, image) for image in images]
    assert places == [[(4 + 14 * (i // columns), 4 + 16 * (i % columns))] for i in range(count)]


@pytest.mark.parametrize("columns", [1, 2, 5, 7])
def test_a_grid_has_as_many_columns_as_asked_for(random, columns):
    images = [random.integers(0, 200, (10, 12, 3), np.uint8) for _ in range(5)]
    sheet = grid(images, columns)
    assert sheet.shape == (-(-5 // columns) * 14 + 4, columns * 16 + 4, 3)
    places = [find(sheet, image) for image in images]
    assert places == [[(4 + 14 * (i // columns), 4 + 16 * (i % columns))] for i in range(5)]


def test_a_grid_has_a_column():
    with pytest.raises(ValueError, match="at least one column, not 0"):
        grid([np.zeros((2, 2, 3), np.uint8)], columns=0)


def test_a_grid_keeps_the_size_of_each_picture(random):
    images = [random.integers(0, 200, (*size, 3), np.uint8) for size in [(10, 5), (3, 20)]]
    assert all(len(find(grid(images), image)) == 1 for image in images)


@pytest.mark.parametrize(
    "image",
    [np.zeros((2, 2)), np.zeros((2, 2, 3)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2, 3), np.uint8)],
)
def test_what_is_not_a_picture_is_refused(image):
    with pytest.raises(ValueError, match="H x W x 3 bytes"):
        grid([image])


def test_no_pictures_are_refused():
    with pytest.raises(ValueError, match="no images"):
        grid([])


def test_a_png_holds_exactly_the_picture_red_first(random):
    image = random.integers(0, 256, (17, 5, 3), np.uint8)
    assert (decoded(encode_png(image)) == image).all()
    assert encode_png(image) == encode_png(image.copy())


def test_write_png_writes_what_encode_png_gives(tmp_path, random):
    image = random.integers(0, 256, (4, 4, 3), np.uint8)
    write_png(tmp_path / "made" / "猫.png", image)
    assert (tmp_path / "made" / "猫.png").read_bytes() == encode_png(image)
