"""Galleries and their pages: two at a time, data that changes, names that mean harm."""

from __future__ import annotations

from multiprocessing import get_context

import torch
from torch import nn

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "attribkit", "attribkit.studies.gallery"])


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU())
