"""The page of many units in a real browser: its overview, and the controls by which one looks closer.

make test-browser
"""

import base64
import re

import cv2
import numpy as np
import pytest

from attribkit.report import pictures
from attribkit.report.page import page
from attribkit.report.shown import Shown
from attribkit.units import Unit

pytestmark = pytest.mark.browser

SIDE, BOX = 40, (8, 10, 28, 34)


def shown(number):
    """A unit of one of four images: of two layers, and of a class."""
    random = np.random.default_rng(number)
    kind, image = number % 3, number // 3
    mask = np.zeros((SIDE, SIDE))
    mask[BOX[0] : BOX[2], BOX[1] : BOX[3]] = 1
    maps = {method: random.standard_normal((3, SIDE, SIDE)) for method in ("guided", "backprop")}
    if kind:
        maps = {method: values * mask for method, values in maps.items()}
    layer = (None, "conv1", "conv2")[kind]
    unit = Unit(0, layer, number, (1, 2) if layer else None, 1.5, BOX if layer else None)
    label = "ant 80%, bee 3%" if layer else ("bee, a bug", "cow")[image % 2]
    picture = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return Shown(f"photo {image}.jpg", picture, maps, unit, label, dict.fromkeys(maps, "2 of 2 sites swapped"))


ALL = [shown(number) for number in range(12)]
FIRST = "photo-0.jpg-conv1-1-1-2"
"""The address of the second unit, the first one of a layer."""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_bytes(page(ALL, {"command": "attribkit explain photos", "model": "net"}))
    return path


@pytest.fixture
def unfolded(opened):
    tab = opened(fragment=f"#{FIRST}")
    tab.wait_for_selector("article:target .viewer")
    return tab


def visible(tab, selector):
    return sum(each.is_visible() for each in tab.locator(selector).all())


def expected(number, method, view="classic"):
    one = ALL[number]
    top, left, bottom, right = one.window
    return pictures.picture(one.maps[method], view)[top:bottom, left:right]


def about(one, other):
    off = abs(one.astype(int) - other)
    return off.mean() < 2 and np.percentile(off, 99) <= 10


def canvas(locator):
    """What is drawn on a canvas: red, green, blue and how opaque it is."""
    url = locator.evaluate("c => c.toDataURL()")
    image = cv2.imdecode(np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8), cv2.IMREAD_UNCHANGED)
    return image[..., [2, 1, 0, 3]]


def test_many_units_begin_as_tiles_with_a_map_each(opened):
    tab = opened()
    assert visible(tab, "article") == visible(tab, "article .plate img") == len(ALL)
    assert visible(tab, "article .facts, .viewer") == 0
    assert tab.locator(".count").inner_text() == "12 units"


FILTERS = [("image", "photo 1.jpg", 3), ("layer", "conv2", 4), ("class", "bee", 2), ("channel", "7", 1)]


@pytest.mark.parametrize(("name", "value", "left"), FILTERS)
def test_units_are_filtered(opened, name, value, left):
    tab = opened()
    chosen = tab.locator(f"select[name={name}]")
    chosen.select_option(value)
    assert visible(tab, "article") == left
    assert tab.locator(".count").inner_text() == f"{left} of 12 units"
    assert {each.get_attribute(f"data-{name}") for each in tab.locator("article:visible").all()} == {value}
    chosen.select_option("all")
    assert visible(tab, "article") == len(ALL)


def test_a_tile_unfolds_its_unit_which_has_an_address(opened):
    tab = opened()
    tab.locator("article").nth(1).click()
    assert tab.url.endswith(f"#{FIRST}")
    assert visible(tab, "article:target .viewer") == visible(tab, ".viewer") == 1
    assert visible(tab, "article:target .plate img") == 2
    assert visible(tab, "article") == len(ALL)
    tab.get_by_role("link", name="Back to the overview").click()
    assert visible(tab, ".viewer") == 0


def test_an_address_shows_its_unit_whatever_was_filtered(opened):
    tab = opened(fragment=f"#{FIRST}")
    assert visible(tab, ".viewer") == 1
    tab.locator("select[name=layer]").select_option("conv2")
    assert visible(tab, ".viewer") == 0
    tab.evaluate("location.hash = 'photo-3.jpg-conv1-10-1-2'")
    tab.locator("article:target .viewer").wait_for()
    assert tab.locator(".count").inner_text() == "12 units"


def test_all_units_can_be_shown_in_full(opened):
    tab = opened()
    tab.get_by_role("radio", name="In full").check(force=True)
    assert visible(tab, "article .facts") == len(ALL)
    tab.get_by_role("radio", name="overview").check(force=True)
    assert visible(tab, "article .facts") == 0


def test_one_method_is_chosen_for_all_units(opened):
    tab = opened()
    tab.locator("#method").select_option("backprop")
    tiles = tab.locator("article .plate img:visible")
    assert tiles.count() == len(ALL)
    assert {tile.get_attribute("alt") for tile in tiles.all()} == {"map by backprop"}


def test_a_view_is_drawn_in_tiles_also_of_units_that_come_later(opened):
    tab = opened(width=600, height=150)
    tab.get_by_role("radio", name="signed").check(force=True)
    last = tab.locator("article").last
    last.scroll_into_view_if_needed()
    tile = last.locator("label.card").first.locator("canvas")
    tile.wait_for()
    assert about(canvas(tile)[..., :3], expected(11, "guided", "signed"))


@pytest.mark.parametrize("over", ["stage", "card"])
def test_the_value_under_the_pointer_is_told(unfolded, over):
    """Row 12 and column 20 of the picture: a whole step of the map off at most."""
    box = BOX
    if over == "stage":
        plate, top, left, height, width = unfolded.locator("article:target .layers"), 0, 0, SIDE, SIDE
    else:
        plate = unfolded.locator("article:target label.card").first.locator(".plate > *").first
        top, left, height, width = box[0], box[1], box[2] - box[0], box[3] - box[1]
    plate.scroll_into_view_if_needed()
    size = plate.bounding_box()
    at = {"x": (20.5 - left) / width * size["width"], "y": (12.5 - top) / height * size["height"]}
    plate.hover(position=at, force=True)
    told = unfolded.locator("article:target .value").inner_text()
    assert told.startswith("row 12, column 20, guided: ")
    numbers = [float(number.replace("\u2212", "-")) for number in re.findall(r"[\u2212\d.]+e?[\u2212-]?\d*", told)][2:]
    true = ALL[1].maps["guided"][:, 12, 20]
    assert np.allclose(numbers, [true.sum(), *true], atol=0.1)


def test_outside_of_the_map_there_is_no_value(unfolded):
    layers = unfolded.locator("article:target .layers")
    layers.scroll_into_view_if_needed()
    layers.hover(position={"x": 3, "y": 3}, force=True)
    assert unfolded.locator("article:target .value").inner_text() == ""


def zoomed(tab):
    return tab.locator("article:target output").inner_text()


def test_a_double_click_zooms_about_the_pointer(unfolded):
    stage = unfolded.locator("article:target .stage")
    stage.scroll_into_view_if_needed()
    size = stage.bounding_box()
    stage.dblclick(position={"x": size["width"] * 0.75, "y": size["height"] * 0.75})
    assert zoomed(unfolded) == "\u00d72"
    across = stage.evaluate("s => (s.scrollLeft + .75 * s.clientWidth) / s.scrollWidth")
    down = stage.evaluate("s => (s.scrollTop + .75 * s.clientHeight) / s.scrollHeight")
    assert [across, down] == pytest.approx([0.75, 0.75], abs=0.02)
    for times in (4, 8, 16, 1):
        stage.dblclick()
        assert zoomed(unfolded) == f"\u00d7{times}"


def test_the_wheel_zooms_once_the_stage_was_clicked(unfolded):
    from playwright.sync_api import expect

    stage = unfolded.locator("article:target .stage")
    stage.hover()
    unfolded.mouse.wheel(0, -1)
    assert zoomed(unfolded) == "\u00d71"
    stage.click()
    unfolded.mouse.wheel(0, -100)
    expect(unfolded.locator("article:target output")).to_have_text("\u00d72")
    unfolded.mouse.wheel(0, 100)
    expect(unfolded.locator("article:target output")).to_have_text("\u00d71")


def test_a_veil_leaves_the_picture_bright_where_the_map_is_strong(unfolded):
    unfolded.locator("article:target").get_by_role("radio", name="By strength").check(force=True)
    veil = canvas(unfolded.locator("article:target .layers canvas"))
    top, left, bottom, right = BOX
    values = abs(ALL[1].maps["guided"]).max(0)[top:bottom, left:right]
    share = np.clip(values / pictures.full_strength(ALL[1].maps["guided"]), 0, 1)
    assert (veil[..., :3] == 0).all()
    assert np.percentile(abs(veil[top:bottom, left:right, 3] - 255 * (1 - share**0.5)), 99) < 20
    assert (veil[:top, :, 3] == 255).all()
    assert unfolded.locator("article:target .slide .words").first.inner_text() == "Veil"
    unfolded.locator("article:target").get_by_role("radio", name="Crossfade").check(force=True)
    assert (canvas(unfolded.locator("article:target .layers canvas"))[:top, :, 3] == 0).all()


def saved(tab, button):
    with tab.expect_download() as caught:
        tab.locator("article:target").get_by_role("button", name=button).click()
    path = caught.value.path()
    return caught.value.suggested_filename, cv2.imread(str(path))[..., ::-1]


def test_each_picture_can_be_saved(unfolded):
    """As large as a reader can see it, each pixel a square; in the view of the page."""
    unfolded.get_by_role("radio", name="absolute").check(force=True)
    top, left, bottom, right = BOX
    name, image = saved(unfolded, "Save the map by backprop")
    assert name == f"{FIRST}-backprop-absolute.png"
    times = 672 // (right - left)
    assert image.shape == (times * (bottom - top), times * (right - left), 3)
    assert about(image[::times, ::times], expected(1, "backprop", "absolute"))
    name, image = saved(unfolded, "Save the picture")
    assert name == f"{FIRST}-picture.png"
    assert (image[::times, ::times] == ALL[1].picture[top:bottom, left:right]).all()
    unfolded.locator("article:target .blend").press("Home")
    name, image = saved(unfolded, "Save this picture")
    assert name == f"{FIRST}-blend.png"
    assert (image[::16, ::16][: top - 2] == ALL[1].picture[: top - 2]).all()


def test_print_has_no_controls_and_breaks_between_units(opened):
    tab = opened()
    tab.emulate_media(media="print")
    assert visible(tab, ".toolbar, .filters, .viewer") == 0
    breaks = "[...document.querySelectorAll('article')].map(a => getComputedStyle(a).breakInside)"
    assert set(tab.evaluate(breaks)) == {"avoid"}


@pytest.mark.parametrize("width", [320, 390, 900])
def test_an_overview_is_never_scrolled_sideways(opened, width):
    tab = opened(width=width, height=800, device_scale_factor=2)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert visible(tab, ".plate img") == len(ALL)


def test_without_javascript_a_tile_is_a_link_to_its_unit(opened):
    tab = opened(ready=False, java_script_enabled=False)
    assert visible(tab, ".plate img") == len(ALL)
    tab.locator("article h2 a").nth(1).click()
    assert visible(tab, "article:target .facts") == 1
