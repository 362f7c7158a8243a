"""Is a map called guided backprop one? Captum's beside the plain gradient, and what attribkit says, model by model.

    python benchmarks/guided_by_name.py
    python benchmarks/guided_by_name.py timm:convnext_atto torchvision:mobilenet_v2

Weights are random and so is the image: which rule a map follows depends on neither. Nothing is downloaded.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

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


def rows(name: str) -> Iterator[tuple[str, str]]:
    """What there is to say of a model, line by line."""
    torch.manual_seed(0)
    loaded = attribkit.load(name, "none")
    image = torch.randn(loaded.preprocess.example().shape)[None].requires_grad_()
    target = int(loaded.model(image).argmax())
    gradient = captum.attr.Saliency(loaded.model).attribute(image, target, abs=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum warns of its hooks at each call
        theirs = captum.attr.GuidedBackprop(loaded.model).attribute(image, target)
    yield "activations", activations(loaded.model)
    yield "Captum's GuidedBackprop", _against(theirs, gradient)
    for kinds in ("rectifiers", "all"):
        label = f"attribkit guided, activations={kinds}"
        try:
            ours = attribkit.Explainer(loaded, "guided", activations=kinds)(image.detach(), target=target)
            yield label, f"{_against(ours.values, gradient)} ({ours.sites_in_words})"
        except attribkit.NothingToRewrite as refusal:
            yield label, f"refused, since {refusal}"


def _against(values: Tensor, gradient: Tensor) -> str:
    difference = apart(values, gradient)
    return (
        "the plain gradient"
        if difference < 1e-4
        else f"differs from the plain gradient by {difference:.2f} of its length"
    )


def main(names: Sequence[str]) -> None:
    for name in names or MODELS:
        print(name)
        for label, words in rows(name):
            print(f"  {label}: {words}")


if __name__ == "__main__":
    main(sys.argv[1:])
