"""Captum's own tests for the classes that `attribkit.adapters.captum` offers, with ours in the place of Captum's.

    git clone https://github.com/pytorch/captum
    python benchmarks/captum_tests.py captum

The exit code is pytest's. Captum's files are run where they lie; nothing of them is part of this project.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import captum.attr
import pytest

from attribkit.adapters import captum as ours

NAMES = ("GuidedBackprop", "Deconvolution", "NeuronGuidedBackprop", "NeuronDeconvolution", "GuidedGradCam", "Occlusion")

PLACES = (
    "captum.attr",
    "captum.attr._core.guided_backprop_deconvnet",
    "captum.attr._core.guided_grad_cam",
    "captum.attr._core.neuron.neuron_guided_backprop_deconvnet",
    "captum.attr._core.occlusion",
)

WHOLE = ("test_guided_backprop.py", "test_deconvolution.py", "test_guided_grad_cam.py", "test_occlusion.py")
IN_PART = ("test_targets.py", "test_hook_removal.py")


def put_ours_in_place() -> None:
    """Whoever imports one of the names from Captum after this gets ours."""
    for place in map(importlib.import_module, PLACES):
        for name in NAMES:
            if hasattr(place, name):
                setattr(place, name, getattr(ours, name))


def main(checkout: str) -> int:
    """Run the tests of a checkout of Captum's repository."""
    folder = Path(checkout) / "tests" / "attr"
    if not folder.is_dir():
        print(f"{checkout} is no checkout of https://github.com/pytorch/captum: it has no tests/attr", file=sys.stderr)
        return 2
    put_ours_in_place()
    assert captum.attr.GuidedBackprop is ours.GuidedBackprop
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        checkout,
        "-c",
        "/dev/null",
        "-k",
        "uided or econv or cclusion",
    ]
    return int(pytest.main([*options, *(str(folder / name) for name in (*WHOLE, *IN_PART))]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/captum_tests.py CAPTUM")
    sys.exit(main(sys.argv[1]))
