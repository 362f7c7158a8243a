"""The receptive field of a layer: where its units look, and whether they are the same on what they see.

Five units of the layer are probed, which gives the window of all of them, wherever windows move evenly with the unit;
where they do not (global operations, uneven grids) every unit is said to see the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attribkit.engine.rewriting import Rewritten
from attribkit.explaining.calls import Address, address
from attribkit.explaining.failing import NetworkFails, tried
from attribkit.explaining.probing import Signals, everywhere, noise_like, probed, probing_net
from attribkit.explaining.snapshot import kept, snapshot
from attribkit.explaining.windows import ReceptiveField

LARGEST = 0.8
"""The share of an image above which no part is tried: it would spare too little."""


def receptive_field(model: nn.Module, layer: str | None, images: Tensor) -> ReceptiveField:
    """Find out where the units of a layer look.

    Args:
        model: A copy of it is run on noise, once for each layer and size of image. The answer is kept for as long as
            the model's structure stays the same.
        layer: Its path, with a colon and a number for a later call; None is the model's output, which sees everything.
        images: N x C x H x W, of the size in question; what they show does not matter.

    Returns:
        The layer's receptive field: `field.box(position)` is what the unit at a position sees.

    Raises:
        BadValue: The model has no such layer.
    """
    return known_field(model, layer, images).field


class KnownField:
    """What was found out about a layer, for one size of image.

    Attributes:
        field: Where its units look.
        tried: Whether crops were compared with whole images that are no noise.
    """

    def __init__(self, field: ReceptiveField) -> None:
        self.field = field
        self.tried = False

    def no_crops(self) -> None:
        """Take note that crops give something else than whole images do."""
        self.field = replace(self.field, exact_on_crops=False)


def known_field(model: nn.Module, layer: str | None, images: Tensor, now: list[Any] | None = None) -> KnownField:
    """What is known of a layer, found out if need be; `now` is the model's snapshot where the caller has it."""
    if layer is None or images.dim() < 3:
        return KnownField(ReceptiveField.everything(images.shape[2:]))
    now = snapshot(model) if now is None else now

    def found_out() -> KnownField:
        net = probing_net(model)
        return KnownField(_field(net, address(net.model, layer), noise_like(images)))  # type: ignore[arg-type]

    # Until the model's structure changes. Its weights may: the probe does not use them.
    return kept(model, now, ("field", layer, images.shape[1:], images.dtype, images.device), found_out)


def _units(net: Rewritten, at: Address, image: Tensor) -> Tensor | None:
    """A layer's output, where it has as many dimensions as the image."""
    path, call = at[0], at[1] or 0
    try:
        with tried(), torch.enable_grad():
            units = net.forward_to(path, image.clone(), call=call)  # since a network may write into its input
    except NetworkFails:
        return None
    return units if isinstance(units, Tensor) and units.dim() == image.dim() and len(units) == 1 else None


def _field(net: Rewritten, at: Address, noise: Tensor) -> ReceptiveField:
    everything = ReceptiveField.everything(noise.shape[2:])
    image = noise.clone().requires_grad_()
    units = _units(net, at, image)
    if units is None:
        return everything
    everything = replace(everything, shape=tuple(units.shape[1:]))
    if min(units.shape[2:]) < 2 or not units.requires_grad:
        return everything
    signals, positions = Signals(image), probed(units.shape[2:])
    try:
        reached = [signals.send(units, position) for position in positions]
    except NetworkFails:
        return everything
    field = ReceptiveField(signals.windows(positions, reached), True, everything.shape)
    if field.share() <= LARGEST and all(_same_on_crop(net, at, noise, units.detach(), field, p) for p in positions):
        return field
    return replace(field, exact_on_crops=False)


def _same_on_crop(
    net: Rewritten, at: Address, noise: Tensor, units: Tensor, field: ReceptiveField, position: Sequence[int]
) -> bool:
    crop = field.crop(position)
    try:
        with tried(), torch.no_grad():
            cropped = net.forward_to(at[0], noise[0][crop.pixels][None].clone(), call=at[1] or 0)
    except NetworkFails:
        return False
    if not all(0 <= i < n for i, n in zip(crop.position, cropped.shape[2:], strict=True)):
        return False
    whole, part = units[0][everywhere(position)], cropped[0][everywhere(crop.position)]
    return torch.allclose(part, whole, rtol=1e-5, atol=1e-5 * float(units.abs().max()))
