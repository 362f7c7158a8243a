"""`evolve`: how do features come about? Each channel's strongest activation at every checkpoint of a training run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from attribkit.errors import BadType, BadValue
from attribkit.explaining.given import Loaded, Method
from attribkit.files import pack, written_whole
from attribkit.studies.evolution_settling import Settling
from attribkit.studies.gallery import Gallery, gallery, unwatched
from attribkit.studies.projecting import Projection
from attribkit.studies.rescoring import Watch
from attribkit.studies.stored import check_ending

Array = npt.NDArray[Any]

SHOWN = 16
"""How many channels are shown where nobody says which: the first ones, so that none is picked for its looks."""


@dataclass(frozen=True)
class Checkpoint:
    """A network at a moment of its training.

    Attributes:
        number: When that was: the epoch, or whatever numbers the checkpoints.
        name: What it is called in messages.
        load: Gives the network, or what `attribkit.load` gives; called more than once.
    """

    number: int
    name: str
    load: Callable[[], Loaded | nn.Module]


@dataclass(frozen=True, eq=False)
class Film:
    """C channels of a layer at E checkpoints.

    Attributes:
        layer: Its path.
        channels: Their numbers.
        image: C x E: the number of the image on which the channel is strongest; -1 where it fires on none.
        value: C x E: how strongly.
        position: C x E x 2: row and column of the strongest unit; -1 without positions.
        fires: C x E: the share of images on which the channel fires.
        changed: C x E: whether the image is another one than at the checkpoint before.
        tiles: For each channel its projections; None where it fires on no image.
        settling: How alike all channels of the layer are at neighbouring checkpoints.
        unsure: Numbers of checkpoints and channels of which other images may be as strong.
    """

    layer: str
    channels: Array
    image: Array
    value: Array
    position: Array
    fires: Array
    changed: Array
    tiles: tuple[tuple[Projection | None, ...], ...]
    settling: Settling
    unsure: tuple[tuple[int, int], ...]

    def settled(self, row: int) -> int:
        """When a channel has found its last image.

        Args:
            row: Its place in `channels`.

        Returns:
            The place of the checkpoint from which on the image stays the same.
        """
        return int(np.flatnonzero(self.changed[row]).max(initial=0))


@dataclass(frozen=True, eq=False)
class Evolution:
    """What channels look for, checkpoint by checkpoint.

    Attributes:
        numbers: Of the checkpoints, in order.
        checkpoints: Their names.
        films: One per layer, by its path.
        names: Of all images.
        labels: The names of their classes; None where they have none.
        method: The rule by which maps are made.
        switches: How they pass max-pools.
        unreadable: Numbers of images that could not be read, and why.
    """

    numbers: tuple[int, ...]
    checkpoints: tuple[str, ...]
    films: Mapping[str, Film]
    names: Sequence[str]
    labels: Sequence[str] | None
    method: str
    switches: str
    unreadable: tuple[tuple[int, str], ...]

    def save(self, path: str | os.PathLike[str]) -> None:
        """All of it as an .npz file, written whole or not at all.

        Args:
            path: The file.

        Raises:
            BadValue: It does not end in .npz.
            FileError: It cannot be written.
        """
        check_ending(path, "evolution")
        with written_whole(path) as file:
            pack(file, self._arrays())

    def _arrays(self) -> Iterator[tuple[str, Array]]:
        used = {int(image) for film in self.films.values() for image in np.unique(film.image) if image >= 0}
        facts = {name: getattr(self, name) for name in ("numbers", "checkpoints", "method", "switches")}
        facts |= {"layers": list(self.films), "names": {image: self.names[image] for image in sorted(used)}}
        yield "facts", np.array(json.dumps(facts))
        for layer, film in self.films.items():
            held = {name: getattr(film, name) for name in _STORED} | vars(film.settling)
            yield from ((f"{layer}/{name}", array) for name, array in held.items())
            for channel, tiles in zip(film.channels, film.tiles, strict=True):
                for number, tile in zip(self.numbers, tiles, strict=True):
                    if tile is not None:
                        yield f"{layer}/box.{channel}.{number}", np.array(tile.box, np.int32)
                        yield f"{layer}/map.{channel}.{number}", tile.map
                        yield f"{layer}/patch.{channel}.{number}", tile.patch


_STORED = ("channels", "image", "value", "position", "fires", "changed")


def evolve(
    checkpoints: Sequence[Checkpoint],
    data: object,
    *,
    layer: str | Sequence[str],
    channels: Sequence[int] | None = None,
    method: Method = "guided",
    switches: str = "own",
    size: int | None = None,
    out: str | Path | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> Evolution:
    """How features come about: each channel's strongest activation over a data set, at every checkpoint of a run.

        e = attribkit.evolve(attribkit.checkpoints("runs/all_cnn_c-quick-0"), "photos/", layer="conv6")
        film = e.films["conv6"]
        film.image[0], film.changed[0]      # the strongest image of the first channel, checkpoint by checkpoint
        film.settling.medians()             # how fast the layer settles

    Args:
        checkpoints: Of one network, at least two; `attribkit.checkpoints` finds those of a folder.
        data: A folder, a pattern, a packed `.npz`, or a map-style `Dataset`.
        layer: The path of the layer, or several, which share the passes over the data.
        channels: Which are shown; without it, the first 16. How a layer settles is measured on all of its channels.
        method: The rule by which maps are made.
        switches: How they pass max-pools: "own", "uniform", "center" or "corner".
        size: The side of the square that the network sees, where it takes any.
        out: A folder in which the passes over the data are kept, a folder per checkpoint. A run that was stopped goes
            on from there, and other channels or another method need no second pass.
        force: Start again where `out` holds something of other checkpoints, layers or data.
        watch: Goes through work and shows how far it is.

    Returns:
        A film per layer.

    Raises:
        BadValue: An argument makes no sense, checkpoints do not belong together, or there are no images.
        FileError: A file cannot be written.
    """
    series, watch = sorted(checkpoints, key=lambda each: each.number), watch or unwatched
    _check(series)
    for checkpoint in watch(series, "checkpoints"):
        _loaded(checkpoint)  # so that one that does not fit is named before the work and not after half of it
    asked: dict[str, Any] = {"channels": channels, "method": method, "switches": switches, "size": size, "force": force}
    asked["layer"] = [layer] if isinstance(layer, str) else list(layer)
    columns = [_column(each, data, asked, None if out is None else Path(out), watch) for each in series]
    _check_alike(columns)
    first = next(iter(columns[0].galleries.values()))
    pictures = first.pictures
    return Evolution(
        numbers=tuple(each.number for each in series),
        checkpoints=tuple(each.name for each in series),
        films={path: _film(path, columns) for path in columns[0].galleries},
        names=pictures.names,
        labels=None if pictures.labels is None else [pictures.classes[label] for label in pictures.labels],
        method=first.method,
        switches=switches,
        unreadable=first.unreadable,
    )


def _check(series: Sequence[Checkpoint]) -> None:
    numbers = [each.number for each in series]
    if len(series) < 2:
        raise BadValue(f"an evolution compares at least two checkpoints, and {len(series)} was given")
    if len(set(numbers)) < len(numbers):
        raise BadValue(f"two checkpoints have the same number: {', '.join(map(str, numbers))}")


def _loaded(checkpoint: Checkpoint) -> Loaded | nn.Module:
    found = checkpoint.load()
    if not isinstance(found if isinstance(found, nn.Module) else getattr(found, "model", None), nn.Module):
        raise BadType(
            f"{checkpoint.name}: a checkpoint loads a network or what attribkit.load gives, not {type(found)}"
        )
    return found


@dataclass(frozen=True, eq=False)
class _Column:
    """What was found at a checkpoint, by layer, and the tiles of the channels that are shown, None for dead ones."""

    checkpoint: Checkpoint
    galleries: Mapping[str, Gallery]
    tiles: Mapping[str, Sequence[Projection | None]]


def _column(checkpoint: Checkpoint, data: object, asked: Mapping[str, Any], out: Path | None, watch: Watch) -> _Column:
    galleries = gallery(
        _loaded(checkpoint),
        data,
        top=1,
        out=None if out is None else out / f"{checkpoint.number:06d}",
        watch=lambda things, name: watch(things, f"{checkpoint.name}: {name}"),
        **asked,
    )
    shown = SHOWN if asked["channels"] is None else None
    return _Column(checkpoint, galleries, {path: _tiles(each, shown) for path, each in galleries.items()})


def _tiles(gallery: Gallery, shown: int | None) -> list[Projection | None]:
    """What the strongest unit of each of the first so many channels sees, projected down."""
    alive = ~gallery.statistics.dead[:shown]
    projections = iter(gallery.projector([gallery.places(row)[0] for row in np.flatnonzero(alive).tolist()]))
    return [next(projections) if lives else None for lives in alive]


def _check_alike(columns: Sequence[_Column]) -> None:
    """Raise where checkpoints cannot be compared: other images, or a layer of another width."""
    for column in columns:
        for path, each in column.galleries.items():
            first = columns[0].galleries[path]
            channels, wanted = len(each.found.winners.image), len(first.found.winners.image)
            if channels != wanted:
                raise BadValue(f"{column.checkpoint.name}: {path} has {channels} channels where others have {wanted}")
            if (each.pictures.digest, each.unreadable) != (first.pictures.digest, first.unreadable):
                raise BadValue(f"{column.checkpoint.name} was not shown the images that others were: the data changed")


def _film(path: str, columns: Sequence[_Column]) -> Film:
    galleries, shown = [column.galleries[path] for column in columns], len(columns[0].tiles[path])
    channels = galleries[0].channels[:shown]
    dead = np.stack([each.statistics.dead[:shown] for each in galleries], 1)
    image = np.where(dead, -1, np.concatenate([each.image[:shown] for each in galleries], 1))
    position = np.concatenate([each.position[:shown] for each in galleries], 1)
    unsure = [(column.checkpoint.number, c) for column in columns for c in column.galleries[path].unsure]
    return Film(
        layer=path,
        channels=channels,
        image=image,
        value=np.concatenate([each.value[:shown] for each in galleries], 1),
        position=np.where(dead[..., None], -1, position),
        fires=np.stack([each.statistics.fires[:shown] for each in galleries], 1),
        changed=np.diff(image, axis=1, prepend=image[:, :1]) != 0,
        tiles=tuple(zip(*(column.tiles[path] for column in columns), strict=True)),
        settling=Settling.of([each.found for each in galleries]),
        unsure=tuple(pair for pair in unsure if pair[1] in channels),
    )
