"""Pictures read ahead of the network that looks at them, on threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import torch
from torch import Tensor

from attribkit.errors import AttribkitError, BadType
from attribkit.studies.data import DataChanged, PictureSet

THREADS = 2
AHEAD = 96
"""How many pictures are read before they are needed, at the most."""

BATCH = {"cpu": (16, 600_000)}
"""A batch has at most so many images, and so many numbers: few where memory that is asked for anew costs time."""

LARGE = 64, 2_500_000
"""The same on other devices."""

Read = Tensor | str
"""An input, or why there is none."""


def read_ahead(pictures: PictureSet, numbers: Iterable[int]) -> Iterator[tuple[int, Read]]:
    """Inputs by their numbers, in this order, decoded while the caller works on those before."""
    waiting: deque[tuple[int, Future[Read]]] = deque()
    left = iter(numbers)
    with ThreadPoolExecutor(THREADS, "attribkit-read") as pool:
        try:
            for number in islice(left, AHEAD):
                waiting.append((number, pool.submit(read, pictures, number)))
            while waiting:
                number, future = waiting.popleft()
                found = future.result()
                for following in islice(left, 1):
                    waiting.append((following, pool.submit(read, pictures, following)))
                yield number, found
        finally:
            for _, future in waiting:
                future.cancel()


def read(pictures: PictureSet, number: int) -> Read:
    """One input, or in one line why the picture cannot be read."""
    try:
        x = pictures.read(number)
    except DataChanged:
        raise
    except (AttribkitError, OSError) as error:
        return " ".join(str(error).split())
    if not isinstance(x, Tensor) or x.dim() != 3 or not x.is_floating_point():
        what = f"{x.dtype} of {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise BadType(f"{pictures.names[number]}: an input is a float tensor of C x H x W, not {what}")
    return x


def batches(inputs: Iterable[tuple[int, Tensor]], device: torch.device) -> Iterator[tuple[list[int], Tensor]]:
    """Inputs of one shape together, each kind in its order; the same inputs give the same batches."""
    waiting: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    for number, x in inputs:
        held = waiting.setdefault(x.shape, [])
        held.append((number, x))
        if len(held) >= size_of_batch(x, device):
            yield _stacked(waiting.pop(x.shape))
    for held in waiting.values():
        yield _stacked(held)


def size_of_batch(x: Tensor, device: torch.device) -> int:
    """How many inputs like this one go through the network at once."""
    images, values = BATCH.get(device.type, LARGE)
    return max(1, min(images, values // x.numel()))


def _stacked(held: list[tuple[int, Tensor]]) -> tuple[list[int], Tensor]:
    return [number for number, _ in held], torch.stack([x for _, x in held])
