"""What `explain` costs beside a bare loop over the rewritten net, and `attribkit layers` beside forward passes.

    python benchmarks/explainer.py [--images 64] [--size 224] [--rounds 5]

Everything is measured in one run and on one thread, in turns; a ratio is the median over rounds, with its quartiles.
The bare loop is what one would write by hand: a net rewritten once, and for each batch a forward pass, the strongest
units, and `torch.autograd.grad`. The command reads the images from JPEG files, says what the network takes them for,
explains them, and writes one JSON document; it draws no pictures, and the loading of the model does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

import attribkit
from attribkit.adapters.layers import Layers
from attribkit.cli import explain as command
from attribkit.cli import results
from attribkit.cli.answers import Question, Respondent
from attribkit.cli.layers import rows_of
from attribkit.cli.measuring import ratio, seconds_in_turns
from attribkit.cli.pictures import given_images

CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"
BATCH = 8  # which is the command's for 224 x 224 pixels
CPU = torch.device("cpu")

TASKS: tuple[tuple[str, str | None], ...] = (
    ("resnet18", None),
    ("vgg11", "features.8"),
    ("vgg11", "features.13"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    where = f"torch {torch.__version__}, 1 thread, {platform.machine()}"
    print(f"{where}; {arguments.images} images of {arguments.size} pixels, {arguments.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        files = some_pictures(Path(folder), arguments.images)
        for name, layer in TASKS:
            explaining(name, layer, files, arguments.size, arguments.rounds)
    layers("resnet50", arguments.size, arguments.rounds)


def some_pictures(folder: Path, count: int) -> list[str]:
    """Parts of the cat, each another, as JPEG files of one size."""
    folder.mkdir(exist_ok=True)
    cat = cv2.imread(str(CAT))
    assert cat is not None
    side = min(cat.shape[:2]) - 40
    random = np.random.default_rng(0)
    names = [str(folder / f"{number:02}.jpg") for number in range(count)]
    for name in names:
        top, left = (int(random.integers(length - side + 1)) for length in cat.shape[:2])
        cv2.imwrite(name, cat[top : top + side, left : left + side])
    return names


def explaining(name: str, layer: str | None, files: list[str], size: int, rounds: int) -> None:
    """A line for one network, and the class or the strongest unit of a layer."""
    torch.manual_seed(0)
    loaded = attribkit.load(f"torchvision:{name}", None)
    images = torch.stack([loaded.preprocess(file, size) for file in files])
    ways: dict[str, Callable[[], object]] = {
        "bare loop": lambda: list(bare_loop(loaded.model, layer, images)),
        "Explainer": lambda: [explainer(part) for part in images.split(BATCH)],
        "command": by_command(loaded, layer, files, size),
    }
    explainer = attribkit.Explainer(loaded, "guided", layer=layer)
    agree(ways)
    taken = seconds_in_turns(ways, rounds, CPU)
    ratios = ", ".join(f"{way} {ratio(taken, way, 'bare loop')}" for way in ("Explainer", "command"))
    each = sorted(taken["bare loop"])[rounds // 2] / len(files)
    print(
        f"{name}, {layer or 'the predicted class'}: {ratios} of a bare loop, which takes {1000 * each:.0f} ms per image"
    )


def bare_loop(model: torch.nn.Module, layer: str | None, images: Tensor) -> Iterator[Tensor]:
    """The maps of the strongest units, as one would write it."""
    net = attribkit.rewrite(model, "guided")
    for part in images.split(BATCH):
        x = part.clone().requires_grad_()
        output = net(x) if layer is None else net.forward_to(layer, x)
        yield torch.autograd.grad(output.flatten(1).max(1).values.sum(), x)[0]


def by_command(loaded: attribkit.LoadedModel, layer: str | None, files: list[str], size: int) -> Callable[[], object]:
    """`attribkit explain FILES --method guided --json`, from the loaded model on."""
    rewriting = {"activations": "rectifiers", "precision": None}
    question = Question(["guided"], [layer], None, "max", None, size, {"own": "own"}, rewriting)

    def run() -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            respondent = Respondent(loaded, question)
            out = results.Files(Path(files[0]).parent / "out", [], "signed", {}, force=True)
            command.explain_all(given_images(files), respondent, out, True, True)
        return printed.getvalue()

    return run


def agree(ways: dict[str, Callable[[], object]]) -> None:
    """Also what warms up: the loop and the explainer give the same maps."""
    bare: Any = ways["bare loop"]()
    explained: Any = ways["Explainer"]()
    ways["command"]()
    for maps, result in zip(bare, explained, strict=True):
        torch.testing.assert_close(result.values, maps, rtol=0, atol=1e-4 * float(maps.abs().max()))


def layers(name: str, size: int, rounds: int) -> None:
    """A line for what `attribkit layers` does once the model is there."""
    loaded = attribkit.load(f"torchvision:{name}", None)
    image = torch.zeros(1, 3, size, size)

    def forward() -> None:
        with torch.no_grad():
            loaded.model(image)

    def command() -> None:
        del loaded.__dict__["layers"]
        rows_of(loaded, fields=True)

    loaded.layers  # noqa: B018 (so that there is something to forget)
    for warm_up in (forward, command):
        warm_up()
    taken = seconds_in_turns({"layers": command, "forward": forward}, rounds, CPU)
    count = len(Layers.of(loaded.model, image))
    print(f"attribkit layers torchvision:{name}, {count} layers: {ratio(taken, 'layers', 'forward')} forward passes")


if __name__ == "__main__":
    main()
