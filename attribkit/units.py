"""What is explained, and the part of the image that it sees."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """One thing explained, and the part of the image that it sees.

    Attributes:
        image: Its image's number in the batch.
        layer: The layer's path, with the number of its call where there are several; None for the model's output.
        channel: The channel of the layer, the feature of a token, or the class.
        position: Where it is in the layer's map, or which token it is; None for a logit or a whole channel.
        activation: Its value; of a whole channel, the sum.
        box: Where it looks: first the starts, then the ends, so top, left, bottom, right.
        place: Of a token that stands for a patch: the patch's row and column.
    """

    image: int
    layer: str | None
    channel: int
    position: tuple[int, ...] | None
    activation: float
    box: tuple[int, ...] | None = None
    place: tuple[int, int] | None = None

    @property
    def index(self) -> tuple[int, ...]:
        """Where the unit is in the output for one image, channels first; for a whole channel, that dimension only."""
        return self.channel, *(self.position or ())

    @property
    def where(self) -> str:
        """The position in words: "3,4"; of a token that stands for a patch "7 (row 1, column 2)"."""
        position = ",".join(map(str, self.position or ()))
        return position if self.place is None else f"{position} (row {self.place[0]}, column {self.place[1]})"
