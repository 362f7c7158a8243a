"""What is shown: one unit of one image, with its maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from attribkit.render import Picture
from attribkit.targets import Unit

Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Shown:
    """One unit of one image, explained by one or several methods.

    `picture` is H x W x 3 bytes, as the network saw it; each map is C x H x W of the same H and W. `told` says what
    the network takes the image for, or what the unit is ("tiger cat, 38%"); `sites` has a sentence for each method.
    """

    name: str
    picture: Picture
    maps: Mapping[str, npt.NDArray[Any]]
    unit: Unit
    told: str
    sites: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self.maps:
            raise ValueError(f"{self.name}: there are no maps to show")
        for method, values in self.maps.items():
            if values.ndim != 3 or values.shape[1:] != self.picture.shape[:2]:
                raise ValueError(
                    f"{self.name}: the map of {method} is {values.shape}, the picture {self.picture.shape}; "
                    "a map is C x H x W with the height and width of its picture"
                )
