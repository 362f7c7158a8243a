"""A network run on one image with many windows of it replaced: only what a window changes is computed again.

The model's own forward pass runs on tensors that hold the image once and its windows (`incremental_tensor`). Where that
cannot be followed, or gives something else than whole images do, whole images are run, and `Runner.whole` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attribkit.engine.plan import CannotRewrite
from attribkit.engine.shadow import shadow
from attribkit.errors import BadType
from attribkit.explaining.failing import NetworkFails, tried
from attribkit.explaining.watching import inside, watched
from attribkit.studies.folded import Readers, folded
from attribkit.studies.incremental_functions import dispatched
from attribkit.studies.incremental_tensor import CannotFollow, Shared, Windowed
from attribkit.studies.incremental_windows import Place, Spans, blocks

Corner = tuple[int, int]
Look = Callable[[Tensor], Tensor]
"""What is read off a layer's output: one number per image."""

ALIKE = 1e-3
"""How far, as a share of the largest output, a run in windows may be from one of whole images before it is not
trusted: far above rounding, far below any mistake."""

ALIKE_FOLDED = 1e-4
"""The same where batch norms are folded: what is further away is run again without folding, which only takes longer."""


@dataclass(frozen=True)
class Patches:
    """An image, C x H x W, and what is put into its windows: the same place of another image.

    Attributes:
        image: It.
        fill: Of the same shape.
        tops, lefts: Where windows begin, which may be before 0, along each dimension.
        height, width: Of a window, which is cut off at the edges.
    """

    image: Tensor
    fill: Tensor
    tops: Sequence[int]
    lefts: Sequence[int]
    height: int
    width: int

    def whole(self, corners: Sequence[Corner]) -> Tensor:
        """The image with each of these windows replaced."""
        images = self.image.repeat(len(corners), 1, 1, 1)
        for image, corner in zip(images, corners, strict=True):
            here = self._slices(corner)
            image[here] = self.fill[here]
        return images

    def windowed(self, corners: Sequence[Corner], shared: Shared, base: Tensor) -> Windowed:
        """The same, as a batch of which only the windows are there."""
        size = self.image.shape[1:]
        rows = Spans.around(((top, top + self.height) for top, _ in corners), size[0])
        columns = Spans.around(((left, left + self.width) for _, left in corners), size[1])
        place = Place(rows, columns)
        windows = place.cut(base)
        for window, corner, top, left in zip(windows, corners, rows.starts, columns.starts, strict=True):
            _, row, column = here = self._slices(corner)
            window[:, row.start - top : row.stop - top, column.start - left : column.stop - left] = self.fill[here]
        return Windowed(base, windows, place, shared)

    def _slices(self, corner: Corner) -> tuple[slice, slice, slice]:
        sizes = zip(corner, (self.height, self.width), self.image.shape[1:], strict=True)
        rows, columns = (slice(min(size, max(0, a)), max(0, min(size, a + length))) for a, length, size in sizes)
        return slice(None), rows, columns

    def corners(self) -> list[Corner]:
        return [(top, left) for top in self.tops for left in self.lefts]

    def blocks(self, side: int) -> Iterator[list[Corner]]:
        """The corners in blocks of at most `side` x `side`."""
        for block in blocks(len(self.tops), len(self.lefts), side):
            yield [(self.tops[row], self.lefts[column]) for row, column in block]


class Runner:
    """A network that answers for patches: its outputs, and one number of a layer.

    Attributes:
        whole: Why whole images are run; None as long as windows are.
        left: Operators from which on everything was computed, since nothing is known of them.
    """

    # Of blocks of windows: small ones are cut off by the edges alike, large ones read the weights less often.
    SIDE, SIDE_ON_GPU, BATCH = 7, 8, 16

    def __init__(self, model: Any, pick: Callable[[Any], Tensor] | None, layer: str | None = None) -> None:
        self.pick = pick
        self.layer = layer
        self.whole: str | None = None
        self.left: set[str] = set()
        self.tried = False
        self.folds: list[tuple[str, str]] | None = None  # convolutions with their batch norms, once an image was seen
        self.model, self.net, self.lean = model, model, model
        self.batch = self.BATCH
        if not isinstance(model, nn.Module):
            self.whole = "a function's layers cannot be followed"
            return
        try:
            self.net, self.lean = shadow(model), None
        except CannotRewrite as error:
            if model.training:  # as it is, it would not answer as it does in use
                raise
            self.whole = str(error)

    def run(self, net: Any, images: Tensor, look: Look | None) -> tuple[Tensor, Tensor]:
        """The outputs for a batch, and what `look` sees of the layer."""
        seen: list[Tensor] = []

        def keep(name: str, inputs: Any, output: Any) -> None:
            if look and not seen:  # a layer that is called again is looked at the first time
                seen.append(look(output))

        with torch.no_grad(), watched(self._layer_of(net) if look else (), keep):
            outputs = net(images)
        outputs = outputs if self.pick is None else self.pick(outputs)
        if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != len(images):
            what = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise BadType(f"occlusion needs an output of images x classes, not {what}: pass output=, which picks one")
        outputs = outputs.whole() if isinstance(outputs, Windowed) else outputs
        return outputs, seen[0] if seen else outputs.new_full((len(images),), torch.nan, dtype=torch.float64)

    def uncovered(self, image: Tensor) -> tuple[Tensor, Any]:
        """The outputs for a whole picture, and what the layer gives: the last one with a map, if none was named.

        None where there is no such layer. The first time it is seen as well which batch norms can be folded.
        """
        found: list[tuple[str | None, Any]] = []

        def keep(name: str, inputs: Any, output: Any) -> None:
            if _has_places(output) if self.layer is None else not found:
                found[:] = [(name, output.clone() if isinstance(output, Tensor) else output)]

        modules = inside(self.net) if isinstance(self.net, nn.Module) else []
        readers = Readers(modules if self.folds is None else ())
        layer = modules if self.layer is None else self._layer_of(self.net)
        with watched(readers.known.items(), readers.look), watched(layer, keep):
            outputs, _ = self.run(self.net, image.clone(), None)  # which a first layer in place would change
        self.layer, given = found[0] if found else (self.layer, None)
        if self.folds is None:
            self.folds = [pair for pair in readers.pairs() if pair[0] != self.layer]
        return outputs, given

    def _layer_of(self, net: Any) -> list[tuple[str, nn.Module]]:
        return [] if self.layer is None else [(self.layer, net.get_submodule(self.layer))]

    def answers(self, patches: Patches, look: Look | None) -> tuple[Tensor, Tensor]:
        """Outputs (windows x classes) and what is seen of the layer, in the order of `patches.corners()`."""
        while self.whole is None:
            try:
                self.lean = self.lean or self._lean()
                return self._in_windows(patches, look)
            except (CannotFollow, NetworkFails) as error:
                if self.folds and not self.tried:
                    self.folds, self.lean = [], None  # a convolution may have had another reader
                else:
                    self.whole = str(error)
        return self._on_whole(patches, patches.corners(), look)

    def _lean(self) -> nn.Module:
        """The network with less to do: without batch norms that can be folded, and with channels last."""
        net = folded(self.model, self.folds or [])
        for weight in net.parameters():
            if weight.dim() == 4:  # there may be convolutions of volumes as well
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        return net

    def _in_windows(self, patches: Patches, look: Look | None) -> tuple[Tensor, Tensor]:
        shared = Shared(dispatched)
        answers: dict[Corner, tuple[Tensor, Tensor]] = {}
        base = patches.image[None].contiguous(memory_format=torch.channels_last)
        waiting = list(patches.blocks(self.SIDE if base.device.type == "cpu" else self.SIDE_ON_GPU))
        while waiting:
            block = waiting.pop(0)
            shared.begin()
            # Two at least: a batch of one cannot be told from what all of a batch share.
            windowed = patches.windowed(block if len(block) > 1 else block * 2, shared, base)
            try:
                outputs, seen = self._tried(windowed, look)
            except torch.OutOfMemoryError:
                if len(block) == 1:
                    raise
                waiting[:0] = [block[: len(block) // 2], block[len(block) // 2 :]]
                continue
            answers.update(zip(block, zip(outputs, seen, strict=False), strict=False))
        self.left |= shared.left.keys()
        outputs, seen = map(torch.stack, zip(*(answers[corner] for corner in patches.corners()), strict=True))
        self._check(patches, look, (outputs, seen))
        return outputs, seen

    def _tried(self, windowed: Windowed, look: Look | None) -> tuple[Tensor, Tensor]:
        try:
            with tried():
                return self.run(self.lean, windowed, look)
        except NetworkFails as error:
            if isinstance(error.__cause__, CannotFollow | torch.OutOfMemoryError):
                raise error.__cause__ from None
            raise

    def _check(self, patches: Patches, look: Look | None, answers: tuple[Tensor, Tensor]) -> None:
        """Once, two windows are compared with whole images: outputs and the layer must be the same but for rounding."""
        if self.tried:
            return
        corners = patches.corners()
        some = [0, len(corners) // 2]
        wholes = self._on_whole(patches, [corners[i] for i in some], look)
        for answer, whole in zip(answers, wholes, strict=True) if look else [(answers[0], wholes[0])]:
            apart, scale = (answer[some] - whole).abs().max(), whole.abs().max()
            if not apart <= (ALIKE_FOLDED if self.folds else ALIKE) * scale:
                raise CannotFollow(
                    f"windows gave something else than whole images, {float(apart):.2g} of {float(scale):.2g}"
                )
        self.tried = True

    def _on_whole(self, patches: Patches, corners: Sequence[Corner], look: Look | None) -> tuple[Tensor, Tensor]:
        parts, at = [], 0
        while at < len(corners):
            try:
                parts.append(self.run(self.net, patches.whole(corners[at : at + self.batch]), look))
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise
                self.batch //= 2
                continue
            at += len(parts[-1][0])
        outputs, seen = map(torch.cat, zip(*parts, strict=True))
        return outputs, seen

    def in_words(self) -> str:
        """How the answers were computed, in words."""
        if self.whole is not None:
            return f"whole images were run: {self.whole}"
        left = f"; everything from {', '.join(sorted(self.left))} on" if self.left else ""
        return f"only what a window changes was computed again{left}"


def summed(output: Tensor, channel: int) -> Tensor:
    """The sum of a feature map, one number per image, in double precision."""
    if not isinstance(output, Windowed) or output.plain is not None:
        plain = output.plain if isinstance(output, Windowed) else output
        return plain[:, channel].double().flatten(1).sum(1)  # type: ignore[index]
    base = output.base[:, channel : channel + 1].double()
    before = output.place.cut(base).flatten(1).sum(1)
    return base.sum() - before + output.windows[:, channel].double().flatten(1).sum(1)


def _has_places(output: Any) -> bool:
    """Whether it is a map of more than one place."""
    return isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1
