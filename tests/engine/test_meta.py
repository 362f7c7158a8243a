"""Networks without values, on torch's meta device: their sites are found, and nothing ends in an error of torch's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attribkit


class Net(nn.Module):
    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x)).mean((2, 3))


WAYS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "a ReLU": (F.relu, True),
    "a maximum with zeros": (lambda x: torch.maximum(x, torch.zeros_like(x).detach()), True),
    "a clamp by a tensor": (lambda x: x.clamp(min=torch.zeros(())), True),
    "a product with a comparison": (lambda x: x * (x > 0), True),
    "a gate of numbers": (lambda x: F.silu(x) * (2 * x.detach()), False),
    "a product": (lambda x: F.silu(x) * x, False),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_may_be_a_rectifier_is_taken_for_one(way: str) -> None:
    act, rectifies = WAYS[way]
    with torch.device("meta"):
        model, x = Net(act), torch.rand(1, 3, 8, 8, requires_grad=True)
        if not rectifies:
            with pytest.raises(attribkit.NothingToRewrite):
                attribkit.rewrite(model, "guided")(x)
            return
        net = attribkit.rewrite(model, "guided")
        output = net(x)
        assert torch.autograd.grad(output.sum(), x)[0].shape == x.shape
    assert any(site.swapped for site in net.sites)


def test_the_library_may_be_used_first_where_another_device_is_the_default() -> None:
    words = (
        "import torch, attribkit\n"
        "with torch.device('meta'):\n"
        "    attribkit.rewrite(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()), 'guided')\n"
        "x = torch.tensor([-1.0, 2.0], requires_grad=True)\n"
        "attribkit.rewrite(torch.nn.ReLU(), 'guided')(x).sum().backward()\n"
        "print(x.grad.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
    assert done.stdout == "[0.0, 1.0]\n", done.stderr
