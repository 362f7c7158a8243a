"""A network that is run up to some of its layers and no further."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attribkit.engine.rewriting import Stop
from attribkit.engine.shadow import TAKEN, Taken, shadow
from attribkit.errors import BadType, BadValue
from attribkit.explaining.calls import check_layer
from attribkit.explaining.failing import NetworkFails, tried
from attribkit.explaining.targets import IMAGE_DIMS, channels_first


class Truncated:
    """What some layers of a model give, each at its first call; nothing is computed beyond the last of them.

    Args:
        model: It stays as it is: a copy of its structure is run, with its own weights.
        layers: Their paths.
        precision: "bfloat16" computes as `torch.autocast` does.
        whole: Run all of it; `answer` is then what the model itself gave.
        quick: On a CPU, with channels last where the network takes that: the same to rounding.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        precision: str | None = None,
        whole: bool = False,
        quick: bool = False,
    ) -> None:
        self.net = shadow(model)
        self.layers = list(layers)
        self.precision = precision
        self.whole = whole
        self.quick = quick
        self.answer: Any = None
        self._seen: dict[str, Any] = {}
        for layer in layers:
            check_layer(self.net, layer)
            self.net.get_submodule(layer).register_forward_hook(self._keep(layer))

    def __call__(self, images: Tensor) -> list[Tensor]:
        """For each layer images x channels (x tokens, or x height x width), as floats of 32 bits."""
        if self.quick and images.is_cpu and images.dim() == IMAGE_DIMS:
            try:
                with tried():
                    return self._run(images.contiguous(memory_format=torch.channels_last))
            except NetworkFails:  # it may look at memory as it lies, by `view`: then so for good
                self.quick = False
        return self._run(images)

    def _run(self, images: Tensor) -> list[Tensor]:
        self._seen.clear()
        taken: Taken | None = getattr(self.net, TAKEN, None)
        if taken is not None:
            taken.again()
        kind = images.device.type
        try:
            with torch.autocast(kind, torch.bfloat16, enabled=self.precision is not None):
                self.answer = self.net(images.clone())  # since a network may write into its input
        except Stop:
            pass
        return [self._checked(layer, len(images)) for layer in self.layers]

    def _keep(self, layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if layer in self._seen:
                return
            last = not self.whole and len(self._seen) + 1 == len(self.layers)
            # What comes next may write into it.
            self._seen[layer] = output.clone() if isinstance(output, Tensor) and not last else output
            if last:
                raise Stop

        return keep

    def _checked(self, layer: str, images: int) -> Tensor:
        if layer not in self._seen:
            raise BadValue(f"the layer {layer!r} was never reached: forward does not call it")
        output = self._seen[layer]
        if not isinstance(output, Tensor) or output.dim() not in (2, 3, 4) or len(output) != images:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise BadType(f"this study needs a layer of images x channels x height x width; {layer!r} gives {shape}")
        return channels_first(output, IMAGE_DIMS).float()
