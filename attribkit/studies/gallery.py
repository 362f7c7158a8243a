"""`gallery`: what does each channel look for? Its strongest images over a data set, projected down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
from torch import nn

from attribkit.engine.shadow import unwrapped
from attribkit.errors import BadType, BadValue
from attribkit.explaining.calls import check_layer
from attribkit.explaining.explainer import Explainer
from attribkit.explaining.given import Loaded, Method
from attribkit.identity import digest_of_network
from attribkit.studies.data import PictureSet, opened
from attribkit.studies.folder import RunFolder
from attribkit.studies.projecting import Place, Projection, Projector, plainly
from attribkit.studies.rescoring import Rescored, Rescoring, Watch, bound, candidates, confirmed
from attribkit.studies.scores import Score, function_of, name_of
from attribkit.studies.statistics import Statistics, bands, statistics
from attribkit.studies.survey import Found, Shard, Survey, merged, shards
from attribkit.studies.winners import Winners

Array = npt.NDArray[Any]
Engine = Callable[[Survey, Sequence[int]], Iterable[tuple[int, bytes]]]
"""Makes the files of shards, by their numbers, in any order."""

SPARE = {None: 24, "bfloat16": 120}
"""How many winners are kept beyond those asked for: for a larger top, and since scores of batches are rounded."""


KEPT = "winners kept for each channel"


@dataclass(frozen=True, eq=False)
class Gallery:
    """The strongest images of some channels of a layer.

    Attributes:
        layer: Its path.
        channels: Their numbers, C of them.
        image: C x top: numbers of images; -1 where there are fewer.
        value: C x top: their scores; NaN where there are fewer.
        position: C x top x 2: row and column of the strongest unit; -1 where there are fewer, or no positions.
        bands: The same for images near the 99th, 90th and 50th percentile, three of each: top alone flatters.
        statistics: What was counted of each channel.
        method: The rule by which maps are made.
        switches: How they pass max-pools.
        pictures: The data; `names` and labels are its own.
        unreadable: Numbers of images that could not be read, and why.
        unsure: Channels of which not all images that may be among the winners were kept.
        found: What the pass over the data kept of all channels of the layer, those not asked for as well.
    """

    layer: str
    channels: Array
    image: Array
    value: Array
    position: Array
    bands: Winners
    statistics: Statistics
    method: str
    switches: str
    pictures: PictureSet
    unreadable: tuple[tuple[int, str], ...]
    unsure: tuple[int, ...]
    found: Found
    projector: Projector

    @property
    def names(self) -> Sequence[str]:
        """Of all images."""
        return self.pictures.names

    @property
    def dead(self) -> list[int]:
        """Channels that fire on no image."""
        return [int(channel) for channel in self.channels[self.statistics.dead]]

    def maps(self, channel: int) -> list[Array]:
        """The projections of a channel's winners, strongest first, each on the part of the image that it sees."""
        return [projection.map for projection in self.projections(channel)]

    def projections(self, channel: int) -> list[Projection]:
        """A channel's winners projected down, with their patches."""
        return self.projector(self.places(self._row(channel)))

    def places(self, row: int, bands: bool = False) -> list[Place]:
        """The winners of the channel in this row, or the examples of its bands."""
        held = self.bands if bands else Winners(self.image, self.value, self.position)
        winners = zip(held.image[row].tolist(), held.value[row].tolist(), held.position[row].tolist(), strict=True)
        channel = int(self.channels[row])
        return [
            Place(channel, image, value, None if y < 0 else (y, x)) for image, value, (y, x) in winners if image >= 0
        ]

    def _row(self, channel: int) -> int:
        rows = np.flatnonzero(self.channels == channel)
        if not len(rows):
            raise BadValue(f"channel {channel} is none of the {len(self.channels)} channels of this gallery")
        return int(rows[0])


@overload
def gallery(  # type: ignore[overload-overlap]  # a str is a sequence of str, but one layer
    loaded: Loaded | nn.Module,
    data: object,
    *,
    layer: str,
    channels: Sequence[int] | None = None,
    top: int = 9,
    score: Score = "max",
    method: Method = "guided",
    switches: str = "own",
    out: str | Path | None = None,
    size: int | None = None,
    precision: Literal["bfloat16"] | None = None,
    force: bool = False,
    engine: Engine | None = None,
    watch: Watch | None = None,
) -> Gallery: ...
@overload
def gallery(
    loaded: Loaded | nn.Module,
    data: object,
    *,
    layer: Sequence[str],
    channels: Sequence[int] | None = None,
    top: int = 9,
    score: Score = "max",
    method: Method = "guided",
    switches: str = "own",
    out: str | Path | None = None,
    size: int | None = None,
    precision: Literal["bfloat16"] | None = None,
    force: bool = False,
    engine: Engine | None = None,
    watch: Watch | None = None,
) -> dict[str, Gallery]: ...
def gallery(
    loaded: Loaded | nn.Module,
    data: object,
    *,
    layer: str | Sequence[str],
    channels: Sequence[int] | None = None,
    top: int = 9,
    score: Score = "max",
    method: Method = "guided",
    switches: str = "own",
    out: str | Path | None = None,
    size: int | None = None,
    precision: Literal["bfloat16"] | None = None,
    force: bool = False,
    engine: Engine | None = None,
    watch: Watch | None = None,
) -> Gallery | dict[str, Gallery]:
    """What each channel of a layer looks for: the images on which it is strongest, and what it sees there.

        g = attribkit.gallery(attribkit.load("all_cnn_c"), "photos/", layer="conv6", out="run/")
        g.image[g.channels == 7]     # numbers of the nine strongest images, strongest first
        g.maps(7)                    # their projections

    Args:
        loaded: What `attribkit.load` gives; or a network, for a `Dataset` of inputs. It stays as it is.
        data: A folder, a pattern, a packed `.npz`, or a map-style `Dataset`. Its order is the order of the images.
        layer: The path of the layer, or several, which share the pass over the data.
        channels: Which; without it, all.
        top: How many images for each channel.
        score: How strongly a channel fires on an image: "max", "mean", "sum", or a function from images x channels x
            height x width to images x channels. Shown and projected is the strongest position in any case.
        method: The rule by which maps are made.
        switches: How they pass max-pools: "own", "uniform", "center" or "corner".
        out: A folder in which work is kept. A run that was stopped, however it was, goes on from there, and other
            channels, another method or a slightly larger top need no second pass over the data.
        size: The side of the square that the network sees, where it takes any.
        precision: "bfloat16" for the pass over the data; winners are looked at again in float32.
        force: Start again where `out` holds another gallery.
        engine: Who works on shards: without it, this process.
        watch: Goes through work and shows how far it is.

    Returns:
        The gallery; for several layers, a dict by their paths.

    Raises:
        BadValue: An argument makes no sense, there are no images, or `out` holds something else.
        FileError: A file cannot be written.
    """
    survey = survey_of(loaded, data, layer, top, score, size, precision, None if force else out)
    watch = watch or unwatched
    explainers = {path: Explainer(survey.model, method, layer=path, switches=switches) for path in survey.layers}
    with _folder(out) as place:
        folder = RunFolder(Path(place))
        with folder.held(_facts(loaded, survey, size), force):
            found = surveyed(survey, folder, engine or Survey.done, watch)
            pairs = zip(found.found, survey.layers, strict=True)
            asked = [_channels(channels, each, path) for each, path in pairs]
            chosen = _winners(survey, folder, found, asked, top, watch)
    shown = preprocess.undo if (preprocess := _preprocess_of(loaded)) else plainly
    galleries = {}
    shapes = {row[0]: tuple(row[1:]) for row in found.shapes.tolist()}
    for number, path in enumerate(survey.layers):
        projector = Projector(explainers[path], survey.pictures, shown, shapes)
        galleries[path] = _gallery(path, asked[number], found, number, *chosen[number], projector, switches)
    return galleries[layer] if isinstance(layer, str) else galleries


def survey_of(
    loaded: Loaded | nn.Module,
    data: object,
    layer: str | Sequence[str],
    top: int,
    score: Score,
    size: int | None,
    precision: str | None,
    out: str | Path | None,
) -> Survey:
    """The first pass that these arguments of `gallery` ask for; `out` is a folder to go on with, if any."""
    layers = (layer,) if isinstance(layer, str) else tuple(dict.fromkeys(layer))
    if top < 1 or not layers:
        raise BadValue("a gallery has at least one layer, and at least one image for each channel")
    function_of(score)
    model = _model_of(loaded)
    for path in layers:
        check_layer(unwrapped(model), path)
    preprocess = _preprocess_of(loaded)
    pictures = opened(data, partial(preprocess, size=size) if preprocess else None)
    before = None if out is None else RunFolder(Path(out)).facts().get(KEPT)
    return Survey(model, pictures, layers, score, _kept(top, precision, before), precision)


def _model_of(loaded: object) -> nn.Module:
    model = loaded if isinstance(loaded, nn.Module) else getattr(loaded, "model", None)
    if not isinstance(model, nn.Module):
        raise BadType(f"a gallery is of an nn.Module or of what attribkit.load gives, not of a {type(loaded)}")
    return model


def surveyed(survey: Survey, folder: RunFolder, engine: Engine, watch: Watch) -> Shard:
    """The first pass: what is missing in the folder is made, and then all of it is merged."""
    missing = survey.missing(folder)
    done = iter(engine(survey, missing))
    for _ in watch(missing, "shards"):
        folder.write("shards", *next(done))
    for number, file in done:  # an engine may come to its end only after its last shard
        folder.write("shards", number, file)
    numbers = range(len(shards(len(survey.pictures))))
    found = merged((folder.read("shards", number) or b"" for number in numbers), survey.keep)
    if not found.found:
        first = found.unreadable[0][1] if found.unreadable else ""
        raise BadValue(f"none of the {len(survey.pictures)} images can be read: {first}")
    return found


def _winners(
    survey: Survey, folder: RunFolder, found: Shard, asked: Sequence[Array], top: int, watch: Watch
) -> list[tuple[Winners, tuple[int, ...]]]:
    """For each layer the winners of the channels asked for, looked at alone; and the channels that are unsure."""
    held = [_of_channels(each.winners, channels) for each, channels in zip(found.found, asked, strict=True)]
    bounds = [bound(each.winners, survey.precision) for each in found.found]
    chosen = [candidates(winners, top, most) for winners, most in zip(held, bounds, strict=True)]
    images = np.unique(np.concatenate([w.image[c] for w, c in zip(held, chosen, strict=True)]))
    rescoring = Rescoring(survey.model, survey.pictures, survey.layers, survey.score, folder)
    rescored = rescoring.of(images, watch)
    result = []
    for number, (winners, may, most) in enumerate(zip(held, chosen, bounds, strict=True)):
        local = _for_channels(rescored, number, asked[number])
        final = confirmed(winners, may, local, number, top, most, survey.pictures.names)
        more = found.found[number].counts.images > len(winners)
        # Where the last one kept may be a winner, so may be one that was not kept; zeros are no winners to miss.
        unsure = may[:, -1] & (winners.value[:, -1] > 0) & more
        result.append((final.filled(top), tuple(asked[number][unsure].tolist())))
    return result


def _for_channels(rescored: Rescored, layer: int, channels: Array) -> Rescored:
    """What was seen of these channels of a layer; of other layers nothing is asked."""
    values, positions = list(rescored.values), list(rescored.positions)
    values[layer], positions[layer] = values[layer][:, channels], positions[layer][:, channels]
    return Rescored(rescored.images, tuple(values), tuple(positions))


def _gallery(
    layer: str,
    channels: Array,
    found: Shard,
    number: int,
    winners: Winners,
    unsure: tuple[int, ...],
    projector: Projector,
    switches: str,
) -> Gallery:
    counts = found.found[number].counts
    counts = type(counts)(
        counts.images, counts.fires[channels], counts.total[channels], _of_channels(counts.sample, channels)
    )
    pictures = projector.pictures
    return Gallery(
        layer=layer,
        channels=channels,
        image=winners.image,
        value=winners.value,
        position=winners.position,
        bands=bands(counts),
        statistics=statistics(counts, winners, pictures.labels, pictures.classes),
        method=projector.explainer.methods[0],
        switches=switches,
        pictures=pictures,
        unreadable=found.unreadable,
        unsure=unsure,
        found=found.found[number],
        projector=projector,
    )


def _of_channels(winners: Winners, channels: Array) -> Winners:
    return Winners(winners.image[channels], winners.value[channels], winners.position[channels])


def _channels(asked: Sequence[int] | None, found: Found, layer: str) -> Array:
    count = len(found.winners.image)
    if asked is None:
        return np.arange(count)
    channels = np.array(list(dict.fromkeys(asked)), np.int64)
    wrong = channels[(channels < 0) | (channels >= count)]
    if len(wrong) or not len(channels):
        what = f"no {wrong[0]}" if len(wrong) else "none asked for"
        raise BadValue(f"the layer {layer!r} has {count} channels, 0 to {count - 1}; there is {what}")
    return channels


def _preprocess_of(loaded: Loaded | nn.Module) -> Any:
    """What makes inputs of pictures, and pictures of inputs, where somebody says what does."""
    return None if isinstance(loaded, nn.Module) else getattr(loaded, "preprocess", None)


def _kept(top: int, precision: str | None, before: int | None) -> int:
    """How many winners of a channel are kept: as many as in a run that goes on, where they are enough."""
    enough = top + SPARE[precision]
    return before if before is not None and before >= enough - SPARE[precision] // 2 else enough


def _facts(loaded: Loaded | nn.Module, survey: Survey, size: int | None) -> dict[str, Any]:
    """What the first pass follows from, in the words in which a difference is reported."""
    return {
        "model": f"{getattr(loaded, 'name', type(survey.model).__name__)} {digest_of_network(survey.model)}",
        "layer": ", ".join(survey.layers),
        "data": f"{len(survey.pictures)} images {survey.pictures.digest}",
        "score": name_of(survey.score),
        "size": size,
        KEPT: survey.keep,
        "precision": survey.precision or "float32",
    }


def _folder(out: str | Path | None) -> AbstractContextManager[str | Path]:
    """The folder that was named, or one that is gone afterwards."""
    if out is None:
        return TemporaryDirectory(prefix="attribkit-gallery-")
    from contextlib import nullcontext

    return nullcontext(out)


def unwatched(things: Sequence[Any], name: str) -> Iterator[Any]:
    yield from things
