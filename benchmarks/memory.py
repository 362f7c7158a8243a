"""Peak memory and time of one guided map, as multiples of plain autograd's, measured side by side in one run.

    python benchmarks/memory.py [--size 224] [--batch 1] [--pairs 25]

Memory is what torch's CPU allocator holds at most between the image and its gradient, beyond the weights. Time is the
median over interleaved pairs. `autograd` is the model as it comes; `frozen` is the same with `requires_grad_(False)`.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from itertools import accumulate

import torch
import torchvision
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import attribkit

Run = Callable[[], Tensor]


def gradient_of(model: nn.Module, images: Tensor) -> Run:
    """A map of class 0 for each image: one forward and one backward pass."""

    def run() -> Tensor:
        x = images.clone().requires_grad_()
        return torch.autograd.grad(model(x)[:, 0].sum(), x)[0]

    return run


def peak_bytes(run: Run) -> int:
    """The most that is allocated at once while `run` runs, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results = profiler.profiler.kineto_results
    sizes = [event.nbytes() for event in results.events() if event.name() == "[memory]"]
    return max(accumulate(sizes))


def seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def time_ratios(run: Run, baseline: Run, pairs: int) -> list[float]:
    """Ratios of times taken in turn, so that whatever else the machine does falls on both."""
    ratios = []
    for pair in range(pairs):
        first, second = (run, baseline) if pair % 2 else (baseline, run)
        times = {first: seconds(first), second: seconds(second)}
        ratios.append(times[run] / times[baseline])
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=25)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, {tuple(images.shape)}")
    print(f"{'model':10} {'baseline':10} {'peak MiB':>9} {'guided MiB':>11} {'memory':>7} {'time':>6}  (spread)")
    for name in ("vgg16", "resnet50"):
        model = torchvision.models.get_model(name, weights=None).eval()
        guided = gradient_of(attribkit.rewrite(model, "guided"), images)
        for baseline in ("autograd", "frozen"):
            model.requires_grad_(baseline == "autograd")
            plain = gradient_of(model, images)
            for _ in range(3):  # until the allocator has seen both
                plain(), guided()
            ours, theirs = peak_bytes(guided), peak_bytes(plain)
            ratios = sorted(time_ratios(guided, plain, arguments.pairs))
            print(
                f"{name:10} {baseline:10} {theirs / 2**20:9.1f} {ours / 2**20:11.1f} {ours / theirs:7.2f} "
                f"{statistics.median(ratios):6.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            )


if __name__ == "__main__":
    main()
