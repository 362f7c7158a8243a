"""Which patch of the image a token stands for: its place among rows and columns.

Attention mixes tokens, so that each sees the whole image. With attention cut off, a token is reached by what goes
straight up to it. Where that is a patch of its own for each, and the patches make a grid, the token has a place in it.
It is measured and not counted: as many tokens may be queries, or stand in another order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attribkit.engine.rewriting import Rewritten
from attribkit.explaining.calls import Address, address
from attribkit.explaining.failing import NetworkFails, tried
from attribkit.explaining.probing import noise_like, probing_net
from attribkit.explaining.snapshot import kept
from attribkit.explaining.targets import IMAGE_DIMS, TOKEN_DIMS

Place = tuple[int, int]
"""The row and the column of a patch."""

APART = 1e-3
"""As a share: what a signal may be off by rounding; and weaker ones are left out, which rounding could make up."""


def places(model: nn.Module, layer: str, images: Tensor, now: list[Any]) -> dict[int, Place]:
    """The tokens of a layer that stand for patches, and where; none where patches make no grid.

    Args:
        model: A copy of it is run on noise, once for each layer and size of image.
        layer: Its path, with a colon and a number for a later call.
        images: N x C x H x W, of the size in question.
        now: The model's snapshot.
    """
    if images.dim() != IMAGE_DIMS:
        return {}

    def found_out() -> dict[int, Place]:
        net = probing_net(model)
        patches = _patches(net, address(net.model, layer), noise_like(images))  # type: ignore[arg-type]
        return {} if patches is None else _grid(patches)

    return kept(model, now, ("places", layer, images.shape[1:], images.dtype, images.device), found_out)


class _WithoutAttention(TorchFunctionMode):
    """Every softmax gives zeros, so that nothing passes from one token to another by its weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.multi_head_attention_forward:
            return torch.zeros_like(result[0]), result[1]
        return torch.zeros_like(result) if func in ATTENTION else result


ATTENTION = {F.scaled_dot_product_attention, F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}


def _patches(net: Rewritten, at: Address, noise: Tensor) -> Tensor | None:
    """For each pixel the token that it goes up to, -1 where that is none; None where it goes up to several."""
    image = noise.clone().requires_grad_()
    with torch.enable_grad(), _WithoutAttention():
        try:
            with tried():
                tokens = net.forward_to(at[0], image.clone(), call=at[1] or 0)
        except NetworkFails:
            return None
    if not isinstance(tokens, Tensor) or tokens.dim() != TOKEN_DIMS or len(tokens) != 1 or not tokens.requires_grad:
        return None
    return _decoded(tokens, image)


def _decoded(tokens: Tensor, image: Tensor) -> Tensor | None:
    """The tokens of pixels, from three signals: all alike, the stronger the later the token, and of random strength.

    A pixel of one token receives the three in that token's shares. One of several receives a mixture, which no single
    token explains.
    """
    count, random = tokens.shape[1], torch.Generator().manual_seed(0)
    features, noise = (torch.rand(n, generator=random).to(tokens) + 0.5 for n in (tokens.shape[2], count))
    rising = 0.5 + torch.arange(count).to(tokens) / count
    received: list[Tensor | None] = []
    for strengths in (torch.ones_like(rising), rising, noise):
        signal = (strengths[:, None] * features)[None]
        try:
            with tried():
                received += torch.autograd.grad(tokens, image, signal, retain_graph=True, allow_unused=True)
        except NetworkFails:
            return None
    arrived = [one for one in received if one is not None]
    if len(arrived) < len(received):
        return None
    clearest = arrived[0].abs().argmax(1, keepdim=True)
    even, risen, noisy = (one.gather(1, clearest)[0, 0] for one in arrived)
    reached = even.abs() > APART * even.abs().max()
    token = torch.where(reached, ((risen / even - 0.5) * count).round(), -1).nan_to_num(-1).long()
    likely = token.clamp(0, count - 1)
    explained = (token == likely) & ((noisy / even - noise[likely]).abs() < APART)
    return token if bool((explained | ~reached).all()) else None


def _grid(patches: Tensor) -> dict[int, Place]:
    """The places of tokens whose patches make rows and columns, without a gap."""
    corners: dict[int, tuple[int, int]] = {}
    boxes = 0
    for token in patches.unique().tolist():
        rows, columns = (patches == token).nonzero(as_tuple=True)
        if token >= 0:
            corners[token] = int(rows.min()), int(columns.min())
            boxes += (int(rows.max()) + 1 - corners[token][0]) * (int(columns.max()) + 1 - corners[token][1])
    tops, lefts = (sorted(set(starts)) for starts in zip(*corners.values(), strict=True)) if corners else ([], [])
    whole = len(set(corners.values())) == len(corners) == len(tops) * len(lefts)
    if not whole or min(len(tops), len(lefts)) < 2 or boxes > patches.numel():
        return {}
    return {token: (tops.index(top), lefts.index(left)) for token, (top, left) in corners.items()}
