"""Nothing is kept: no memory, no model, no image, no open file."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torture import Tried, times

import attribkit

MANY = """
import gc, json, os, sys
import torch, attribkit
from torch import nn

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(1),
                      nn.AdaptiveAvgPool1d(4), nn.Linear(4, 3))
images = [torch.randn(1, 3, side, side) for side in (16, 24, 32)]
count = int(sys.argv[1])
for number in range(count):
    if number == count // 10:
        early, files = resident(), len(os.listdir("/proc/self/fd"))
    attribkit.explain(model, images[number % 3], method="guided", target=number % 3)
print(json.dumps([early, resident(), files, len(os.listdir("/proc/self/fd"))]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_thousands_of_maps_of_three_shapes_take_no_more_memory_than_the_first_tenth(tried: Tried) -> None:
    count = times(10_000)
    done = subprocess.run([sys.executable, "-c", MANY, str(count)], capture_output=True, text=True, check=True)
    early, late, files_early, files_late = json.loads(done.stdout)
    assert late <= early * 1.01
    assert files_late == files_early
    tried("maps after which memory is within 1% of what it was after a tenth, and no file is open", count)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU())


LOOKS: dict[str, Any] = {
    "a unit": lambda model, x: attribkit.explain(model, x, layer="3", at=(1, 1)),
    "all methods": lambda model, x: attribkit.explain(model, x, method=["guided", "deconvnet"], layer="3"),
    "switches": lambda model, x: attribkit.record_switches(model, x),
    "occlusion": lambda model, x: attribkit.occlude(nn.Sequential(model, nn.Flatten()), x, window=4, stride=4, fill=0),
    "a gallery": lambda model, x: attribkit.gallery(model, list(x), layer="3", top=1),
    "a rewritten net": lambda model, x: attribkit.rewrite(model, "guided")(x),
}


@pytest.mark.parametrize("look", LOOKS)
def test_model_and_image_go_when_the_result_goes(look: str, tried: Tried) -> None:
    model, images = small(), torch.randn(2, 3, 14, 14)
    temporary = set(Path(tempfile.gettempdir()).glob("attribkit-*"))
    for _ in range(2):
        result = LOOKS[look](model, images)
    held = weakref.ref(model), weakref.ref(images)
    del result, model, images
    gc.collect()
    assert [each() for each in held] == [None, None]
    assert set(Path(tempfile.gettempdir()).glob("attribkit-*")) <= temporary
    tried("kinds of results that keep neither model nor image nor temporary file", 1)
