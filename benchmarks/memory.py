"""Peak memory and time of one guided map, as multiples of plain autograd's, measured side by side in one run.

    python benchmarks/memory.py [--size 224] [--batch 1] [--rounds 25]

Memory is what torch's CPU allocator holds at most between the image and its gradient, beyond the weights. Time is the
median over rounds in which both take their turn. `autograd` is the model as it comes; `frozen` is the same with
`requires_grad_(False)`.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

import attribkit
from attribkit.cli.measuring import peak_bytes, ratio, seconds_in_turns
from attribkit.explaining.passes import gradient

Run = Callable[[], Tensor]


def gradient_of(model: nn.Module, images: Tensor) -> Run:
    """A map of class 0 for each image: one forward and one backward pass."""

    return lambda: gradient(lambda x: model(x)[:, 0].sum(), images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, {tuple(images.shape)}")
    print(f"{'model':10} {'baseline':10} {'peak MiB':>9} {'guided MiB':>11} {'memory':>7}  time (quartiles)")
    for name in ("vgg16", "resnet50"):
        model = torchvision.models.get_model(name, weights=None).eval()
        guided = gradient_of(attribkit.rewrite(model, "guided"), images)
        for baseline in ("autograd", "frozen"):
            model.requires_grad_(baseline == "autograd")
            plain = gradient_of(model, images)
            for _ in range(3):  # until the allocator has seen both
                plain(), guided()
            ours, theirs = peak_bytes(guided, images.device), peak_bytes(plain, images.device)
            taken = seconds_in_turns({"guided": guided, "plain": plain}, arguments.rounds, images.device)
            print(
                f"{name:10} {baseline:10} {theirs / 2**20:9.1f} {ours / 2**20:11.1f} {ours / theirs:7.2f}  "
                f"{ratio(taken, 'guided', 'plain')}"
            )


if __name__ == "__main__":
    main()
