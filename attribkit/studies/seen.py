"""Pictures as a network sees them, as they are and changed, and how far its features then are from what they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attribkit.errors import BadType, BadValue
from attribkit.studies.moves import Move, moved
from attribkit.studies.occlusion_fills import filling
from attribkit.studies.reading import size_of_batch
from attribkit.studies.spread import network_of
from attribkit.studies.survey import device_of
from attribkit.studies.truncated import Truncated

Array = npt.NDArray[Any]
GREY = 128


class Views:
    """Inputs of a model from pictures; or from inputs, which are changed themselves.

    Args:
        loaded: What has the preprocessing; a network takes inputs only.
        size: The side of the square that the network sees.
    """

    def __init__(self, loaded: object, size: int | None) -> None:
        self.preprocess: Any = None if isinstance(loaded, nn.Module) else getattr(loaded, "preprocess", None)
        self.size = size
        self._borders: dict[tuple[tuple[int, ...], Move], float] = {}

    def each(self, images: Iterable[Any] | Tensor) -> Iterator[Any]:
        """Pictures as arrays, or inputs as tensors, one after the other."""
        if isinstance(images, Tensor):
            if images.dim() != 4 or not images.is_floating_point():
                raise BadType(f"images are floats of N x C x H x W, not {images.dtype} of {tuple(images.shape)}")
            yield from images.detach().cpu().float()
            return
        if self.preprocess is None:
            raise BadType("pictures need a preprocessing: pass what attribkit.load gives, or a tensor of inputs")
        yield from map(self.preprocess.picture, images)

    def input(self, picture: Any) -> Tensor:
        """What the network gets of it."""
        return picture if isinstance(picture, Tensor) else self.preprocess(picture, self.size)

    def moved(self, picture: Any, move: Move) -> Tensor:
        """What it gets of it after a move."""
        if not isinstance(picture, Tensor):
            return self.input(moved(picture, move, [GREY] * 3))
        grey = filling("grey", picture, (1, 1), self.preprocess)[:, 0, 0]
        return torch.from_numpy(moved(picture.permute(1, 2, 0).numpy(), move, grey.tolist())).permute(2, 0, 1)

    def covered(self, picture: Any, box: tuple[int, int, int, int]) -> Tensor:
        """What it gets of it with a box in grey: left, top, right, bottom in the picture's own pixels."""
        left, top, right, bottom = box
        here = np.s_[top:bottom, left:right]
        if not isinstance(picture, Tensor):
            hidden = picture.copy()
            hidden[here] = GREY
            return self.input(hidden)
        grey = filling("grey", picture, (1, 1), self.preprocess)
        hidden = picture.clone()
        hidden[:, here[0], here[1]] = grey[:, here[0], here[1]]
        return hidden

    def border(self, picture: Any, move: Move) -> float:
        """The share of what the network sees that lies beyond the border of the picture."""
        shape = tuple(picture.shape[1:] if isinstance(picture, Tensor) else picture.shape[:2])
        if (shape, move) not in self._borders:
            if isinstance(picture, Tensor):
                inside = moved(np.ones((*shape, 1), np.float32), move, [0])
            else:
                white = moved(np.full((*shape, 3), 255, np.uint8), move, [0, 0, 0])
                inside = self.preprocess.undo(self.input(white)) / 255.0
            self._borders[shape, move] = float(1 - inside.mean())
        return self._borders[shape, move]


class Seen:
    """A network, and what some of its layers give.

    Args:
        loaded: The network, or what holds it.
        layers: Their paths.
    """

    def __init__(self, loaded: object, layers: Sequence[str]) -> None:
        model = network_of(loaded)
        self.net = Truncated(model, layers, whole=True)
        self.device = device_of(model)
        tensors = (tensor for tensor in model.parameters() if tensor.is_floating_point())
        self.dtype = next((tensor.dtype for tensor in tensors), torch.float32)
        self.pick = None if isinstance(loaded, nn.Module) else getattr(loaded, "output", None)

    def __call__(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """The features of each layer as vectors, and the logits where there are any."""
        with torch.inference_mode():
            features = [each.flatten(1) for each in self.net(images.to(self.device, self.dtype))]
            answer = self.net.answer if self.pick is None else self.pick(self.net.answer)
        for layer, each in zip(self.net.layers, features, strict=True):
            if not bool(each.isfinite().all()):
                raise BadValue(f"the layer {layer!r} gives NaN or infinity: there is no distance")
        one_per_class = isinstance(answer, Tensor) and answer.dim() == 2 and answer.shape[1] > 1
        return features, answer.float().cpu() if one_per_class else None

    def batches(self, x: Tensor, others: Iterable[Tensor]) -> Iterator[tuple[list[Tensor], Tensor | None]]:
        """Others in batches, of each of which the original is the first: what is rounded is rounded alike."""
        room, held = max(1, size_of_batch(x, self.device) - 1), [x]
        for other in others:
            held.append(other)
            if len(held) > room:
                yield self(torch.stack(held))
                held = [x]
        if len(held) > 1:
            yield self(torch.stack(held))

    def compared(self, x: Tensor, others: Iterable[Tensor]) -> tuple[Array, Tensor | None]:
        """The distance of the features of others from an original's, layers x others; logits, the original's first."""
        distances: list[Array] = []
        logits: list[Tensor] = []
        for features, answer in self.batches(x, others):
            distances.append(np.stack([_relative(each) for each in features]))
            if answer is not None:
                logits += [answer[1:] if logits else answer]
        return np.concatenate(distances, 1), torch.cat(logits) if logits else None


def _relative(features: Tensor) -> Array:
    """How far each vector is from the first one, over the first one's length."""
    lengths = torch.linalg.vector_norm(features[1:] - features[:1], dim=1, dtype=torch.float64)
    own = torch.linalg.vector_norm(features[0], dtype=torch.float64)
    return (lengths / own).cpu().numpy() if own > 0 else np.full(len(lengths), np.nan)
