"""How time and memory of guided maps grow: what does twice the image, the batch, the units or the depth cost?

    python benchmarks/growth.py [--rounds 15] [--out growth.png]

One question is asked of a plain stack of convolutions, in which one thing at a time is doubled again and again, and all
sizes take turns. An exponent of 1 is twice the cost for twice the size, of 2 four times.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

import attribkit
from attribkit.cli.measuring import Work, peak_bytes, seconds_in_turns
from attribkit.report.charts import Series, curves, legend
from attribkit.report.marks import drawn

CPU = torch.device("cpu")
WIDTH = 32


def asked(side: int = 128, batch: int = 1, units: int = 1, depth: int = 8) -> Work:
    """Units of the last layer of a stack, in the middle, with all that has to be done once done."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Conv2d(WIDTH if number else 3, WIDTH, 3, padding=1), nn.ReLU()]
    model, images = nn.Sequential(*layers).eval(), torch.randn(batch, 3, side, side)
    explainer = attribkit.Explainer(model, "guided", layer=str(len(layers) - 1), replay="both")  # on whole images
    work = partial(explainer, images, channels=list(range(units)), at=(side // 2, side // 2))
    work()
    return work


QUESTIONS: dict[str, tuple[Callable[[int], Work], Sequence[int]]] = {
    "side of the image": (lambda n: asked(side=n), (64, 128, 256, 512)),
    "images in a batch": (lambda n: asked(batch=n), (1, 2, 4, 8)),
    "units per image": (lambda n: asked(units=n), (1, 2, 4, 8)),
    "depth": (lambda n: asked(depth=n), (4, 8, 16, 32)),
}


def grown(make: Callable[[int], Work], sizes: Sequence[int], rounds: int) -> tuple[list[float], list[int]]:
    """Seconds and bytes of each size."""
    works = {str(size): make(size) for size in sizes}
    taken = seconds_in_turns(works, rounds, CPU)
    return [statistics.median(taken[str(size)]) for size in sizes], [peak_bytes(work, CPU) for work in works.values()]


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Of the power of the size that fits the costs best."""
    return float(np.polyfit(np.log2(sizes), np.log2(costs), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines: list[Series] = []
    for name, (make, sizes) in QUESTIONS.items():
        seconds, memory = grown(make, sizes, given.rounds)
        lines.append(Series(name, np.log2(np.array(seconds) / seconds[0])))
        costs = ", ".join(
            f"{size}: {1000 * s:.1f} ms {b / 2**20:.1f} MiB" for size, s, b in zip(sizes, seconds, memory, strict=True)
        )
        print(f"{name}: time to the power of {exponent(sizes, seconds):.2f}, memory of {exponent(sizes, memory):.2f}")
        print(f"    {costs}", flush=True)
    if given.out:
        doublings = list(range(len(lines[0].values)))
        chart = drawn(curves("doublings of the time", "doublings of the size", doublings, lines))
        words = drawn(legend([line.name for line in lines]))
        picture = np.full((len(chart) + len(words), max(chart.shape[1], words.shape[1]), 3), 255, np.uint8)
        picture[: len(chart), : chart.shape[1]], picture[len(chart) :, : words.shape[1]] = chart, words
        cv2.imwrite(str(given.out), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
