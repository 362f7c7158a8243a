"""Occlusion's time beside the plain batched loop's and that of Captum's `Occlusion`, each at its best batch size.

    python benchmarks/occlusion.py torchvision:resnet18 torchvision:vgg16 --window 32 --stride 16

Seconds of one processor, in one run and in turns, so that whatever else the machine does counts little. Weights are
random, which changes no time, and one image of noise is covered.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import captum.attr
import torch
from torch import Tensor, nn

import attribkit

BATCHES = (4, 16)


def plain_loop(net: nn.Module, image: Tensor, result: attribkit.Occlusion, batch: int) -> Tensor:
    """The logits of every covered image, in batches, as one would write it."""
    height, width = result.window
    corners = [(top, left) for top in result.rows for left in result.columns]
    logits = []
    with torch.no_grad():
        for at in range(0, len(corners), batch):
            some = corners[at : at + batch]
            covered = image.repeat(len(some), 1, 1, 1)
            for each, (top, left) in zip(covered, some, strict=True):
                each[:, top : top + height, left : left + width] = 0
            logits.append(net(covered))
    return torch.cat(logits)


def seconds(work: Callable[[], object]) -> float:
    """What some work takes of a processor."""
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(name: str, window: int, stride: int, rounds: int) -> None:
    """Print the ratios, and how far the numbers are apart as a share of the largest effect."""
    torch.manual_seed(0)
    net = attribkit.load(name, "none").model
    image = torch.randn(1, 3, 224, 224)
    result = attribkit.occlude(net, image, window, stride, 0, target=0)
    works: dict[str, Callable[[], object]] = {
        "ours": lambda: attribkit.occlude(net, image, window, stride, 0, target=0)
    }
    for batch in BATCHES:
        works[f"the plain loop in batches of {batch}"] = partial(plain_loop, net, image, result, batch)
        works[f"Captum in batches of {batch}"] = partial(captums, net, image, window, stride, batch)
    taken = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for work, run in works.items():
            taken[work] = min(taken[work], seconds(run))
    chances = plain_loop(net, image, result, BATCHES[0]).double().softmax(1)[:, 0].numpy()
    effect = abs(chances - result.clean[0, 0]).max()
    apart = abs(chances - result.probability.ravel()).max() / effect
    print(f"{name}, window {window}, stride {stride}: {result.probability[0].size} windows; {result.computed}")
    for tool in ("the plain loop", "Captum"):
        best = min((work for work in taken if work.startswith(tool)), key=taken.__getitem__)
        print(f"  ours over {best}: {taken['ours'] / taken[best]:.2f} ({taken['ours']:.1f} of {taken[best]:.1f} s)")
    print(f"  largest difference over the largest effect: {apart:.1e}", flush=True)


def captums(net: nn.Module, image: Tensor, window: int, stride: int, batch: int) -> Tensor:
    """Captum's own map."""
    tool = captum.attr.Occlusion(net)
    with torch.no_grad():
        return tool.attribute(
            image, (3, window, window), (3, stride, stride), 0, target=0, perturbations_per_eval=batch
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.models:
        compare(name, asked.window, asked.stride, asked.rounds)


if __name__ == "__main__":
    main()
