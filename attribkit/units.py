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
    """

    image: int
    layer: str | None
    channel: int
    position: tuple[int, ...] | None
    activation: float
    box: tuple[int, ...] | None = None

    @property
    def index(self) -> tuple[int, ...]:
        """Where the unit is in the output for one image, channels first; for a whole channel, that dimension only."""
        return self.channel, *(self.position or ())
