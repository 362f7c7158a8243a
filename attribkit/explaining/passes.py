"""A forward pass over images, and signals that go down from it: where maps are made."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attribkit.errors import BadValue


class Pass:
    """One forward pass, down which any number of signals may go.

        up = Pass(net, images)
        up.output                    # of the forward pass
        maps = up.down(signal)       # what the signal, of the output's shape, is at the images

    The images stay as they are, whatever the network writes into its input.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], images: Tensor) -> None:
        with torch.enable_grad():
            self.images = images.detach().requires_grad_()
            self.output = run(self.images.clone())

    def down(self, signal: Tensor | None = None, *, again: bool = False) -> Tensor:
        """What a signal is when it has come down to the images; without one, that of a scalar output is 1.

        Args:
            signal: Of the shape of the output.
            again: Whether another will follow; else the graph is freed.
        """
        if not self.output.requires_grad:
            raise BadValue("no gradient reaches the images: the model detaches its output from them")
        return torch.autograd.grad(self.output, self.images, signal, retain_graph=again)[0]


def gradient(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The way down of `run(images)`, a scalar: under a rewritten network, the maps of what it adds up.

    maps = gradient(lambda x: net(x)[:, 281].sum(), images)
    """
    return Pass(run, images).down()
