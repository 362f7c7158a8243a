"""The page in a real browser: every control by mouse and by keyboard, and nothing said on the console.

    make test-browser

Debian's chromium is driven where there is one, and otherwise playwright's own.
"""

import base64

import cv2
import numpy as np
import pytest

from attribkit.report import pictures
from attribkit.report.page import page
from attribkit.report.shown import Shown
from attribkit.units import Unit

pytestmark = pytest.mark.browser

FACTS = {"command": "attribkit explain cat.jpg --format html", "model": "all_cnn_c", "torch": "2.6"}
HOSTILE = '<script>alert("1")</script>\'"><img src=x onerror=alert(1)> \u202egpj.قطة'
METHODS = ("guided", "deconvnet", "backprop")
LONG = "a-name-without-a-place-to-break-" * 6
PART = (70, 110, 98, 140)


def inside(box, height, width):
    """1 in the box, and 0 outside of it."""
    mask = np.zeros((height, width))
    mask[box[0] : box[2], box[1] : box[3]] = 1
    return mask


def shown(name, height, width, channels, box, layer="conv9", methods=METHODS, strength=1.0):
    random = np.random.default_rng(len(name))
    slope = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    maps = {method: strength * random.standard_normal((channels, height, width)) for method in methods}
    for values in maps.values():
        values[:, : height // 4] = 0
        if box and box != (0, 0, height, width):
            values *= inside(box, height, width)
    unit = Unit(image=0, layer=layer, channel=41, position=(3, 4), activation=1.25, box=box)
    sites = dict.fromkeys(methods, "9 of 9 sites swapped")
    return Shown(name, slope.astype(np.uint8), maps, unit, "tiger cat, 38%", sites)


ALL = [
    shown("cat.jpg", 224, 224, 3, PART),
    shown(HOSTILE, 24, 32, 1, None, layer=LONG, strength=40.0),
    shown(LONG, 5, 3, 2, (0, 0, 5, 3), methods=("guided", LONG)),
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_bytes(page(ALL, FACTS))
    return path


def pixels(tab, selector, number=0):
    """What is drawn on a canvas, before the browser enlarges it."""
    return decoded(tab.locator(selector).nth(number).evaluate("c => c.toDataURL()"))


def decoded(url):
    data = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def article(tab, number=0):
    return tab.locator("article").nth(number)


def drawn(tab, number=0, card=0):
    """The map of a card as it is seen, before the browser enlarges it: the page's own picture, or a canvas."""
    plate = tab.locator(f"article >> nth={number} >> label.card >> nth={card} >> .plate")
    url = plate.evaluate(
        """plate => {
          const shown = plate.querySelector("canvas") ?? plate.querySelector("img");
          const canvas = document.createElement("canvas");
          canvas.width = shown.naturalWidth ?? shown.width;
          canvas.height = shown.naturalHeight ?? shown.height;
          const context = canvas.getContext("2d");
          context.filter = getComputedStyle(shown).filter;
          context.drawImage(shown, 0, 0);
          return canvas.toDataURL();
        }"""
    )
    return decoded(url)


def on_stage(tab, number=0):
    """What lies over the picture, where the map is."""
    top, left, bottom, right = ALL[number].window
    return pixels(tab, f"article >> nth={number} >> .layers canvas")[top:bottom, left:right]


def expected(number, card, view, strength=None):
    """The map as the library draws it, where it is shown."""
    values = list(ALL[number].maps.values())[card]
    if len(values) == 2:
        values = values.sum(axis=0, keepdims=True)
    top, left, bottom, right = ALL[number].window
    return pictures.picture(values, view, strength)[top:bottom, left:right]


def photographed(locator):
    """An element as it is seen, without the toolbar that may lie over it."""
    locator.page.evaluate("document.querySelector('.toolbar').hidden = true")
    seen = cv2.imdecode(np.frombuffer(locator.screenshot(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    locator.page.evaluate("document.querySelector('.toolbar').hidden = false")
    return seen


def contains(seen, image):
    """Whether a photograph shows an image, each pixel as a square, behind a border of one or two pixels."""
    times = seen.shape[1] // image.shape[1]
    image = image.repeat(times, 0).repeat(times, 1)
    starts = [(row, column) for row in range(3) for column in range(3)]
    parts = [seen[row : row + len(image), column : column + image.shape[1]] for row, column in starts]
    return any(part.shape == image.shape and (part == image).all() for part in parts)


def press(locator, key):
    locator.focus()
    locator.press(key)


def about(one, other):
    """A map is stored in steps; a step of it is a few bytes of a colour."""
    off = abs(one.astype(int) - other)
    return off.mean() < 1.5 and np.percentile(off, 99) <= 8


@pytest.mark.parametrize("number", range(len(ALL)))
@pytest.mark.parametrize("view", pictures.VIEWS)
def test_each_view_is_drawn_as_the_library_draws_it(opened, view, number):
    tab = opened()
    tab.get_by_role("radio", name=view).check(force=True)
    for card in range(len(ALL[number].maps)):
        assert about(drawn(tab, number, card), expected(number, card, view))
    assert about(on_stage(tab, number), expected(number, 0, view))


def test_the_keyboard_goes_through_the_views(opened):
    tab = opened()
    seen = []
    press(tab.get_by_role("radio", name="classic"), "Tab")
    tab.keyboard.press("Shift+Tab")
    for _ in pictures.VIEWS:
        told = tab.locator(".key p:visible")
        assert told.count() == 1
        seen.append((told.inner_text(), drawn(tab, 1).tobytes(), tab.locator(".bar i").get_attribute("style")))
        tab.keyboard.press("ArrowRight")
    assert [len(set(part)) for part in zip(*seen, strict=True)] == [4, 4, 3]  # two bars go from black to white
    assert tab.get_by_role("radio", name="classic").is_checked()


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_a_method_is_chosen_by_its_map_and_shown_large(opened, how):
    tab = opened()
    if how == "mouse":
        article(tab).locator("label.card .plate").nth(1).click()
    else:
        press(article(tab).get_by_role("radio").first, "ArrowDown")
    chosen = article(tab).locator("label.card:has(input:checked)")
    assert chosen.get_attribute("data-method") == "deconvnet"
    assert about(on_stage(tab), expected(0, 1, "classic"))
    assert (drawn(tab, 0, 0) != drawn(tab, 0, 1)).any()
    assert article(tab).locator(".layers canvas").get_attribute("aria-label") == "map by deconvnet, classic view"
    assert article(tab, 1).locator("label.card:has(input:checked)").get_attribute("data-method") == "guided"


def test_the_slider_goes_from_the_image_to_the_map(opened):
    tab = opened()
    slider, canvas = article(tab).locator(".blend"), article(tab).locator(".layers canvas")

    def opacity():
        return float(canvas.evaluate("c => getComputedStyle(c).opacity"))

    assert 0 < opacity() < 1
    press(slider, "Home")
    assert opacity() == 0
    press(slider, "End")
    assert opacity() == 1
    press(slider, "ArrowLeft")
    assert opacity() == pytest.approx(0.99)
    box = slider.bounding_box()
    tab.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    assert 0.15 < opacity() < 0.35


def test_the_stage_shows_the_picture_under_the_map(opened):
    tab = opened()
    press(article(tab).locator(".blend"), "Home")
    assert contains(photographed(article(tab).locator(".stage")), ALL[0].picture[: PART[0] - 4])


def test_zoom_enlarges_by_whole_numbers_and_keeps_the_middle(opened):
    tab = opened()
    zoom, stage, layers = (article(tab).locator(name) for name in (".zoom", ".stage", ".layers"))

    def size():
        box = layers.bounding_box()
        return box["width"], box["height"]

    before = size()
    press(zoom, "ArrowRight")
    assert article(tab).locator("output").inner_text() == "\u00d72"
    assert size() == (2 * before[0], 2 * before[1])
    scrolled = stage.evaluate("s => [s.scrollLeft + s.clientWidth / 2, s.scrollWidth / 2]")
    assert scrolled[0] == pytest.approx(scrolled[1], abs=1)
    box = zoom.bounding_box()
    tab.mouse.click(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2)
    assert article(tab).locator("output").inner_text() == "\u00d716"
    press(zoom, "Home")
    assert size() == before


def test_a_zoomed_stage_moves_by_keyboard_and_by_mouse(opened):
    tab = opened()
    press(article(tab).locator(".zoom"), "End")
    stage = article(tab).locator(".stage")
    start = stage.evaluate("s => s.scrollTop")
    # The page forbids eval, by which the driver would wait for a condition: wait for the event.
    stage.evaluate("s => { window.scrolled = new Promise(done => s.addEventListener('scroll', done)) }")
    press(stage, "ArrowDown")
    assert stage.evaluate("s => window.scrolled.then(() => s.scrollTop)") > start
    box = stage.bounding_box()
    left = stage.evaluate("s => s.scrollLeft")
    tab.mouse.move(box["x"] + 200, box["y"] + 200)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 150, box["y"] + 200)
    tab.mouse.up()
    assert stage.evaluate("s => s.scrollLeft") == left + 50


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_one_button_zooms_to_the_box(opened, how):
    tab = opened()
    button = article(tab).get_by_role("button", name="Zoom to the box")
    if how == "mouse":
        button.click()
    else:
        press(button, "Enter")
    stage, box = (article(tab).locator(name).bounding_box() for name in (".stage", ".layers rect >> nth=0"))
    assert stage["x"] <= box["x"]
    assert stage["y"] <= box["y"]
    assert box["x"] + box["width"] <= stage["x"] + stage["width"]
    assert box["y"] + box["height"] <= stage["y"] + stage["height"]
    assert box["width"] > stage["width"] / 2


def test_the_box_lies_where_the_unit_looks_and_can_be_taken_away(opened):
    tab = opened()
    layers, box = (article(tab).locator(name).bounding_box() for name in (".layers", ".layers rect >> nth=0"))
    scale = layers["width"] / 224
    # The lines themselves are 3.5 pixels wide, half of it inside the box.
    corners = (box["y"] - layers["y"], box["x"] - layers["x"])
    assert np.allclose(corners, (PART[0] * scale, PART[1] * scale), atol=2)
    assert np.allclose(
        (box["height"], box["width"]), ((PART[2] - PART[0]) * scale, (PART[3] - PART[1]) * scale), atol=4
    )
    press(article(tab).locator(".boxed"), "Space")
    assert not article(tab).locator(".layers .box").is_visible()
    article(tab).get_by_text("Show the box").click()
    assert article(tab).locator(".layers .box").is_visible()


def test_what_the_unit_sees_is_shown_beside_it(opened):
    tab = opened()
    top, left, bottom, right = PART
    assert contains(photographed(article(tab).locator(".card svg.plate")), ALL[0].picture[top:bottom, left:right])
    assert article(tab).locator(".whole rect").count() == 2
    assert article(tab, 1).locator(".whole").count() == 0


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_one_scale_can_be_used_for_all_units(opened, how):
    tab = opened()
    weak = drawn(tab)
    common = tab.get_by_label("One scale for all units")
    if how == "mouse":
        common.check()
    else:
        press(common, "Space")
    told = {card.inner_text() for card in tab.locator("[data-method=guided] .scale").all()}
    assert len(told) == 1
    strength = pictures.full_strength(ALL[1].maps["guided"], "classic")
    assert about(drawn(tab), expected(0, 0, "classic", strength))
    common.uncheck()
    assert (drawn(tab) == weak).all()


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(opened):
    tab = opened()
    reached = set()
    for _ in range(90):
        tab.keyboard.press("Tab")
        name, outlined = tab.evaluate(
            """() => {
              const e = document.activeElement;
              // The views are transparent radio buttons; the words beside them are what is seen.
              const seen = getComputedStyle(e).opacity === "0" ? e.nextElementSibling : e;
              const { outlineStyle, outlineWidth } = getComputedStyle(seen);
              const shown = outlineStyle === "solid" && parseFloat(outlineWidth) >= 2;
              return [e.name || e.id || e.className || e.tagName, shown];
            }"""
        )
        if name == "BODY":
            break
        assert outlined, name
        reached.add(name)
    methods = {f"method-{number + 1}" for number in range(len(ALL))}
    filters = {"image", "layer"}
    toolbar = {"view", "mode", "method", "common", "SUMMARY"}
    viewer = {"stage", "blend", "zoom", "closer", "boxed", "save", "A"}
    ways = {f"way-{of}" for of in tab.evaluate("[...document.querySelectorAll('article')].map(a => a.id)")}
    assert reached == filters | toolbar | viewer | ways | methods


@pytest.mark.parametrize(("width", "ratio"), [(320, 2), (375, 3), (412, 2.625), (560, 1), (768, 2), (1920, 1)])
def test_no_window_has_to_be_scrolled_sideways(opened, width, ratio):
    tab = opened(width=width, height=800, device_scale_factor=ratio)
    wide = tab.evaluate(
        """[...document.querySelectorAll("body *:not(.stage *, svg *)")]
          .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
          .map(e => e.outerHTML.slice(0, 80) + e.getBoundingClientRect().right)"""
    )
    assert wide == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "ratio"), [(375, 3), (1200, 1), (900, 1.5)])
def test_maps_are_enlarged_by_whole_pixels_and_not_stretched(opened, width, ratio):
    tab = opened(width=width, device_scale_factor=ratio)
    sizes = tab.evaluate(
        """[...document.querySelectorAll(".plate img, .layers canvas")].map(c => {
          const b = c.getBoundingClientRect();
          const rendering = getComputedStyle(c).imageRendering;
          return [c.naturalWidth ?? c.width, c.naturalHeight ?? c.height, b.width, b.height, rendering];
        })"""
    )
    assert len(sizes) == sum(len(one.maps) for one in ALL) + len(ALL)
    for columns, rows, across, down, rendering in sizes:
        times = across * ratio / columns
        assert times == pytest.approx(down * ratio / rows, rel=1e-3)
        if times >= 1:
            assert times == pytest.approx(round(times), rel=1e-3)
            assert rendering == "pixelated"


def test_dark_and_light_differ_and_both_can_be_read(opened):
    def colours(scheme):
        tab = opened(color_scheme=scheme)
        style = "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]"
        paper, ink = tab.locator("body").evaluate(style)
        quiet = tab.locator(".lede").evaluate(style)[1]
        return [brightness(colour) for colour in (paper, ink, quiet)]

    light, dark = colours("light"), colours("dark")
    assert light[0] > 0.8 > 0.1 > dark[0]
    for paper, *inks in (light, dark):
        for ink in inks:
            high, low = max(paper, ink), min(paper, ink)
            assert (high + 0.05) / (low + 0.05) > 4.5  # WCAG AA


def brightness(colour):
    """Relative luminance, as WCAG defines it."""
    shares = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_without_javascript_every_map_is_visible(opened):
    tab = opened(ready=False, java_script_enabled=False)
    images = tab.locator(".card img, .card svg.plate")
    assert images.count() == sum(1 + len(one.maps) for one in ALL)
    assert all(image.is_visible() for image in images.all())
    assert about(drawn(tab, 0), expected(0, 0, "classic"))
    assert not tab.locator(".toolbar").is_visible()
    assert tab.locator("article .viewer").count() == 0
    assert tab.locator("noscript .notice").is_visible()


def test_where_pictures_cannot_be_read_the_classic_view_stays(opened):
    """As in browsers that guard against fingerprinting: what they give back is noise."""
    noise = """const real = OffscreenCanvasRenderingContext2D.prototype.getImageData;
      OffscreenCanvasRenderingContext2D.prototype.getImageData = function (...box) {
        const image = real.apply(this, box);
        image.data.fill(77);
        return image;
      };"""
    tab = opened(script=noise, ready=False)
    tab.get_by_text("keeps pages from reading pictures").wait_for()
    assert not tab.locator(".toolbar").is_visible()
    assert all(image.is_visible() for image in tab.locator(".card img").all())


def test_a_name_cannot_run_anything(opened):
    """`opened` fails on any dialog; the name stands there as it is."""
    tab = opened()
    assert tab.locator("h2 bdi").nth(1).inner_text() == HOSTILE
    assert tab.locator("script").count() == 1
