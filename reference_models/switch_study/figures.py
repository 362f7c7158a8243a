"""The figures of "Striving for Simplicity" (Springenberg et al. 2014), made again of any subject of the experiment.

Maps are in the "classic" view, as the paper has them, each at a strength of its own. A map with more pixels than its
tile may show is averaged over squares of them. A PNG has at most `LIMIT` bytes: tiles are then enlarged less than
there is room for, and where even that is too much the last rows are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attribkit.engine.rewriting import rewrite
from attribkit.explaining.explainer import Explainer
from attribkit.explaining.fields import receptive_field
from attribkit.explaining.windows import Window
from attribkit.metrics.cases import batches
from attribkit.reference_models.switch_study.subjects import WITH, ChosenUnits, Subject, maps_of
from attribkit.reference_models.switch_study.validation import RULES
from attribkit.report.many import strips
from attribkit.report.pictures import Picture, encode_png, enlarged, grid, panel, picture

TILE = (
    66  # pixels per side that a tile of a grid takes and shows at most: two for each that conv9 of ConvPool-CNN-C sees
)
COLUMN, DETAIL = 224, 112  # those that a tile of `side_by_side` takes and shows at most
LIMIT = 700_000
CHANNELS = 8

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
    return _fitting([tiles], TILE, lambda rows: grid(rows[0]))


def strongest_patches(subject: Subject, layer: str, channels: Sequence[int] | None = None, count: int = 10) -> Picture:
    """For each channel the strongest units, one per image: a row of what they see, and under it guided backprop's maps.

    Without `channels` the first eight. Patches that reach over the image's edge are grey there.
    """
    windows = receptive_field(subject.net, layer, subject.images[:1]).windows
    rows: list[Tiles] = []
    for strongest in _strongest(subject, layer, slice(CHANNELS) if channels is None else list(channels), count):
        maps = maps_of(subject.net, "own", "guided", strongest.units, subject.images[strongest.images])
        seen = _patches(subject.pictures[strongest.images], strongest.places, windows, beyond=0.5)
        explained = _patches(maps, strongest.places, windows, beyond=0.0)
        rows.append(_photographs(seen, TILE) + _drawn(explained, TILE))
    columns = min(count, len(subject.images))
    return _fitting(rows, TILE, lambda shown: grid([tile for row in shown for tile in row], columns))


def side_by_side(subject: Subject, kind: str, count: int = 4) -> Picture:
    """One row per image: the picture, the rules without switches, and the rules with the image's own."""
    few = subject.first(count)
    columns = {"picture": _photographs(few.pictures, DETAIL)}
    for condition in (subject.without, WITH):
        net, way = subject.conditions[condition]
        for rule in RULES:
            maps = maps_of(net, way, rule, few.units[kind], few.images)
            columns[f"{rule}, {condition}"] = _drawn(maps, DETAIL)

    def draw(rows: list[Tiles]) -> Picture:
        return panel(strips(rows), list(columns))

    return _fitting([list(row) for row in zip(*columns.values(), strict=True)], COLUMN, draw)


def figures(subject: Subject) -> dict[str, tuple[Picture, str]]:
    """Every figure of a trained subject by the stem of its file, with a sentence that says what it shows."""
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
    for layer in layers:
        drawn[_stem("strongest-patches", layer)] = (
            strongest_patches(subject, layer),
            f"What excites {layer} most: for each channel, from the first one on, a row with what its strongest units "
            "see, one unit per image and the strongest on the left, and under it a row with guided backprop's maps.",
        )
    the_unit = {"last": f"the strongest unit of {subject.last}", "class": "the class that the network names"}
    for kind, unit in the_unit.items():
        drawn[_stem("side-by-side", kind)] = (side_by_side(subject, kind), _compared(subject, unit))
    return drawn


def _compared(subject: Subject, unit: str) -> str:
    own = "with the image's own" if subject.pooled is None else "with the image's own after strides_to_pools"
    return (
        f"{unit[0].upper()}{unit[1:]}, one row per image: the picture, then {', '.join(RULES[:-1])} and {RULES[-1]} "
        f"without switches ({subject.without}), then the same three {own}."
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


@torch.no_grad()
def _strongest(subject: Subject, layer: str, channels: slice | list[int], count: int) -> list[Strongest]:
    """For each channel its strongest units of all."""
    net = rewrite(subject.net, "backprop")
    strongest = []
    for part in batches(subject.images):
        outputs = net.forward_to(layer, subject.images[part].clone())
        strongest.append(outputs[:, channels].flatten(2).max(2))
    strengths, places = (torch.cat(parts) for parts in zip(*strongest, strict=True))
    numbers = torch.arange(outputs.shape[1], device=outputs.device)[channels]
    return [
        Strongest(
            ChosenUnits(layer, numbers[k].expand(len(images)), places[images, k]),
            images,
            [divmod(place, outputs.shape[3]) for place in places[images, k].tolist()],
        )
        for k, images in enumerate(strengths.argsort(dim=0, descending=True, stable=True)[:count].T)
    ]


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


def _fitting(rows: list[Tiles], place: int, draw: Callable[[list[Tiles]], Picture]) -> Picture:
    """Tiles enlarged by a whole number to at most the size of their place, so that the PNG is within the limit."""
    largest = max(place // max(rows[0][0].shape[:2]), 1)
    ways = [(factor, len(rows)) for factor in range(largest, 0, -1)]
    ways += [(1, kept) for kept in range(len(rows) - 1, 0, -1)]
    for factor, kept in ways:
        sheet = draw([[enlarged(tile, factor) for tile in row] for row in rows[:kept]])
        if len(encode_png(sheet)) <= LIMIT:
            break
    return sheet
