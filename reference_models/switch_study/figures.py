"""The figures of "Striving for Simplicity" (Springenberg et al. 2014), made again of any subject of the experiment.

Maps are in the "classic" view, as the paper has them, each at a strength of its own. A map with more pixels than its
tile may show is averaged over squares of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribkit.explaining.explainer import Explainer
from attribkit.explaining.fields import receptive_field
from attribkit.explaining.watching import watched
from attribkit.explaining.windows import Window
from attribkit.metrics.cases import Cases, batches
from attribkit.reference_models.switch_study.subjects import WITH, ChosenUnits, Subject, maps_of
from attribkit.report.pictures import Picture, enlarged, grid, panel, picture

TILE = (
    66  # pixels per side that a tile of a grid takes and shows at most: two for each that conv9 of ConvPool-CNN-C sees
)
COLUMN, DETAIL = 224, 112  # those that a tile of `side_by_side` takes and shows at most
CHANNELS = 8
PHOTOGRAPHS = 4  # that stand side by side where nobody says what is on them; else one of each class does
ORDER = ("deconvnet", "guided", "backprop")
NO_SWITCHES = "no switches"

Tiles = list[Picture]


def lower_layers(net: nn.Module, layer: str, side: int | tuple[int, int], most: int = 64) -> Picture:
    """What each channel of a layer responds to, by a deconvnet without an image and without switches.

    A signal of 1 starts at the unit in the middle, and what the unit sees of the result is a tile. Without max-pools
    the image plays no part in a deconvnet; where there are some, the signal is spread evenly over their windows.
    """
    height, width = (side, side) if isinstance(side, int) else side
    empty = torch.zeros(1, 3, height, width, device=next(net.parameters()).device)
    field = receptive_field(net, layer, empty)
    assert field.shape is not None, f"{layer} gives no map"
    channels, *plane = field.shape
    middle = [size // 2 for size in plane]
    each = empty.repeat(min(channels, most), 1, 1, 1)  # one backward pass for all channels, one image each
    deconvnet = Explainer(net, "deconvnet", layer=layer, switches="uniform")
    maps = deconvnet(each, channel=range(len(each)), at=middle).values
    top, left, bottom, right = field.box(middle)
    tiles = _drawn(maps[..., top:bottom, left:right], TILE)
    return grid(_enlarged(tiles, TILE))


def strongest_patches(
    subject: Subject, layers: Sequence[str], channels: Sequence[int] | None = None, count: int = 10
) -> dict[str, Picture]:
    """For each channel the strongest units, one per image: a row of what they see, and under it guided backprop's maps.

    Without `channels` the first eight. Patches that reach over the image's edge are grey there.
    """
    sheets = {}
    found = _strongest(subject, layers, slice(CHANNELS) if channels is None else list(channels), count)
    for layer, every in found.items():
        windows = receptive_field(subject.net, layer, subject.images[:1]).windows
        tiles: Tiles = []
        for strongest in every:
            maps = maps_of(subject.net, "own", "guided", strongest.units, subject.images[strongest.images])
            seen = _patches(subject.pictures[strongest.images], strongest.places, windows, beyond=0.5)
            explained = _patches(maps, strongest.places, windows, beyond=0.0)
            tiles += _photographs(seen, TILE) + _drawn(explained, TILE)
        sheets[layer] = grid(_enlarged(tiles, TILE), columns=min(count, len(subject.images)))
    return sheets


def side_by_side(subject: Subject, kind: str, rows: Sequence[int]) -> Picture:
    """One row for each of these images: the picture, then each rule without switches and with the image's own."""
    units, pictures, images = subject.units[kind].of(rows), subject.pictures[rows], subject.images[rows]
    columns = {"picture": _photographs(pictures, DETAIL)}
    for rule in ORDER:
        for condition, title in ((subject.without, NO_SWITCHES), (WITH, WITH)):
            net, way = subject.conditions[condition]
            columns[f"{rule}, {title}"] = _drawn(maps_of(net, way, rule, units, images), DETAIL)
    return panel([grid(_enlarged(tiles, COLUMN), columns=1) for tiles in columns.values()], list(columns))


def surest(subject: Subject, labels: Tensor | None) -> list[int]:
    """Of each class the image that the network is surest of, among those that it names rightly.

    Where nobody says what is on the images: those that it is surest of, of as many classes.
    """
    cases = Cases(subject.net, subject.images)
    sure, named = (each.cpu() for each in cases.scores.double().log_softmax(1).max(1))
    right = torch.ones_like(named, dtype=torch.bool) if labels is None else named == labels
    of_class = {int(number): ((named == number) & right).nonzero()[:, 0] for number in named[right].unique()}
    best = [int(members[sure[members].argmax()]) for _, members in sorted(of_class.items())]
    return best if labels is not None else sorted(best, key=lambda row: -float(sure[row]))[:PHOTOGRAPHS]


def figures(subject: Subject, labels: Tensor | None, everything: Subject) -> dict[str, tuple[Picture, str]]:
    """Draw every figure of a trained subject.

    Args:
        subject: The network, and images for the figures that show a few.
        labels: What is on these images.
        everything: The network, and all images among which a channel's strongest are looked for.

    Returns:
        For the stem of each file the picture, and a sentence that says what it shows.
    """
    drawn = {}
    if subject.pooled is not None:  # otherwise there are switches to lack, and the control is what the paper shows
        for layer in _convolutions(subject.net)[:3]:
            drawn[_stem("lower-layers", layer)] = (
                lower_layers(subject.net, layer, (subject.images.shape[2], subject.images.shape[3])),
                f"What {layer} responds to, by a deconvnet without an image and without switches: each tile is a "
                "channel, and shows what its unit in the middle sees.",
            )
    named = dict(subject.net.named_modules())
    layers = ("conv6", "conv9") if "conv6" in named and "conv9" in named else (subject.middle, subject.last)
    for layer, sheet in strongest_patches(everything, layers).items():
        drawn[_stem("strongest-patches", layer)] = (
            sheet,
            f"What excites {layer} most, of {len(everything.images)} images: for each channel, from the first one on, "
            "a row with what its strongest units see, one unit per image and the strongest on the left, and under it a "
            "row with guided backprop's maps.",
        )
    rows = surest(subject, labels)
    which = "one row for each class, with the image that it is surest of among those that it names rightly"
    if labels is None or not rows:  # it names nothing rightly
        rows, which = surest(subject, None), "in the images that it is surest of, no two of one class"
    for kind in ("last", "class"):
        drawn[_stem("side-by-side", kind)] = (side_by_side(subject, kind, rows), compared(subject, kind, which))
    return drawn


def compared(subject: Subject, kind: str, which: str) -> str:
    """Say what `side_by_side` shows of a unit, and in which images."""
    unit = "The class that the network names" if kind == "class" else f"The strongest unit of {subject.last}"
    own = "" if subject.pooled is None else " after strides_to_pools"
    return (
        f"{unit}, {which}: the picture, then {', '.join(ORDER[:-1])} and {ORDER[-1]}, each without switches "
        f"({subject.without}) and with the image's own{own}."
    )


def _stem(figure: str, layer: str) -> str:
    return f"{figure}-{layer.replace('.', '-')}"  # a dot would pass for the start of a suffix


def _convolutions(net: nn.Module) -> list[str]:
    return [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]


@dataclass(frozen=True)
class Strongest:
    """A channel's strongest units, one per image: which images, and where in the layer."""

    units: ChosenUnits
    images: Tensor
    places: list[tuple[int, int]]


def _strongest(
    subject: Subject, layers: Sequence[str], channels: slice | list[int], count: int
) -> dict[str, list[Strongest]]:
    """For each layer, and each of these channels, the strongest units of all."""
    found: dict[str, list[Strongest]] = {}
    for layer, (strengths, places, width) in _maxima(subject, layers).items():
        found[layer] = []
        for channel in torch.arange(strengths.shape[1], device=strengths.device)[channels]:
            images = strengths[:, channel].argsort(descending=True, stable=True)[:count]
            at = places[images, channel]
            units = ChosenUnits(layer, channel.expand(len(images)), at)
            found[layer].append(Strongest(units, images, [divmod(place, width) for place in at.tolist()]))
    return found


@torch.no_grad()
def _maxima(subject: Subject, layers: Sequence[str]) -> dict[str, tuple[Tensor, Tensor, int]]:
    """By layer: how strong each channel is in each image, at which place, and the width that places are counted by."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
    widths = {}

    def look(layer: str, _: Any, output: Tensor) -> None:
        widths[layer] = output.shape[3]
        strength, place = output.flatten(2).max(2)
        seen[layer].append((strength, place))

    with watched([(layer, subject.net.get_submodule(layer)) for layer in layers], look):
        for part in batches(subject.images):
            subject.net(subject.images[part].clone())
    whole = {layer: tuple(map(torch.cat, zip(*parts, strict=True))) for layer, parts in seen.items()}
    return {layer: (strengths, places, widths[layer]) for layer, (strengths, places) in whole.items()}


def _patches(values: Tensor, places: list[tuple[int, int]], windows: Sequence[Window], beyond: float) -> Tensor:
    """What the unit of each image sees of its values, and `beyond` where it sees past the edge."""
    rows, columns = windows
    padded = F.pad(values, (*_padding(columns), *_padding(rows)), value=beyond)
    return torch.stack(
        [image[:, _span(rows, y), _span(columns, x)] for image, (y, x) in zip(padded, places, strict=True)]
    )


def _padding(window: Window) -> tuple[int, int]:
    """So many pixels before and behind that no unit sees past them."""
    if window.before is None or window.after is None:
        return 0, 0
    return window.before, window.before + window.after


def _span(window: Window, i: int) -> slice:
    """What unit i sees of pixels that were padded: of one length for all units, the whole image where it has no end."""
    if window.before is None or window.after is None:
        return slice(window.size)
    return slice(i * window.stride, i * window.stride + window.before + window.after)


def _drawn(maps: Tensor, most: int) -> Tiles:
    return [picture(values.cpu().numpy(), "classic") for values in _averaged(maps, most)]


def _photographs(pictures: Tensor, most: int) -> Tiles:
    return list((_averaged(pictures, most) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def _averaged(values: Tensor, most: int) -> Tensor:
    """The means over squares of so many pixels that at most `most` a side are left."""
    return F.avg_pool2d(values, math.ceil(max(values.shape[2:]) / most), ceil_mode=True)


def _enlarged(tiles: Tiles, place: int) -> Tiles:
    """By one whole number, to at most the size of their place."""
    factor = max(place // max(tiles[0].shape[:2]), 1)
    return [enlarged(tile, factor) for tile in tiles]
