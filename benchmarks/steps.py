"""What a step costs beside its arithmetic: convolutions, norms and ReLUs over planes so small that it hardly counts.

python benchmarks/steps.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import attribkit

STEPS, ROUNDS = 60, 60
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
