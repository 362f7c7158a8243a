"""What a gallery costs: images per second beside the bare network, memory as data grows, maps beside Captum's.

python benchmarks/gallery.py speed PACKED [--images 2000]
python benchmarks/gallery.py memory PACKED [--images 1000,4000]
python benchmarks/gallery.py processes PACKED [--images 2048]
python benchmarks/gallery.py captum [--channels 256] [--sample 24]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import attribkit
from attribkit.studies.data import PictureSet, opened
from attribkit.studies.survey import Survey

MODEL, LAYER = "all_cnn_c", "conv6"


def first(packed: Path, count: int, out: Path) -> Path:
    """The first images of a packed file as a file of their own; again from the start where it has fewer."""
    with np.load(packed) as held:
        jpeg, offsets, labels = held["jpeg"], held["offsets"], held["labels"]
        chosen = np.arange(count) % len(labels)
        parts = [jpeg[offsets[number] : offsets[number + 1]] for number in chosen]
        ends = np.cumsum([0, *map(len, parts)])
        np.savez(out, jpeg=np.concatenate(parts), offsets=ends, labels=labels[chosen], classes=held["classes"])
    return out


def speed(packed: Path, count: int) -> None:
    """The first pass and the truncated network alone, in turns, so that both see the same machine."""
    loaded = attribkit.load(MODEL)
    with TemporaryDirectory() as folder:
        pictures = opened(first(packed, count, Path(folder) / "some.npz"), loaded.preprocess)
        inputs = torch.stack([pictures.read(number) for number in range(512)])
        survey = Survey(loaded.model, pictures, (LAYER,), "max", 36)
        bare = nn.Sequential(*list(loaded.model.children())[: _after(loaded.model)])
        ours, alone = [], []
        for number in range(-(-count // 512)):
            ours.append(_seconds(partial(_through, survey, number)))
            alone.append(_seconds(lambda: _run(bare, inputs)))
    rate, bound = (512 * len(times) / sum(times) for times in (ours, alone))
    shares = np.array(alone) / np.array(ours)
    print(f"{MODEL} {LAYER}, {count} images, {torch.get_num_threads()} threads")
    print(f"first pass, decoding included: {rate:.1f} images/s; the network alone: {bound:.1f} images/s")
    print(f"share: {rate / bound:.1%}; shard by shard {shares.min():.1%} to {shares.max():.1%}")


def _through(survey: Survey, number: int) -> None:
    list(survey.done([number]))


def _after(model: nn.Module) -> int:
    return [name for name, _ in model.named_children()].index(LAYER) + 1


def _run(bare: nn.Module, inputs: Tensor) -> None:
    with torch.inference_mode():
        for batch in inputs.split(64):
            bare(batch)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def memory(packed: Path, counts: list[int]) -> None:
    """The most memory that a process holds that makes a gallery of so many images."""
    for count in counts:
        with TemporaryDirectory() as folder:
            data = first(packed, count, Path(folder) / "some.npz")
            words = [sys.executable, __file__, "one", str(data)]
            print(subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip())


def processes(packed: Path, count: int) -> None:
    """Seconds of the command, start and table included, by one process of one thread and by two."""
    words = ["-m", "attribkit.cli.main", "gallery", "--model", MODEL, "--layer", LAYER, "--format", "csv", "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as folder:
        data = first(packed, count, Path(folder) / "some.npz")
        for number, launch in ((1, []), (2, ["-m", "torch.distributed.run", "--nproc-per-node", "2"])):
            out = Path(folder) / str(number)
            command = [sys.executable, *launch, *words, "--out", str(out), str(data)]
            seconds = _seconds(partial(subprocess.run, command, check=True, capture_output=True, env=environment))
            print(f"{count} images by {number} process{'es' * (number > 1)} of one thread: {seconds:.0f} s", flush=True)


def one(packed: Path) -> None:
    """A gallery by itself, and the most memory that it took."""
    found = attribkit.gallery(attribkit.load(MODEL), packed, layer=LAYER)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(found.names)} images: {peak:.0f} MiB at the most")


class Noise(torch.utils.data.Dataset[Tensor]):
    """Inputs of the size of photographs. What they show does not matter to how long they take."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, number: int) -> Tensor:
        return torch.randn(3, 224, 224, generator=torch.Generator().manual_seed(number))


def captum(channels: int, sample: int, top: int = 9) -> None:
    """Maps of the winners of vgg16's features.10: all of ours, and a sample by Captum, one at a time."""
    from captum.attr import NeuronGuidedBackprop

    from attribkit.studies.exhibit import grouped, projected

    loaded = attribkit.load("torchvision:vgg16", weights="none")
    data = Noise()
    pictures = PictureSet(list(map(str, range(len(data)))), "noise", data.__getitem__)
    found = attribkit.gallery(loaded.model, pictures, layer="features.10", channels=range(channels), top=top)
    start = time.perf_counter()
    ours = [projection for rows in grouped(found) for row in projected(found, rows) for projection in row]
    each = (time.perf_counter() - start) / len(ours)
    theirs = NeuronGuidedBackprop(loaded.model, loaded.model.get_submodule("features.10"))
    times, apart = [], 0.0
    for projection in ours[:: max(1, len(ours) // sample)][:sample]:
        place, x = projection.place, data[projection.place.image][None]
        start = time.perf_counter()
        values = theirs.attribute(x.requires_grad_(), (place.channel, *(place.position or ())))
        times.append(time.perf_counter() - start)
        top_, left, bottom, right = projection.box
        whole = values[0].detach().numpy()
        apart = max(
            apart, float(np.abs(whole[:, top_:bottom, left:right] - projection.map).max() / np.abs(whole).max())
        )
    print(f"vgg16 features.10, {len(ours)} maps: ours {each * 1e3:.1f} ms each, {each * len(ours):.0f} s in all")
    print(
        f"Captum, {len(times)} of them: {np.mean(times) * 1e3:.0f} ms each; {np.mean(times) / each:.0f} times as long"
    )
    print(f"largest difference between the maps: {apart:.1e} of the largest value")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "processes", "one", "captum"])
    parser.add_argument("packed", nargs="?", type=Path)
    parser.add_argument("--images", default="")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--sample", type=int, default=24)
    asked = parser.parse_args()
    if asked.what == "speed":
        speed(asked.packed, int(asked.images or 2000))
    elif asked.what == "memory":
        memory(asked.packed, [int(count) for count in (asked.images or "1000,4000").split(",")])
    elif asked.what == "processes":
        processes(asked.packed, int(asked.images or 2048))
    elif asked.what == "one":
        one(asked.packed)
    else:
        captum(asked.channels, asked.sample)


if __name__ == "__main__":
    main()
