"""Ways past max-pools side by side: a row per rule, with its words, on a desk and on a phone."""

import numpy as np
import pytest

from attribkit.report.page import METHODS, page
from attribkit.report.shown import Shown
from attribkit.units import Unit

pytestmark = pytest.mark.browser

COLUMNS = [f"{rule}, {way}" for rule in METHODS for way in ("own switches", "without switches (uniform)")]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    random = np.random.default_rng(0)
    maps = {column: random.standard_normal((3, 224, 224)) for column in COLUMNS}
    picture = random.integers(0, 256, (224, 224, 3), np.uint8)
    unit = Unit(0, None, 967, None, 38.0, None)
    path = tmp_path_factory.mktemp("pairs") / "page.html"
    path.write_bytes(page([Shown("coffee.jpg", picture, maps, unit, "espresso", {})], {}))
    return path


@pytest.mark.parametrize("width", [1200, 390])
def test_a_row_per_rule_says_what_the_rule_does(opened, width):
    tab = opened(width=width, color_scheme="dark")
    cards = [card.bounding_box() for card in tab.locator("label.card").all()]
    words = tab.locator(".rule").all()
    rows = zip(cards[::2], cards[1::2], words, METHODS.items(), strict=True)
    for own, without, said, (rule, sentence) in rows:
        assert said.inner_text() == f"{rule} {sentence}"
        box = said.bounding_box()
        assert own["y"] == without["y"]
        assert own["x"] < without["x"]
        beside = box["x"] >= without["x"] + without["width"] - 1
        assert own["y"] < box["y"] < own["y"] + own["height"] + 60
        assert beside == (width > 1000)
    last = max(cards[-1]["y"] + cards[-1]["height"], words[-1].bounding_box()["y"] + words[-1].bounding_box()["height"])
    assert 0 < tab.locator(".explorer").bounding_box()["y"] - last < 90
    assert tab.evaluate("document.documentElement.scrollWidth") == width
