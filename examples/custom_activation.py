"""A model with an activation of its own, which follows the rules once it is registered.

python examples/custom_activation.py
"""

import torch
from torch import Tensor, nn

import attribkit


class SquaredReLU(nn.Module):
    """Written with a comparison, so that nothing distinguishes it from arithmetic."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * (x > 0)) ** 2


torch.manual_seed(0)
net = nn.Sequential(
    *(nn.Conv2d(3, 16, 5, stride=2), SquaredReLU()),
    *(nn.Conv2d(16, 16, 5, stride=2), SquaredReLU()),
    *(nn.Conv2d(16, 10, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
)
image = torch.rand(1, 3, 64, 64)

try:
    attribkit.rewrite(net, "guided")
except attribkit.NothingToRewrite as error:
    print(f"before: {error}")

attribkit.register_activation(SquaredReLU, "rectifier")
print(f"after: {attribkit.explain(net, image, 'guided')}")
