"""Units and maps that are no numbers: an error that says where that begins, and never a picture."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from attribkit.errors import BadValue
from attribkit.explaining.task import Explained, Task
from attribkit.explaining.watching import inside, watched


class NotFinite(BadValue):
    """NaN or infinity, in the image, the weights or on the way."""


def check_finite(explained: Explained, task: Task, images: Tensor) -> None:
    """Raise where a unit's activation or a map is not finite."""
    for unit in explained.units:
        if not math.isfinite(unit.activation):
            first = _first_place(task, images[unit.image : unit.image + 1])
            raise NotFinite(f"image {unit.image}: the activation of the unit is {unit.activation}; {first}")
    if not explained.finite:
        raise NotFinite(f"a map of the rule {task.net.rule.name} is not finite; {_first_place(task, images)}")


def _first_place(task: Task, images: Tensor) -> str:
    """Where the first value that is no number stands: in the images, in a weight, or in what a module gives."""
    if not images.isfinite().all():
        _, channel, *place = (~images.isfinite()).nonzero()[0].tolist()
        return f"the image holds one in channel {channel} at {tuple(place)}"
    model = task.net.model
    if not isinstance(model, nn.Module):
        return "the image has none"
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.isfinite().all():
            return f"the model's {name} holds one"
    module = _first_module(task, model, images)
    return f"the first is in what {module} gives" if module else "it arises on the way down"


def _first_module(task: Task, model: nn.Module, images: Tensor) -> str:
    """The first module, as they end, whose output holds one."""
    found: list[str] = []

    def look(name: str, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not output.isfinite().all():
            found.append(name)

    with watched(inside(model), look):
        task.looked_at(images)
    return found[0] if found else ""
