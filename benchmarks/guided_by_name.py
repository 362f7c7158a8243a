"""Is a map called guided backprop one? Captum's beside the plain gradient, and what attribkit says, model by model.

    python benchmarks/guided_by_name.py
    python benchmarks/guided_by_name.py timm:convnext_atto torchvision:mobilenet_v2

A number is the distance from the plain gradient, as a share of its length. "all" stands for activations="all". Weights
are random and so is the image: which rule a map follows depends on neither. Nothing is downloaded.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Sequence

import captum.attr
import torch
from torch import Tensor, nn

import attribkit

MODELS = (
    "torchvision:resnet18",
    "torchvision:mobilenet_v2",
    "torchvision:efficientnet_b0",
    "timm:deit_tiny_patch16_224",
    "timm:vit_small_patch32_224",
)
KINDS = ("ReLU", "ReLU6", "GELU", "SiLU", "Hardswish", "Sigmoid")


def activations(model: nn.Module) -> str:
    """The activation modules of a model, counted by their class."""
    counts = Counter(kind for module in model.modules() if (kind := type(module).__name__) in KINDS)
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or "no modules"


def apart(one: Tensor, other: Tensor) -> float:
    """How far two maps differ, as a share of the second."""
    return float((one - other).norm() / other.norm())


def row(name: str) -> tuple[str, ...]:
    """A model, its activations, and how far each tool's guided map is from the plain gradient."""
    torch.manual_seed(0)
    loaded = attribkit.load(name, "none")
    image = torch.randn(loaded.preprocess.example().shape)[None].requires_grad_()
    target = int(loaded.model(image).argmax())
    gradient = captum.attr.Saliency(loaded.model).attribute(image, target, abs=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum warns of its hooks at each call
        theirs = captum.attr.GuidedBackprop(loaded.model).attribute(image, target)
    cells = [_against(theirs, gradient)]
    for kinds in ("rectifiers", "all"):
        try:
            explainer = attribkit.Explainer(loaded, "guided", activations=kinds)
            cells.append(_against(explainer(image.detach(), target=target).values, gradient))
        except attribkit.NothingToRewrite:
            cells.append("refused")
    return name, activations(loaded.model), *cells


def _against(values: Tensor, gradient: Tensor) -> str:
    difference = apart(values, gradient)
    return "gradient" if difference < 1e-4 else f"{difference:.2f}"


def main(names: Sequence[str]) -> None:
    table = [("model", "activations", "Captum", "attribkit", "attribkit, all"), *map(row, names or MODELS)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main(sys.argv[1:])
