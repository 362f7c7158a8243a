"""Pages of filters, an evolution and occlusion in a real browser: no script, nothing fetched, nothing that sticks out.

make test-browser
"""

import numpy as np
import pytest
import torch
from torch import nn

import attribkit
from attribkit import Checkpoint
from attribkit.studies import evolution_page, filters_page, occlusion_page
from attribkit.studies.occlusion_picture import Covered

pytestmark = pytest.mark.browser

FACTS = {"command": "attribkit evolve " + "a-name-without-a-place-to-break-" * 6, "model": "<i>net</i>"}
CHANGES = 10

PIXELS = """image => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
}"""


class Pictures(torch.utils.data.Dataset):
    """Inputs with labels that are no HTML; the second half is brighter in blue."""

    targets = [number % 2 for number in range(12)]  # noqa: RUF012
    classes = ("ant", '<b title="x">bee</b>')

    def __len__(self):
        return 12

    def __getitem__(self, number):
        x = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(number))
        x[2] += number
        return x


def net(number):
    """Channel 1 of the first layer looks for red, from 10 to 49 for blue; channel 4 is dead at 20."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU()).eval()
    with torch.no_grad():
        made[0].weight[1] = 0
        made[0].weight[1, 2 if CHANGES <= number < 50 else 0] = 1
        made[0].bias[4] = -1000 if number == 20 else 1
    return made


@pytest.fixture(scope="module")
def evolution():
    checkpoints = [
        Checkpoint(number, f"epoch-{number}", lambda number=number: net(number)) for number in (1, 5, 10, 20, 30, 50)
    ]
    return attribkit.evolve(checkpoints, Pictures(), layer=["1", "3"])


@pytest.fixture(scope="module")
def pages(evolution, tmp_path_factory):
    """Files by their names."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "evolution.html").write_bytes(evolution_page.page(evolution, FACTS))
    (folder / "filters.html").write_bytes(filters_page.page("<i>net</i>", attribkit.filters(net(1)), FACTS))
    (folder / "occlusion.html").write_bytes(occlusion_page.page([covered()], FACTS))
    return folder


def covered():
    """An image covered window by window, and classes whose names are no HTML."""
    classifier = nn.Sequential(net(1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    result = attribkit.occlude(classifier, Pictures()[3][None], window=8, stride=4)
    return Covered(
        "<i>cat</i>", np.full((20, 20, 3), 99, np.uint8), result, [f"<i>{n}</i>" for n in range(4)], None, ""
    )


@pytest.fixture
def opened(chromium, pages):
    """Open a page; at the end it has said nothing and has asked for nothing but itself."""
    contexts, problems = [], []

    def open_page(name, width=1280, **options):
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        tab, address = context.new_page(), (pages / f"{name}.html").as_uri()
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
        tab.goto(address)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


EVERY = pytest.mark.parametrize("name", ["evolution", "filters", "occlusion"])
BOTH = pytest.mark.parametrize("name", ["evolution", "filters"])


@EVERY
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_nothing_sticks_out_and_every_picture_is_there(opened, name, width, scheme):
    """Names are text, whatever they contain; ink is dark on light, and light on dark."""
    tab = opened(name, width, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert tab.locator("main i, main b b, header i").count() == 0
    assert "<i>net</i>" in tab.inner_text(".lede")
    ink, paper = tab.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    assert (sum(eval(ink[3:])) > sum(eval(paper[3:]))) == (scheme == "dark")


@EVERY
def test_it_reads_the_same_without_scripts(opened, name):
    assert opened(name).inner_text("main") == opened(name, java_script_enabled=False).inner_text("main")


@BOTH
def test_wide_tables_are_scrolled_by_keyboard(opened, name):
    """Inside of their own frame, which can be focused and has a name."""
    tab = opened(name, 360)
    frame = tab.locator(".wide").last if name == "evolution" else tab.locator(".wide").first
    assert frame.get_attribute("aria-label")
    frame.evaluate("frame => frame.style.width = '200px'")
    # The page forbids eval, by which the driver would wait for a condition: wait for the event.
    frame.evaluate("frame => { window.scrolled = new Promise(done => frame.addEventListener('scroll', done)) }")
    frame.focus()
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("window.scrolled.then(() => document.activeElement.scrollLeft)") > 0


def test_colours_of_the_legend_and_pixels_are_shown(opened):
    """As the library chose them; an enlarged pixel is a square."""
    tab = opened("occlusion")
    shown = tab.evaluate("[...document.querySelectorAll('.legend svg *')].map(each => getComputedStyle(each).fill)")
    assert shown == [f"rgb{colour}" for colour, _, _ in covered().legend]
    for name in ("evolution", "filters", "occlusion"):
        looks = opened(name).evaluate("[...document.images].map(image => getComputedStyle(image).imageRendering)")
        assert set(looks) == {"pixelated"}


def test_tiles_are_those_of_the_winners(opened, evolution):
    """The browser shows what the library found, pixel by pixel, and where the image changed."""
    tab = opened("evolution")
    film = evolution.films["1"]
    strip = tab.locator("table.film").first
    changed = strip.evaluate(
        "t => [...t.tBodies[0].rows].map(r => [...r.querySelectorAll('td')].map(c => c.className == 'changed'))"
    )
    assert changed == film.changed.tolist()
    assert changed[1] == [False, False, True, False, False, True]
    for column in (0, 2):
        patch = strip.locator("tbody tr").nth(1).locator("td").nth(column).locator("img").nth(1)
        expected = film.tiles[1][column].patch
        seen = np.array(patch.evaluate(PIXELS)).reshape(*expected.shape[:2], 4)[..., :3]
        assert (seen == expected).all()
        assert (seen != film.tiles[1][2 - column].patch).any()
        image = int(film.image[1, column])
        assert patch.get_attribute("alt") == f"part of {evolution.names[image]}, {Pictures.classes[image % 2]}"
    dead = strip.locator("tbody tr").nth(4).locator("td").nth(3)
    assert "fires on none" in dead.inner_text()
    assert dead.locator("img").count() == 0


def test_curves_lie_where_their_numbers_say(opened, evolution):
    """The first chart's line of the first layer, against its own scale."""
    tab = opened("evolution")
    heights = tab.evaluate(
        "(s => ({ticks: [...s.querySelectorAll('line')].map(l => +l.getAttribute('y1')),"
        " points: s.querySelector('polyline').getAttribute('points').split(' ').map(p => +p.split(',')[1])}))"
        "(document.querySelector('.charts svg'))"
    )
    zero, _, one = heights["ticks"]
    values = [(zero - y) / (zero - one) for y in heights["points"]]
    assert values == pytest.approx(evolution.films["1"].settling.medians()["cosine"], abs=0.01)
    row = tab.locator("table.numbers tbody tr").first
    assert row.inner_text().split()[:2] == ["1", "cosine"]


def test_every_filter_is_in_the_closed_list(opened):
    tab = opened("filters")
    rows = tab.locator("details tbody tr")
    assert rows.count() == 8
    assert not rows.first.is_visible()
    tab.locator("summary").focus()
    tab.keyboard.press("Enter")
    assert rows.first.is_visible()
