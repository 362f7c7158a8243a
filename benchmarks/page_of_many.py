"""How large a page of many units is, how long it takes to write, in how much memory, and how soon a browser shows it.

    python benchmarks/page_of_many.py 500

The maps are differences of neighbouring pixels of a photograph, as hard to keep as real ones; every third unit sees
the whole picture, the others 99 x 99 pixels of it. The browser is measured where playwright is installed (extra
`browser`).
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from attribkit.adapters.images import read_image
from attribkit.report.page import Writer
from attribkit.report.shown import Shown
from attribkit.units import Unit

PHOTOGRAPH = Path(__file__).parents[1] / "examples" / "coffee.jpg"
SIDE, SEEN = 224, 99


def main() -> None:
    units = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    photograph = read_image(PHOTOGRAPH)
    start, before = time.perf_counter(), _peak()
    writer = Writer(units, -(-units // 2))
    for number in range(units):
        writer.add(shown(photograph, number))
    data = writer.page({"command": " ".join(sys.argv)})
    print(f"{units} units: {len(data) / 1e6:.1f} MB, {(time.perf_counter() - start) / units:.2f} s per unit, ", end="")
    print(f"{_peak() - before:.0f} MB of memory more than before")
    browse(data)


def shown(photograph: np.ndarray, number: int) -> Shown:
    """A unit of a part of the photograph that two units share."""
    random = np.random.default_rng(number // 2)
    top, left = (int(random.integers(0, side - SIDE + 1)) for side in photograph.shape[:2])
    picture = np.ascontiguousarray(photograph[top : top + SIDE, left : left + SIDE])
    values = picture.transpose(2, 0, 1).astype(np.float32)
    edges = np.diff(values, axis=2, append=values[..., -1:])
    maps = {"guided": edges, "deconvnet": np.abs(edges), "backprop": edges * random.standard_normal(edges.shape)}
    box = None
    if number % 3:
        y, x = (int(random.integers(0, SIDE - SEEN)) for _ in range(2))
        box = (y, x, y + SEEN, x + SEEN)
        mask = np.zeros((SIDE, SIDE), np.float32)
        mask[y : y + SEEN, x : x + SEEN] = 1
        maps = {name: each * mask for name, each in maps.items()}
    unit = Unit(0, f"layer{number % 3}", number, (3, 4), 1.0, box)
    return Shown(f"photo-{number // 2}.jpg", picture, maps, unit, "espresso 97%", dict.fromkeys(maps, "9 of 9 sites"))


def browse(data: bytes) -> None:
    """When the first thing is seen, and when every control answers."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "page.html"
        path.write_bytes(data)
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-ready]")
        painted, ready = tab.evaluate("[performance.getEntriesByType('paint')[0].startTime, performance.now()]")
        print(f"first paint after {painted / 1000:.2f} s, every control after {ready / 1000:.2f} s")
        browser.close()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
