"""The page of a gallery in a real browser, opened from a disk: what is loaded when, every control, every key.

make test-browser
"""

import shutil

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import attribkit
from attribkit.studies import exhibit

pytestmark = pytest.mark.browser

CHANNELS, IMAGES = 200, 12


class Pictures(torch.utils.data.Dataset):
    """Inputs with labels."""

    targets = [number % 2 for number in range(IMAGES)]  # noqa: RUF012
    classes = ("ant", "<b>bee</b>")

    def __len__(self):
        return IMAGES

    def __getitem__(self, number):
        return torch.randn(3, 20, 20, generator=torch.Generator().manual_seed(number))


@pytest.fixture(scope="module")
def gallery():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, CHANNELS, 3), nn.ReLU()).eval()
    with torch.no_grad():
        net[2].bias[150] = -100.0  # dead
    return attribkit.gallery(net, Pictures(), layer="3")


@pytest.fixture(scope="module")
def folder(gallery, tmp_path_factory):
    path = tmp_path_factory.mktemp("gallery")
    exhibit.write_page(gallery, path, {"model": "<i>net</i>"}, lambda things, name: things)
    return path


@pytest.fixture
def opened(chromium, folder):
    """Open the page; at the end it has said nothing and has asked for nothing beyond its folder."""
    contexts, problems, asked = [], [], []

    def note(request):
        asked.append(request.url)
        if not request.url.startswith(folder.as_uri()):
            problems.append(request.url)

    def open_page(anchor="", width=1280, height=900, **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(15_000)
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        tab.on("request", note)
        tab.goto((folder / "index.html").as_uri() + anchor)
        tab.wait_for_selector("html[data-ready]")
        return tab

    open_page.asked = asked
    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def shown(tab):
    return tab.evaluate("[...document.querySelectorAll('.row')].filter(r => !r.hidden).map(r => r.id)")


def focused(tab):
    return tab.evaluate("document.activeElement.closest('.row')?.id ?? document.activeElement.id")


def test_rows_are_filled_and_sheets_loaded_as_they_come_into_view(opened):
    tab = opened()
    tab.locator(".tile").first.wait_for(state="attached")
    assert len(shown(tab)) == CHANNELS
    assert tab.evaluate("document.querySelectorAll('.row:has(.tile)').length") < 20
    assert not any("011-patch" in url for url in opened.asked)
    tab.locator("#\\33 -199").scroll_into_view_if_needed()
    tab.wait_for_selector("#\\33 -199 .tile")
    tab.wait_for_load_state("networkidle")
    assert any("012-patch" in url for url in opened.asked)


def test_a_tile_is_the_patch_of_its_winner(opened, gallery, folder):
    """The browser shows of the sheet what the library put there, pixel by pixel."""
    tab = opened("#3-37")
    tile = tab.locator("#\\33 -37 .block.patches .tile").nth(2)
    tile.wait_for()
    tab.wait_for_load_state("networkidle")
    seen = cv2.imdecode(np.frombuffer(tile.screenshot(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    patch = gallery.projections(37)[2].patch
    expected = cv2.resize(patch, seen.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    assert abs(seen.astype(int) - expected).mean() < 3
    others = [gallery.projections(37)[number].patch for number in (0, 1, 3)]
    for other in others:
        wrong = cv2.resize(other, seen.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        assert abs(seen.astype(int) - wrong).mean() > 30


def test_a_link_leads_to_a_unit(opened):
    from playwright.sync_api import expect

    tab = opened("#3-150")
    assert focused(tab) == "3-150"
    assert "dead" in tab.locator("#\\33 -150 .told").first.inner_text()
    tab.evaluate("location.hash = '#3-20'")
    expect(tab.locator("[id='3-20']")).to_be_focused()


def test_search(opened):
    """By number, class or image; a link leads out of it."""
    from playwright.sync_api import expect

    tab = opened()
    tab.fill("#search", "19")
    assert shown(tab) == ["3-19", *(f"3-{number}" for number in range(190, 200))]
    assert tab.inner_text("#count") == "11 of 200 channels"
    tab.fill("#search", "BEE")
    assert 0 < len(shown(tab)) <= CHANNELS
    tab.fill("#search", "nowhere")
    assert shown(tab) == []
    tab.evaluate("location.hash = '#3-7'")
    expect(tab.locator("[id='3-7']")).to_be_focused()
    assert len(shown(tab)) == CHANNELS


def test_orders(opened, gallery):
    tab = opened()
    strongest = gallery.value[:, 0]
    tab.select_option("#order", "strength")
    assert [int(name.split("-")[1]) for name in shown(tab)][:20] == np.argsort(-strongest, kind="stable")[:20].tolist()
    tab.select_option("#order", "entropy")
    entropy = gallery.statistics.entropy
    listed = [entropy[int(name.split("-")[1])] for name in shown(tab)]
    assert np.diff(listed).min() >= -1e-5
    tab.select_option("#order", "selectivity")
    assert shown(tab)[-1] == "3-150"
    tab.select_option("#order", "class")
    assert len(shown(tab)) == CHANNELS
    tab.select_option("#order", "index")
    assert shown(tab)[:2] == ["3-0", "3-1"]


def test_maps_patches_or_both(opened):
    tab = opened()
    tab.wait_for_selector("#\\33 -0 .tile")
    patches, maps = (tab.locator(f"#\\33 -0 .block.{kind}") for kind in ("patches", "maps"))
    assert patches.is_visible()
    assert maps.is_visible()
    tab.get_by_role("radio", name="Maps").check(force=True)
    assert not patches.is_visible()
    tab.get_by_role("radio", name="Patches").check(force=True)
    assert patches.is_visible()
    assert not maps.is_visible()


def test_keys(opened, gallery):
    tab = opened()
    for key, where in (("j", "3-0"), ("j", "3-1"), ("k", "3-0"), ("k", "3-0"), ("j", "3-1")):
        tab.keyboard.press(key)
        assert focused(tab) == where
    tab.keyboard.press("Enter")
    assert tab.locator("#closer").is_visible()
    name = gallery.names[gallery.image[1, 0]]
    assert name in tab.inner_text("#closer-facts")
    tab.keyboard.press("Escape")
    assert not tab.locator("#closer").is_visible()
    tab.keyboard.press("m")
    assert tab.get_by_role("radio", name="Patches").is_checked()
    tab.keyboard.press("/")
    assert focused(tab) == "search"
    tab.keyboard.press("j")
    assert tab.input_value("#search") == "j"


def test_a_closer_look(opened):
    """Names and classes are text, whatever they contain."""
    tab = opened()
    tab.wait_for_selector("#\\33 -0 .tile")
    tab.locator("#\\33 -0 .block.maps .tile").nth(4).click()
    assert tab.inner_text("#closer-name") == "3 0, number 5"
    facts = tab.inner_text("#closer-facts")
    assert "ant" in facts or "<b>bee</b>" in facts
    assert tab.locator("main b b, i").filter(has_text="net").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_nothing_sticks_out(opened, width, scheme):
    tab = opened(width=width, color_scheme=scheme)
    tab.wait_for_selector("#\\33 -0 .tile")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = tab.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    assert (sum(eval(ink[3:])) > sum(eval(paper[3:]))) == (scheme == "dark")


def test_a_page_without_its_index_says_so(chromium, folder, tmp_path):
    shutil.copy(folder / "index.html", tmp_path)
    tab = chromium.new_page()
    tab.goto((tmp_path / "index.html").as_uri())
    assert tab.locator("#lost").is_visible()
    tab.close()
