"""A small network and small data that tests of studies share; imports nothing of the library."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Two convolutions that see a part of the image, a pool, and one that sees nearly all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3)
        self.relu1 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.relu2 = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.conv2(self.pool(self.relu1(self.conv1(x)))))
        return self.head(x.mean((2, 3)))


def net() -> Net:
    """The same each time."""
    torch.manual_seed(3)
    return Net().eval()


def inputs(count: int) -> Tensor:
    """The same each time."""
    return torch.randn(count, 3, 24, 24, generator=torch.Generator().manual_seed(4))


class Inputs(torch.utils.data.Dataset[Tensor]):
    """Inputs in memory; each takes `seconds` to be read."""

    def __init__(self, images: Tensor, targets: list[int] | None = None, seconds: float = 0.0) -> None:
        self.images = images
        self.seconds = seconds
        if targets is not None:
            self.targets = targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> Tensor:
        time.sleep(self.seconds)
        return self.images[number]


def pictures(count: int, side: int = 40) -> list[np.ndarray[Any, Any]]:
    """Blobs of colour, smooth enough for JPEG."""
    random = np.random.default_rng(5)
    return [cv2.resize(random.integers(0, 256, (5, 5, 3), np.uint8), (side, side)) for _ in range(count)]


def packed(path: Path, count: int, side: int = 32, labels: int | None = None) -> Path:
    """A packed file of JPEGs of two classes."""
    files = [cv2.imencode(".jpg", picture)[1].ravel() for picture in pictures(count, side)]
    offsets = np.cumsum([0, *map(len, files)])
    held = np.arange(count if labels is None else labels) % 2
    np.savez(path, jpeg=np.concatenate(files), offsets=offsets, labels=held, classes=np.array(["even", "odd"]),
             is_train=np.ones(len(held), bool))  # fmt: skip
    return path


def folder(path: Path, count: int) -> Path:
    """JPEGs in folders of two classes."""
    for number, picture in enumerate(pictures(count)):
        place = path / ("even", "odd")[number % 2]
        os.makedirs(place, exist_ok=True)
        cv2.imwrite(str(place / f"{number:03d}.jpg"), picture)
    return path
