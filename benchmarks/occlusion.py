"""Occlusion's time beside the plain batched loop's and that of Captum's `Occlusion`, each at its best batch size.

    python benchmarks/occlusion.py torchvision:resnet18 torchvision:vgg16 --window 32 --stride 16

One thread, in one run and in turns. Weights are random, which changes no time, and one image of noise is covered.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import captum.attr
import torch
from torch import Tensor, nn

import attribkit
from attribkit.cli.measuring import ratio, seconds_in_turns

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


def best_batch(work: Callable[[int], object]) -> int:
    """The batch size at which some work is quickest."""
    taken = {}
    for batch in BATCHES:
        start = time.perf_counter()
        work(batch)
        taken[batch] = time.perf_counter() - start
    return min(taken, key=taken.__getitem__)


def compare(name: str, window: int, stride: int, rounds: int) -> None:
    """Print the ratios, and how far the numbers are apart as a share of the largest effect."""
    torch.manual_seed(0)
    net = attribkit.load(name, "none").model
    image = torch.randn(1, 3, 224, 224)
    tool = captum.attr.Occlusion(net)

    def ours() -> attribkit.Occlusion:
        return attribkit.occlude(net, image, window, stride, 0, target=0)

    def captums(batch: int) -> Tensor:
        with torch.no_grad():
            return tool.attribute(image, (3, window, window), (3, stride, stride), 0, perturbations_per_eval=batch)

    result = ours()
    plain_batch = best_batch(lambda batch: plain_loop(net, image, result, batch))
    captum_batch = best_batch(captums)
    works = {
        "ours": ours,
        "plain": lambda: plain_loop(net, image, result, plain_batch),
        "captum": lambda: captums(captum_batch),
    }
    taken = seconds_in_turns(works, rounds, torch.device("cpu"))
    chances = plain_loop(net, image, result, plain_batch).double().softmax(1)[:, 0].numpy()
    effect = abs(chances - result.clean[0, 0]).max()
    apart = abs(chances - result.probability.ravel()).max() / effect
    print(f"{name}, window {window}, stride {stride}: {result.probability[0].size} windows; {result.computed}")
    print(f"  time over the plain loop's in batches of {plain_batch}: {ratio(taken, 'ours', 'plain')}")
    print(f"  time over Captum's in batches of {captum_batch}: {ratio(taken, 'ours', 'captum')}")
    print(f"  largest difference over the largest effect: {apart:.1e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.models:
        compare(name, asked.window, asked.stride, asked.rounds)


if __name__ == "__main__":
    main()
