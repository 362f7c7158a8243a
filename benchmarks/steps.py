"""What a map costs beside its arithmetic: step by step over planes so small that it hardly counts, and for networks.

python benchmarks/steps.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import attribkit
from attribkit.cli.tasks import network

STEPS, ROUNDS = 60, 60
NETWORKS = ("resnet50", "mobilenet_v2", "hrnet_w18_small")
KINDS: dict[str, Callable[[], list[nn.Module]]] = {
    "convolution": lambda: [nn.Conv2d(4, 4, 3, padding=1)],
    "batch norm": lambda: [nn.BatchNorm2d(4)],
    "ReLU": lambda: [nn.ReLU()],
    "all three": lambda: [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()],
}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for kind, make in KINDS.items():
        model = nn.Sequential(*(module for _ in range(STEPS) for module in make()), nn.ReLU()).eval()
        ours, torchs = microseconds({"ours": attribkit.rewrite(model, "guided"), "torch": model})
        print(
            f"{kind}: up {ours[0]:.0f} (torch {torchs[0]:.0f}), down {ours[1]:.0f} (torch {torchs[1]:.0f}) microseconds"
        )
    for name in NETWORKS:
        plain, rewritten, explained = of_a_network(name)
        print(
            f"{name}, 32 x 32 pixels: a plain gradient {plain:.1f} ms; "
            f"the rewritten network {rewritten - plain:.1f} more, the explainer {explained - rewritten:.1f} more"
        )


def of_a_network(name: str) -> list[float]:
    """Milliseconds of a map by torch, by a rewritten network, and by an explainer; medians of rounds in turns."""
    model, x = network(name).requires_grad_(False), torch.rand(1, 3, 32, 32)
    net, explainer = attribkit.rewrite(model, "guided"), attribkit.Explainer(model)
    ways: list[Callable[[], object]] = [
        lambda: once(model, x.clone().requires_grad_()),
        lambda: once(net, x.clone().requires_grad_()),
        lambda: explainer(x, target=1),
    ]
    taken: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for way, each in zip(ways, taken, strict=True):
            start = time.perf_counter()
            way()
            each.append(time.perf_counter() - start)
    return [1000 * statistics.median(each) for each in taken]


def microseconds(nets: dict[str, nn.Module]) -> list[tuple[float, float]]:
    """For each net what a step takes on the way up and on the way down; medians of rounds in turns."""
    x = torch.rand(1, 4, 8, 8)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in nets}
    for _ in range(ROUNDS):
        for name, net in nets.items():
            taken[name].append(once(net, x.clone().requires_grad_()))
    return [tuple(1e6 * statistics.median(way) / STEPS for way in zip(*each, strict=True)) for each in taken.values()]


def once(net: nn.Module, image: Tensor) -> tuple[float, float]:
    """Seconds up, and down."""
    start = time.perf_counter()
    output = net(image).sum()
    middle = time.perf_counter()
    torch.autograd.grad(output, image)
    return middle - start, time.perf_counter() - middle


if __name__ == "__main__":
    main()
