"""What a source of models is, and what it gives: a model with what is needed to show it pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from attribkit.adapters.layers import Layers
from attribkit.adapters.preprocessing import Preprocess
from attribkit.adapters.weights import Weights
from attribkit.errors import BadValue
from attribkit.identity import digest_of_weights

if TYPE_CHECKING:
    from attribkit.adapters.images import RGB

ORDER = ("reference", "torchvision", "timm", "packaged")
"""The sources that come with the package, in the order in which they are asked for a bare name."""


class UnknownModel(BadValue):
    """No source has a model of this name."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in eval mode, with what is needed to show it pictures and to read its answers.

    Args:
        name: Its full name, such as "torchvision:resnet50".
        model: The network.
        preprocess: From a picture to the model's input, and back.
        labels: The names of its classes, where they are known.
        output: Picks the tensor to explain where the model returns more than one; `explain(loaded, ...)` uses it.
        weights: Which it has: "default", "none" (random ones) or a file.
    """

    name: str
    model: nn.Module
    preprocess: Preprocess
    labels: tuple[str, ...] = ()
    output: Callable[[Any], Tensor] | None = None
    weights: str = "default"

    def __post_init__(self) -> None:
        self.model.eval()

    def __repr__(self) -> str:
        classes = f", {len(self.labels)} classes" if self.labels else ""
        return f"LoadedModel({self.name}, {type(self.model).__name__}, weights {self.weights}{classes})"

    @property
    def known_labels(self) -> tuple[str, ...]:
        """The labels, unless the weights are random: a class of such a network means nothing."""
        return () if self.weights == "none" else self.labels

    @cached_property
    def digest(self) -> str:
        """What tells one set of weights from another: the first digits of the SHA-256 of all its tensors."""
        return digest_of_weights(self.model)[:12]

    def unpreprocess(self, x: Tensor) -> RGB:
        """The picture that the network saw, after resizing and cropping.

        Args:
            x: An input of the model, without the batch dimension.

        Returns:
            H x W x 3 bytes.
        """
        return self.preprocess.undo(x)

    @cached_property
    def layers(self) -> Layers:
        """Every module by its path: kind, shape, stride, receptive field. The first look runs the model."""
        return Layers.of(self.model, self.preprocess.example()[None])


class Source(Protocol):
    """A source of models: a module with these two functions."""

    def names(self) -> Iterable[str]:
        """List the models of this source.

        Returns:
            All names that `build` takes.
        """

    def build(self, name: str, weights: Weights, classes: int | None) -> LoadedModel:
        """Build one model.

        Args:
            name: One of `names()`.
            weights: "default", "none" or a file.
            classes: Their number; None for the usual one.

        Returns:
            The model, ready to be explained.
        """
