"""A job of many images: images per second, bytes per result, and memory.

    python benchmarks/batch.py [--images 60] [--many 1000] [--model packaged:squeezenet1_1]

Two layers by three methods. The bare loop computes the same maps and writes nothing. Everything is measured in one run
and on one thread; `attribkit explain` is run as a process of its own, and its start-up is measured and taken off.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from explainer import some_pictures

import attribkit

METHODS = ["guided", "deconvnet", "backprop"]
FORMATS = ("png", "npz", "npz --crop", "safetensors", "html", "json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--model", default="packaged:squeezenet1_1")
    parser.add_argument("--layers", default="features.7,features.12")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = some_pictures(Path(folder) / "photos", arguments.images)
        command = ["--model", arguments.model, "--layer", arguments.layers, "--quiet", "--out"]
        start_up, _ = explained(files[:1], [*command, f"{folder}/first"])
        loop = bare_loop(arguments.model, arguments.layers.split(","), files)
        print(f"bare loop, nothing written: {len(files) / loop:.1f} images/s", flush=True)
        for number, form in enumerate(FORMATS):
            out = Path(folder) / f"out{number}"
            seconds, _ = explained(files, [*command, str(out), "--format", *form.split()])
            each = sum(path.stat().st_size for path in out.rglob("*") if ".done" not in path.parts and path.is_file())
            rate = (len(files) - 1) / (seconds - start_up)
            print(f"{form}: {rate:.1f} images/s, {each / len(files) / 1000:,.0f} kB per image", flush=True)
        memory(Path(folder), arguments.many, command)


def memory(folder: Path, many: int, command: list[str]) -> None:
    """The most memory that a tenth of the images takes, and all of them."""
    files = some_pictures(folder / "many", many)
    for form in ("png", "npz", "html"):
        peaks = [
            explained(files[:count], [*command, f"{folder}/{form}{count}", "--format", form, "--method", "guided"])[1]
            for count in (many // 10, many)
        ]
        ends = " and ".join(f"{peak / 1024:,.0f} MB" for peak in peaks)
        print(f"{form}: the most memory with {many // 10} and {many} images: {ends}", flush=True)


def explained(files: list[str], words: list[str]) -> tuple[float, int]:
    """Seconds and the most memory, in kB, of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "attribkit.cli.main", "explain", *files, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"attribkit explain ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss


def bare_loop(name: str, layers: list[str], files: list[str]) -> float:
    """Seconds for the maps alone."""
    loaded = attribkit.load(name)
    start = time.perf_counter()
    for first in range(0, len(files), 8):
        images = torch.stack([loaded.preprocess(file) for file in files[first : first + 8]])
        for method in METHODS:
            net = attribkit.rewrite(loaded.model, method)
            for layer in layers:
                x = images.clone().requires_grad_()
                output = net.forward_to(layer, x)
                torch.autograd.grad(output.flatten(1).max(1).values.sum(), x)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
