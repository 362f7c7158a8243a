"""What the look at the finished graph costs: once for a rewritten net, as a share of a map, and nothing afterwards.

python benchmarks/look_back.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torchvision import models

import attribkit
from attribkit.engine import lookback

ROUNDS = 7


def seconds(work: Callable[[], object]) -> float:
    """The median of some rounds."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name in ("resnet50", "densenet121", "mobilenet_v2"):
        report(name)


def report(name: str) -> None:
    """A line for one architecture."""
    net = attribkit.rewrite(models.get_model(name, weights=None), "guided")
    image = torch.rand(1, 3, 224, 224).requires_grad_()
    output = net(image)
    one_map = seconds(lambda: torch.autograd.grad(net(image)[0, 0], image))
    walk = seconds(lambda: lookback.look_back(output, net.sites, ()))
    known = seconds(lambda: tuple(net._met) in net._looks)
    print(
        f"{name}: a map {1000 * one_map:.0f} ms; the look, once, {1000 * walk:.1f} ms ({walk / one_map:.1%}); "
        f"afterwards {1000 * known:.3f} ms per map ({known / one_map:.2%})"
    )


if __name__ == "__main__":
    main()
