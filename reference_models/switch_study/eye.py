"""A machine's eye: a small network that learns to name the classes of high-passed pictures, and is then shown maps.

It never learns from a map. What it names right there can be recognised without the network that was explained.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribkit.errors import BadValue
from attribkit.files import write_whole
from attribkit.identity import digest_of_code
from attribkit.metrics.maps import directions
from attribkit.metrics.retrieval import details
from attribkit.reference_models.data import Split

FILE = "eye.safetensors"
BATCH = 128
RATE = 2e-3


def build(classes: int) -> nn.Sequential:
    """The network, with new weights."""
    layers: list[nn.Module] = []
    for before, after in ((1, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))


def seen(pictures: Tensor) -> Tensor:
    """What the eye sees of pictures or maps: their detail as in source retrieval, at one strength, N x 1 x H x W.

    What is zero everywhere stays so.
    """
    height, width = pictures.shape[2:]
    rows = directions(details(pictures)).nan_to_num(0) * (height * width) ** 0.5
    return rows.view(-1, 1, height, width).float()


def trained(split: Split, classes: int, *, images: int, epochs: int, seed: int) -> nn.Sequential:
    """Learn the classes of training images.

    Args:
        split: The images, N x H x W x 3 bytes, with their labels.
        classes: How many there are.
        images: How many of the images are looked at, at most: those of a random order.
        epochs: How often.
        seed: Draws order, mirror images and weights. Signs are drawn too, as a map has no sign of its own.

    Returns:
        The network, in eval mode.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(split), generator=generator)[:images]
    shown = seen(split.images[chosen].permute(0, 3, 1, 2).float())
    labels = split.labels[chosen]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build(classes)
    steps = epochs * -(-len(shown) // BATCH)
    optimiser = torch.optim.Adam(net.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(shown), generator=generator).split(BATCH):
            x = shown[batch] * torch.randint(0, 2, (len(batch), 1, 1, 1), generator=generator).mul(2).sub(1)
            mirrored = torch.randint(0, 2, (len(batch), 1, 1, 1), generator=generator).bool()
            loss = F.cross_entropy(net(torch.where(mirrored, x.flip(3), x)), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def named(eye: nn.Module, maps: Tensor) -> Tensor:
    """Name the class of each map; -1 for one that is zero everywhere."""
    classes = []
    for part in maps.cpu().split(250):
        shown = seen(part)
        nothing = ~shown.flatten(1).any(1)
        scores = eye(shown) + eye(-shown)  # a map has no sign of its own
        classes.append(scores.argmax(1).masked_fill(nothing, -1))
    return torch.cat(classes)


def prepared(folder: Path, split: Split, classes: int, *, images: int, epochs: int, seed: int) -> None:
    """Have an eye in a folder: the one that an earlier run left there, if it would come out the same."""
    import safetensors.torch

    code = digest_of_code(Path(__file__).parent, ["eye.py"])
    question = [code, torch.__version__, classes, images, epochs, seed, len(split)]
    hashed = hashlib.sha256(json.dumps(question).encode() + split.labels.numpy().tobytes())
    hashed.update(split.images[:1000].contiguous().numpy().tobytes())
    key = hashed.hexdigest()[:16]
    path = folder / FILE
    if path.is_file() and _key(path) == key:
        return
    eye = trained(split, classes, images=images, epochs=epochs, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, safetensors.torch.save(eye.state_dict(), {"key": key}))


def read(folder: Path) -> nn.Sequential:
    """Read the eye of a folder."""
    import safetensors.torch

    weights = safetensors.torch.load_file(folder / FILE)
    eye = build(len(weights["13.bias"]))
    eye.load_state_dict(weights)
    return eye.eval()


def _key(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("key")
    except SafetensorError as error:
        raise BadValue(f"{path} cannot be read ({error}): delete it") from error
