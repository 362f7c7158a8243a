"""A copy of a model that takes less time and gives the same to rounding: batch norms folded, channels last."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from attribkit.errors import BadValue
from attribkit.structure.folding import fold_batch_norm


def quickened(model: nn.Module) -> nn.Module:
    """The copy; norms that cannot be folded stay. It has weights of its own, so it sees no later ones."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of norms that stay, which are right all the same
            quick = fold_batch_norm(model)
    except BadValue:  # there is none that can be folded
        quick = copy.deepcopy(model)
    return quick.to(memory_format=torch.channels_last)
