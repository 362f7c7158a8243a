"""The rate of `attribkit train` beside that of the bare network's forward and backward pass at the same settings.

    python benchmarks/training.py --data CIFAR [--model all_cnn_c] [--images 10240]

Both are measured in turns, in one run, and the quickest of each counts: whatever else the machine does slows
both. The bare network is the one that the recipe trains, on one batch that lies ready.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
import torch.nn.functional as F

from attribkit.reference_models.data import Data, Split, read
from attribkit.reference_models.normalisation import fit
from attribkit.reference_models.process import keep_freed_memory
from attribkit.reference_models.training import loop as training
from attribkit.reference_models.training.batches import Loader
from attribkit.reference_models.training.loop import Job, State
from attribkit.reference_models.training.recipes import QUICK

_TURNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="all_cnn_c")
    parser.add_argument("--images", type=int, default=10 * QUICK.batch)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    keep_freed_memory()
    data = read(asked.data)
    few = Data(Split(data.train.images[: asked.images], data.train.labels[: asked.images]), *_rest(data))
    job = Job(asked.model, replace(QUICK, epochs=2 * _TURNS, piece=1.0), 0, few, device)
    loader = Loader.of(few.train, fit(few.train.images, whiten=False), job.recipe, device)
    state = training._fresh(job)
    bare_rate(job, state, loader, steps=2)  # the first passes of a process are slow
    bare, trained = 0.0, 0.0
    for _ in range(_TURNS):
        bare = max(bare, bare_rate(job, state, loader, loader.steps(job.recipe.batch)))
        trained = max(trained, training._trained_epoch(job, state, loader, lambda images: None)["rate"])
    threads = torch.get_num_threads()
    print(f"{asked.model} on {device}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}")
    print(f"forward and backward alone   {bare:8.1f} images/s")
    print(f"attribkit train              {trained:8.1f} images/s   {trained / bare:.0%}")


def _rest(data: Data) -> tuple[Split, tuple[str, ...], str]:
    return data.test, data.classes, data.source


def bare_rate(job: Job, state: State, loader: Loader, steps: int) -> float:
    """Images per second of the network's forward and backward pass over one batch again and again."""
    batch = job.recipe.batch
    images, labels = next(iter(loader.epoch(batch, torch.Generator().manual_seed(0))))
    net = state.net.train()
    start = time.perf_counter()
    for _ in range(steps):
        with torch.autocast(job.device.type, torch.bfloat16):
            logits = net(images)
        net.zero_grad()
        F.cross_entropy(logits.float(), labels).backward()
    float(logits.detach().sum())  # a GPU has then done all of it
    return steps * batch / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
