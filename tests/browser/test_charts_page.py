"""Pages of charts in a real browser: nothing sticks out, words can be read in the dark, names are text.

make test-browser
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import attribkit
from attribkit.studies.invariance_page import invariance_page
from attribkit.studies.probes_page import probes_page

pytestmark = pytest.mark.browser

FACTS = {"command": "attribkit <b>", "model": "<i>net</i>"}
PART = "<b>left eye of a rather long name</b>"


class Labelled(torch.utils.data.TensorDataset):
    """Inputs of two classes."""

    targets = tuple(number % 2 for number in range(40))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of both studies."""
    folder = tmp_path_factory.mktemp("pages")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3200, 5))
    x = torch.randn(40, 3, 24, 24)
    boxes: Any = [{PART: (2 + n, 3, 9 + n, 10)} for n in range(3)]
    moved = attribkit.invariance(
        net.eval(), x[:3], moves={"down": [-0.25, 0, 0.25], "rotation": [0, 90, 180], "flip": [0, 1]}
    )
    parts = attribkit.correspondence(net, x[:3], boxes)
    data = Labelled(x)
    every = [attribkit.probe(net, data), attribkit.probe(net, data, remove=["1"])]
    made = {"invariance": invariance_page(moved, parts, FACTS), "probes": probes_page(every, FACTS)}
    for name, page in made.items():
        (folder / f"{name}.html").write_bytes(page)
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1280])
@pytest.mark.parametrize("name", ["invariance", "probes"])
def test_it_can_be_read(chromium: Any, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    """On a phone and in the dark: no word leaves its chart, and each stands out from the paper."""
    problems: list[str] = []
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    tab.goto(pages[name].as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    outside = tab.evaluate(
        """[...document.querySelectorAll('svg text')].filter(t => {
          const box = t.getBBox(), all = t.ownerSVGElement.viewBox.baseVal;
          return box.x < -1 || box.y < -1 || box.x + box.width > all.width + 1 || box.y + box.height > all.height + 1;
        }).map(t => t.textContent)"""
    )
    assert outside == []
    ink, paper = tab.evaluate(
        "[getComputedStyle(document.querySelector('svg text')).fill, getComputedStyle(document.body).backgroundColor]"
    )
    bright = [sum(map(int, colour[4:-1].split(","))) / 765 for colour in (ink, paper)]
    assert abs(bright[0] - bright[1]) > 0.5
    assert (bright[0] > bright[1]) == (scheme == "dark")
    assert tab.evaluate("Math.min(...[...document.querySelectorAll('svg.chart')].map(s => s.clientWidth))") >= 280
    assert problems == []
    context.close()


def test_names_are_text(chromium: Any, pages: dict[str, Path]) -> None:
    """Whatever they contain, in charts and in tables; a table is reached by the keyboard."""
    tab = chromium.new_page()
    tab.goto(pages["invariance"].as_uri())
    assert PART in tab.inner_text("table >> nth=1")
    assert tab.evaluate("document.querySelectorAll('main b, main i, svg b').length") == 0
    assert "<i>net</i>" in tab.inner_text(".lede")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.getAttribute('role')") == "region"
    tab.close()


def test_every_chart_says_what_it_shows(chromium: Any, pages: dict[str, Path]) -> None:
    tab = chromium.new_page()
    tab.goto(pages["invariance"].as_uri())
    labels = tab.evaluate("[...document.querySelectorAll('figure svg')].map(s => s.getAttribute('aria-label'))")
    assert len(labels) == 7
    assert "distance of the features: rotation, in degrees" in labels
    tab.close()
