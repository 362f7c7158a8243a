"""The strongest images of each channel: a heap of bounded size, and how two of them are merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
NOBODY = -1


@dataclass(frozen=True, eq=False)
class Winners:
    """For each channel its strongest images, strongest first; of equals the one with the smaller number.

    Attributes:
        image: Channels x K; -1 where there are fewer.
        value: Channels x K; NaN where there are fewer.
        position: Channels x K x 2, row and column; -1 where there are fewer.
    """

    image: Array
    value: Array
    position: Array

    @classmethod
    def none(cls, channels: int) -> Winners:
        """No image yet."""
        return cls(
            np.zeros((channels, 0), np.int64), np.zeros((channels, 0), np.float32), np.zeros((channels, 0, 2), np.int32)
        )

    @classmethod
    def of(cls, images: Array, values: Array, positions: Array) -> Winners:
        """All of some images, not in order yet: values of images x channels, positions of images x channels x 2."""
        image = np.broadcast_to(images.astype(np.int64), values.shape[::-1])
        return cls(image, values.T.astype(np.float32), positions.swapaxes(0, 1).astype(np.int32))

    def __len__(self) -> int:
        return self.image.shape[1]

    def merged(self, other: Winners, keep: int) -> Winners:
        """The best of both, so many for each channel."""
        both = Winners(
            np.concatenate([self.image, other.image], 1),
            np.concatenate([self.value, other.value], 1),
            np.concatenate([self.position, other.position], 1),
        )
        return both.best(keep)

    def best(self, keep: int) -> Winners:
        """The first ones by (-value, image, row, column); nobody comes last."""
        key = (self.position[..., 1], self.position[..., 0], self.image, -self.value)  # the last counts most
        order = np.lexsort(key, axis=1)[:, :keep]
        return self.taken(order)

    def taken(self, order: Array) -> Winners:
        """Those in the given places, channels x so many."""
        position = np.take_along_axis(self.position, order[..., None], 1)
        return Winners(np.take_along_axis(self.image, order, 1), np.take_along_axis(self.value, order, 1), position)

    def filled(self, count: int) -> Winners:
        """With nobody in the places that are left of so many."""
        missing = ((0, 0), (0, max(0, count - len(self))))
        return Winners(
            np.pad(self.image, missing, constant_values=NOBODY),
            np.pad(self.value, missing, constant_values=np.nan),
            np.pad(self.position, (*missing, (0, 0)), constant_values=NOBODY),
        )

    def arrays(self) -> dict[str, Array]:
        """To be stored."""
        return {"image": self.image, "value": self.value, "position": self.position}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Winners:
        return cls(arrays["image"], arrays["value"], arrays["position"])
