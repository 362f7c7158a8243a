"""An evolution as a strip (channels down, checkpoints across), and as an animation of it."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attribkit.report import layout, mosaic, pictures
from attribkit.report.pictures import Picture
from attribkit.report.sheet import Cell, sheet
from attribkit.studies.evolution import Evolution, Film
from attribkit.studies.evolution_settling import TOP
from attribkit.studies.projecting import Projection

CHANGE = (213, 94, 0)
MEASURES = {
    "cosine": ("cosine", "of a channel's scores with those at the checkpoint before, median of all channels"),
    "last": ("with the last", "the same with those at the last checkpoint"),
    "kept": ("winners kept", f"of a channel's {TOP} strongest images, those that were so at the checkpoint before"),
}
"""What a measure of settling is called where it is shown, and what that means."""

_LARGEST, _LEAST = 112, 48
_LEFT, _LINE, _GAP, _MARK = 112, 20, 14, 4
_WIDE, _EMPTY = 1200, 236
_EACH, _END = 900, 2500  # milliseconds


@dataclass(frozen=True)
class Tiles:
    """How the tiles of a film are made: the square of pixels that they show, its side when stored, and when drawn."""

    window: int
    stored: int
    drawn: int

    @classmethod
    def of(cls, film: Film) -> Tiles:
        boxes = [tile.box for tiles in film.tiles for tile in tiles if tile is not None]
        window = max((max(bottom - top, right - left) for top, left, bottom, right in boxes), default=_LEAST)
        stored = min(window, _LARGEST)
        return cls(window, stored, stored * max(1, -(-_LEAST // stored)))

    def pair(self, tile: Projection | None) -> tuple[Picture, Picture] | None:
        """The map and the patch, as they are stored."""
        if tile is None:
            return None
        both = (pictures.picture(tile.map, "classic"), tile.patch)
        return tuple(mosaic.tile(part, tile.box, self.window, self.stored) for part in both)  # type: ignore[return-value]

    def drawn_pair(self, tile: Projection | None) -> tuple[Picture, Picture]:
        """The same as large as they are drawn; light grey where the channel fires on nothing."""
        pair = self.pair(tile)
        if pair is None:
            return (empty := np.full((self.drawn, self.drawn, 3), _EMPTY, np.uint8)), empty
        map_, patch = (pictures.enlarged(part, self.drawn // self.stored) for part in pair)
        return map_, patch


def drawn(evolution: Evolution, heading: str) -> Picture:
    """The strip of every layer, with how fast each settles; side by side as far as there is room."""
    cells = [Cell([film.layer, summary(film)], _strip(film, evolution.numbers)) for film in evolution.films.values()]
    abreast = max(1, _WIDE // max(cell.width for cell in cells))
    rows = [cells[start : start + abreast] for start in range(0, len(cells), abreast)]
    return layout.drawn(sheet(heading, described(evolution), rows, foot()))


def described(evolution: Evolution) -> str:
    """What was looked at, in a line."""
    images = len(evolution.names) - len(evolution.unreadable)
    return (
        f"{len(evolution.numbers)} checkpoints, {evolution.numbers[0]} to {evolution.numbers[-1]}, over {images:,} "
        f"images; maps by {evolution.method}"
        + ("" if evolution.switches == "own" else f", switches {evolution.switches}")
    )


def summary(film: Film) -> str:
    """How many of the shown channels changed their image how late."""
    changes, late = int(film.changed.sum()), int(film.changed[:, -1].sum())
    return f"{changes} changes of the image in {len(film.channels)} channels, {late} of them at the last checkpoint"


def foot() -> list[str]:
    """How to read a strip."""
    return [
        "Above the projection of the channel's strongest activation, below the part of the image that it comes from. "
        "A bar on the left: another image than at the checkpoint before. Grey: it fires on no image.",
        *(f"{name}: {what}." for name, what in MEASURES.values()),
    ]


def measured(film: Film) -> dict[str, list[float | None]]:
    """The measures of a layer in the columns of its strip; None where there is nothing to compare with."""
    medians = film.settling.medians()
    return {
        "cosine": [None, *medians["cosine"]],
        "last": [*medians["last"], None],
        "kept": [None, *medians["kept"]],
    }


def in_words(value: float | None) -> str:
    """A measure with two digits; nothing where there is none."""
    return "" if value is None else f"{round(value, 2) + 0.0:.2f}"  # adding zero makes 0 of -0


def _strip(film: Film, numbers: Sequence[int]) -> Picture:
    tiles = Tiles.of(film)
    high, across = 2 * tiles.drawn + 2 + _GAP, tiles.drawn + _GAP
    foot = _LINE + high * len(film.channels)
    strip = np.full((foot + _LINE * len(MEASURES), _LEFT + across * len(numbers), 3), 255, np.uint8)
    for column, number in enumerate(numbers):
        pictures.write(strip, [str(number)], _LEFT + column * across + _GAP, 0)
    for row, channel in enumerate(film.channels):
        pictures.write(strip, [f"channel {channel}"], 0, _LINE + row * high)
        for column, tile in enumerate(film.tiles[row]):
            top, left = _LINE + row * high, _LEFT + column * across + _GAP
            _put(strip, top, left, tiles.drawn_pair(tile), bool(film.changed[row, column]))
    for line, (name, values) in enumerate(measured(film).items()):
        pictures.write(strip, [MEASURES[name][0]], 0, foot + line * _LINE)
        for column, value in enumerate(values):
            pictures.write(strip, [in_words(value)], _LEFT + column * across + _GAP, foot + line * _LINE)
    return np.pad(strip, ((_MARK, _MARK), (2 * _MARK, 2 * _MARK), (0, 0)), constant_values=255)


def _put(strip: Picture, top: int, left: int, pair: tuple[Picture, Picture], changed: bool) -> None:
    """A map above its patch, and the mark of a change on their left."""
    side = len(pair[0])
    for part, start in zip(pair, (top, top + side + 2), strict=True):
        strip[start : start + side, left : left + side] = part
    if changed:
        strip[top : top + 2 * side + 2, left - 3 - _MARK : left - 3] = CHANGE


# ------------------------------------------------------------------------------------------------------ the animation


def animated(evolution: Evolution, heading: str) -> bytes:
    """A WebP that goes through the checkpoints; the same evolution gives the same bytes."""
    from PIL import Image

    frames = [Image.fromarray(frame) for frame in _frames(evolution, heading)]
    durations = [_EACH] * (len(frames) - 1) + [_END]
    file, how = io.BytesIO(), {"lossless": True, "minimize_size": False, "loop": 0}
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], duration=durations, **how)
    return file.getvalue()


def _frames(evolution: Evolution, heading: str) -> Iterator[Picture]:
    """At each checkpoint all channels at once, each its map beside its patch, those that changed in a frame."""
    looks = {layer: Tiles.of(film) for layer, film in evolution.films.items()}
    for column, number in enumerate(evolution.numbers):
        rows = [[Cell([layer], _channels(film, looks[layer], column))] for layer, film in evolution.films.items()]
        yield layout.drawn(sheet(f"{heading}, checkpoint {number}", "Framed: another image than before.", rows, []))


def _channels(film: Film, look: Tiles, column: int) -> Picture:
    pairs = [
        _framed(np.concatenate(look.drawn_pair(tiles[column]), 1), bool(changed))
        for tiles, changed in zip(film.tiles, film.changed[:, column], strict=True)
    ]
    return pictures.grid(pairs, max(1, math.isqrt(len(pairs))))


def _framed(pair: Picture, changed: bool) -> Picture:
    framed: Any = np.pad(pair, ((3, 3), (3, 3), (0, 0)), constant_values=255)
    if changed:
        framed[:3], framed[-3:], framed[:, :3], framed[:, -3:] = CHANGE, CHANGE, CHANGE, CHANGE
    return framed
