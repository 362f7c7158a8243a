"""EfficientNet-Lite0's guided maps by Captum and by us, beside the plain gradient: a picture and how far they differ.

python benchmarks/beside_captum.py docs/images/beside-captum.png
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import captum
import captum.attr
import torch
from torch import Tensor

import attribkit
from attribkit.adapters.captum import GuidedBackprop
from attribkit.report.pictures import panel, picture, write_png

EXAMPLES = Path(__file__).parents[1] / "examples"


def main() -> None:
    warnings.filterwarnings("ignore", "Setting backward hooks")
    loaded = attribkit.load("packaged:efficientnet_lite0")
    x = loaded.preprocess(EXAMPLES / "cat.jpg")[None].requires_grad_()
    target = int(loaded.model(x).argmax())
    maps: dict[str, Tensor] = {
        "plain gradient": torch.autograd.grad(loaded.model(x)[0, target], x)[0],
        f"GuidedBackprop of Captum {captum.__version__}": captum.attr.GuidedBackprop(loaded.model).attribute(x, target),
        "GuidedBackprop of attribkit": GuidedBackprop(loaded.model).attribute(x, target),
    }
    plain = maps["plain gradient"]
    for name, map_ in maps.items():
        apart = (map_ - plain).abs().max() / plain.abs().max()
        print(f"{name}: {apart:.2g} of the plain gradient's largest value away from it")
    shown = [picture(map_[0].detach().numpy(), "classic") for map_ in maps.values()]
    write_png(sys.argv[1], panel([loaded.unpreprocess(x[0].detach()), *shown], [loaded.labels[target], *maps]))


if __name__ == "__main__":
    main()
