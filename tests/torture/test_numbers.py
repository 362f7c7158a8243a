"""Inputs and modules of every kind: the map is right, or it is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import attribution
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torture import Tried

import attribkit

METHODS = ["backprop", "deconvnet", "guided"]
SCHEMES = ["own", "uniform", "center"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).eval()  # fmt: skip


def image() -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


INPUTS: dict[str, Callable[[], Tensor]] = {
    "channels last": lambda: image().to(memory_format=torch.channels_last),
    "not contiguous": lambda: image().flip(3)[..., ::2].repeat_interleave(2, 3).flip(3).transpose(2, 3),
    "a view of more": lambda: torch.cat([image(), image()], 1)[:, 2:5],
    "wants a gradient": lambda: image().requires_grad_(),
    "half": lambda: image().half(),
    "bfloat16": lambda: image().bfloat16(),
    "double": lambda: image().double(),
    "whole numbers": lambda: (image() * 50).int(),
    "no image": lambda: image()[:0],
    "no side": lambda: image()[..., :0],
    "smaller than a window": lambda: image()[..., :2, :2],
    "grey": lambda: image()[:, :1],
    "no batch": lambda: image()[0],
    "NaN": lambda: image().index_put((torch.tensor(0), torch.tensor(0), torch.tensor(5)), torch.tensor(torch.nan)),
    "infinity": lambda: image().index_put((torch.tensor(0), torch.tensor(0), torch.tensor(5)), torch.tensor(torch.inf)),
    "expanded": lambda: image()[:, :1].expand(2, 3, 12, 12),
}


REFUSED = {
    "whole numbers", "no image", "no side", "smaller than a window", "grey", "no batch", "NaN", "infinity",
}  # fmt: skip


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_of_every_kind(kind: str, tried: Tried) -> None:
    right = refused = 0
    for method in METHODS:
        for switches in SCHEMES:
            model, given = net(), INPUTS[kind]()
            if given.dtype in (torch.half, torch.bfloat16, torch.double):
                model = model.to(given.dtype)
            try:
                found = attribkit.explain(model, given, method=method, switches=switches, target=1)
            except attribkit.AttribkitError as error:
                assert "\n" not in str(error)  # noqa: PT017
                refused += 1
            else:
                exact = attribution(
                    model.double(), given.detach().double(), lambda y: y[:, 1].sum(), method, pools=switches
                )
                loose = {torch.half: 2e-2, torch.bfloat16: 2e-1}.get(given.dtype, 1e-4)
                assert float((found.values.double() - exact).norm()) <= loose * float(exact.norm())
                right += 1
    assert (right == 0) != (refused == 0)  # the same for every rule
    assert (refused > 0) == (kind in REFUSED)
    tried("inputs of sixteen kinds: neither right nor refused by name", right + refused)


def parametrised(model: nn.Sequential) -> None:
    class Positive(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.abs()

    parametrize.register_parametrization(model[0], "weight", Positive())


MODULES: dict[str, Callable[[nn.Sequential], object]] = {
    "parametrised": parametrised,
    "weight norm": lambda model: parametrizations.weight_norm(model[4]),
    "spectral norm": lambda model: parametrizations.spectral_norm(model[4]),
    "orthogonal": lambda model: parametrizations.orthogonal(model[8]),
    "pruned": lambda model: prune.l1_unstructured(model[4], "weight", 0.5),
    "pruned by channel": lambda model: prune.ln_structured(model[0], "weight", 0.5, 2, 0),
    "frozen": lambda model: model.requires_grad_(False),
    "training": lambda model: model.train(),
    "a hook": lambda model: model[1].register_forward_hook(lambda module, given, output: output * 2),
    "a hook before": lambda model: model[4].register_forward_pre_hook(lambda module, given: (given[0] + 1,)),
    "low rank beside": lambda model: model.__setitem__(8, LowRank(model[8])),
}


class LowRank(nn.Module):
    """A layer as adapters of low rank wrap it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.down, self.up = layer, nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))


@pytest.mark.parametrize("kind", MODULES)
def test_modules_of_every_kind(kind: str, tried: Tried) -> None:
    """As they are in eval mode."""
    count = 0
    for method in METHODS:
        for switches in SCHEMES:
            model = net().double()
            MODULES[kind](model)
            model = model.double()
            found = attribkit.explain(model, image().double(), method=method, switches=switches, target=1)
            exact = attribution(model.eval(), image().double(), lambda y: y[:, 1].sum(), method, pools=switches)
            torch.testing.assert_close(found.values, exact, rtol=1e-9, atol=1e-12)
            count += 1
    tried("modules of eleven kinds: wrong", count)


def test_the_same_again_and_with_other_threads(tried: Tried) -> None:
    """The same number of threads gives the same bytes, another the same to rounding."""
    model, images = attribkit.load("convpool_cnn_c").model, torch.randn(4, 3, 32, 32)
    results: dict[int, list[Any]] = {}
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for _ in range(2):
            results.setdefault(threads, []).append(
                attribkit.explain(model, images, method="guided", layer="conv5").values
            )
    for one, other in results.values():
        assert torch.equal(one, other)
    for threads in (2, 3):
        assert float((results[threads][0] - results[1][0]).norm() / results[1][0].norm()) < 1e-6
    tried("threads: other bytes from the same number, or more than 1e-6 apart from another", 6)
