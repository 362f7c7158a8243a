"""Muon (Jordan 2024) for convolutions: momentum whose singular values are all made one.

Every direction of a weight then learns at the same pace, and a network gets as far in fewer epochs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# A polynomial a x + b x^3 + c x^5 that takes singular values between 0 and 1 to about 1 when it is repeated.
_ODD = (3.4445, -4.7750, 2.0315)
_REPEATED = 3


class Muon(Optimizer):
    """Groups with `orthogonal=True` hold weights that a batch norm follows; others go by Nesterov's momentum.

    Such a weight's length means nothing to the network, so it is held fixed: the rate is then the angle by
    which a step turns it. That takes the place of weight decay.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"orthogonal": False})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                step = self._momentum(parameter, parameter.grad, group["momentum"])
                if group["orthogonal"]:
                    step = orthogonalised(step)
                    parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
                parameter.sub_(step, alpha=group["lr"])

    def _momentum(self, parameter: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        """The gradient seen one step ahead, as Nesterov has it."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(momentum).add_(gradient)
        return gradient.add(state["momentum"], alpha=momentum)


def orthogonalised(weight: Tensor) -> Tensor:
    """`weight` with all singular values near one, as a matrix with a row for each output."""
    matrix = weight.flatten(1)
    matrix = matrix / matrix.norm().clamp(min=1e-7)
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    a, b, c = _ODD
    for _ in range(_REPEATED):
        square = wide @ wide.T
        wide = a * wide + (b * square + c * square @ square) @ wide
    return (wide.T if len(matrix) > matrix.shape[1] else wide).view_as(weight)
