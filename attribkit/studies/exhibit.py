"""A gallery as files: a page, the paper's sheets, tables."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attribkit.files import pack, table, write_whole, written_whole
from attribkit.report import mosaic, pictures
from attribkit.report.gallery_page import GROUP, page, script_of
from attribkit.report.pictures import Picture
from attribkit.studies.gallery import Gallery
from attribkit.studies.projecting import Projection
from attribkit.studies.rescoring import Watch
from attribkit.studies.statistics import EXAMPLES, QUANTILES

BANDS = tuple(f"p{quantile * 100:g}" for quantile in QUANTILES for _ in range(EXAMPLES))


def grouped(gallery: Gallery) -> list[range]:
    """Part the rows of a gallery, sixteen at a time.

    Args:
        gallery: Whose rows.

    Returns:
        The rows of each group.
    """
    rows = len(gallery.channels)
    return [range(start, min(start + GROUP, rows)) for start in range(0, rows, GROUP)]


def projected(gallery: Gallery, rows: Sequence[int]) -> list[list[Projection]]:
    """Project the winners of some rows, all at once.

    Args:
        gallery: Whose winners.
        rows: Which of its channels, by their places in `gallery.channels`.

    Returns:
        For each row the projections, the strongest winner first.
    """
    places = [gallery.places(row) for row in rows]
    every = iter(gallery.projector([place for row in places for place in row]))
    return [[next(every) for _ in row] for row in places]


# ------------------------------------------------------------------------------------------------------------ the page


@dataclass(frozen=True)
class Look:
    """How tiles are made: the square of pixels that they show, their side, and how sheets are encoded."""

    window: int
    side: int
    quality: int


def write_page(gallery: Gallery, folder: Path, facts: Mapping[str, str], watch: Watch) -> Path:
    """Write a page in a folder of its own; sheets that are there and show these winners are not made again.

    Args:
        gallery: What to show.
        folder: Of the page; made if it is missing.
        facts: How the gallery was made, for the page's foot.
        watch: Shows progress.

    Returns:
        The file to open.
    """
    boxes = _boxes(gallery)
    most = sum(len(of_row["w"]) * 2 + len(of_row["b"]) for of_row in boxes)
    every = [tuple(box) for of_row in boxes for kind in ("w", "b") for box in of_row[kind]]
    side = mosaic.side_of(every, most)  # type: ignore[arg-type]
    window = max(max(bottom - top, right - left) for top, left, bottom, right in every)
    look = Look(window, side, mosaic.quality_of(side, most))
    for number, rows in enumerate(watch(grouped(gallery), "sheets")):
        _write_sheets(gallery, folder / "sheets", number, rows, look)
    index = _index(gallery, boxes, side, facts)
    write_whole(folder / "index.js", script_of(index))
    write_whole(folder / "index.html", page(index))
    return folder / "index.html"


def _boxes(gallery: Gallery) -> list[dict[str, list[tuple[int, ...]]]]:
    """What the winners and the examples of each row see."""
    rows = range(len(gallery.channels))
    places = [(gallery.places(row), gallery.places(row, bands=True)) for row in rows]
    every = iter(gallery.projector.boxes([place for pair in places for held in pair for place in held]))
    return [{"w": [next(every) for _ in winners], "b": [next(every) for _ in bands]} for winners, bands in places]


def _write_sheets(gallery: Gallery, folder: Path, number: int, rows: Sequence[int], look: Look) -> None:
    held = [[*gallery.places(row), *gallery.places(row, bands=True)] for row in rows]
    key = hashlib.sha256(f"{gallery.method} {gallery.switches} {look} {held}".encode()).hexdigest()
    made = folder / f"{number:03d}.key"
    if made.is_file() and made.read_text() == key:
        return
    window, side = look.window, look.side
    winners = projected(gallery, rows)
    examples = iter(gallery.projector.patches([p for row in rows for p in gallery.places(row, bands=True)]))
    patches, maps = [], []
    for row, of_row in zip(rows, winners, strict=True):
        others = [next(examples) for _ in gallery.places(row, bands=True)]
        blank = [np.full((side, side, 3), mosaic.BETWEEN, np.uint8)] * (gallery.image.shape[1] - len(of_row))
        patches.append([*_tiles(of_row, window, side, _patch), *blank, *_tiles(others, window, side, _patch)])
        maps.append(_tiles(of_row, window, side, _map))
    top = gallery.image.shape[1]
    columns = top + gallery.bands.image.shape[1]
    write_whole(
        folder / f"{number:03d}-patch.webp", mosaic.encoded(mosaic.sheet_of(patches, columns, side), look.quality)
    )
    write_whole(folder / f"{number:03d}-map.webp", mosaic.encoded(mosaic.sheet_of(maps, top, side), look.quality))
    write_whole(made, key.encode())


def _tiles(
    of_row: Sequence[Projection], window: int, side: int, drawn: Callable[[Projection], Picture]
) -> list[Picture]:
    return [mosaic.tile(drawn(projection), projection.box, window, side) for projection in of_row]


def _patch(projection: Projection) -> Picture:
    return projection.patch


def _map(projection: Projection) -> Picture:
    return pictures.picture(projection.map, "classic")


def _index(gallery: Gallery, boxes: Sequence[Mapping[str, Any]], side: int, facts: Mapping[str, str]) -> dict[str, Any]:
    held, used = gallery.pictures, set(gallery.image.ravel().tolist()) | set(gallery.bands.image.ravel().tolist())
    images = sorted(used - {-1})
    return {
        "layer": gallery.layer,
        "model": facts.get("model", ""),
        "method": gallery.method,
        "switches": gallery.switches,
        "images": len(held) - len(gallery.unreadable),
        "side": side,
        "top": gallery.image.shape[1],
        "columns": gallery.image.shape[1] + gallery.bands.image.shape[1],
        "group": GROUP,
        "labelled": held.labels is not None,
        "names": {number: held.names[number] for number in images},
        "labels": {number: held.label(number) for number in images} if held.labels is not None else {},
        "facts": dict(facts),
        "unreadable": [f"{held.names[number]}: {why}" for number, why in gallery.unreadable],
        "channels": [_of_channel(gallery, row, of_row) for row, of_row in enumerate(boxes)],
    }


def _of_channel(gallery: Gallery, row: int, boxes: Mapping[str, Any]) -> dict[str, Any]:
    held, channel = gallery.statistics, int(gallery.channels[row])
    entropy = float(held.entropy[row])
    return {
        "c": channel,
        "fires": _short(held.fires[row]),
        "mean": _short(held.mean[row]),
        "q": [_short(value) for value in held.quantiles[row]],
        "h": held.histogram[row].tolist(),
        "lo": _short(held.edges[row, 0]),
        "hi": _short(held.edges[row, 1]),
        "classes": held.classes[row],
        "entropy": 0 if math.isnan(entropy) else _short(entropy),
        "dead": int(held.dead[row]),
        "unsure": int(channel in gallery.unsure),
        "w": _entries(gallery.places(row), boxes["w"]),
        "b": _entries(gallery.places(row, bands=True), boxes["b"]),
    }


def _entries(places: Sequence[Any], boxes: Sequence[Sequence[int]]) -> list[list[Any]]:
    return [
        [place.image, _short(place.value), *(place.position or (-1, -1)), *box]
        for place, box in zip(places, boxes, strict=True)
    ]


def _short(value: Any) -> float:
    return float(f"{float(value):.6g}")


# ------------------------------------------------------------------------------------------------- sheets on paper

_BLOCKS, _LEAST, _MARGIN = 3, 72, 24


def write_png(gallery: Gallery, path: Path, watch: Watch) -> list[Path]:
    """Write the paper's sheet: for each channel its maps beside its patches.

    Args:
        gallery: What to show.
        path: The file; where there are more than sixteen channels, its name gets numbers.
        watch: Shows progress.

    Returns:
        The files, one per sixteen channels.
    """
    groups = grouped(gallery)
    paths = []
    for number, rows in enumerate(watch(groups, "sheets")):
        name = path if len(groups) == 1 else path.with_name(f"{path.stem}-{number:03d}{path.suffix}")
        pictures.write_png(name, _sheet(gallery, rows))
        paths.append(name)
    return paths


def _sheet(gallery: Gallery, rows: Sequence[int]) -> Picture:
    winners = projected(gallery, rows)
    boxes = [projection.box for of_row in winners for projection in of_row]
    window = max(max(box[2] - box[0], box[3] - box[1]) for box in boxes)
    blocks = [_block(gallery, row, of_row, window) for row, of_row in zip(rows, winners, strict=True)]
    wide = min(_BLOCKS, len(blocks))
    height, width = (max(block.shape[axis] for block in blocks) + _MARGIN for axis in (0, 1))
    sheet = np.full((height * -(-len(blocks) // wide) + _MARGIN, width * wide + _MARGIN, 3), 255, np.uint8)
    for number, block in enumerate(blocks):
        top, left = (_MARGIN + at * size for at, size in zip(divmod(number, wide), (height, width), strict=True))
        sheet[top : top + block.shape[0], left : left + block.shape[1]] = block
    return sheet


def _block(gallery: Gallery, row: int, winners: Sequence[Projection], window: int) -> Picture:
    """A caption, and below it a square of maps beside a square of patches."""
    factor = max(1, -(-_LEAST // window))
    columns = math.ceil(math.sqrt(gallery.image.shape[1]))
    squares = [
        pictures.grid([pictures.enlarged(tile, factor) for tile in _tiles(winners, window, window, drawn)], columns)
        for drawn in (_map, _patch)
    ]
    pair = np.concatenate([squares[0], np.full((len(squares[0]), 8, 3), 255, np.uint8), squares[1]], 1)
    caption = np.full((22, pair.shape[1], 3), 255, np.uint8)
    fires = gallery.statistics.fires[row]
    words = f"fires on {100 * fires:.3g}% of images" if fires else "dead"
    pictures.write(caption, [f"{gallery.layer} {gallery.channels[row]}: {words}"], 2, 0)
    return np.concatenate([caption, pair])


# ---------------------------------------------------------------------------------------------------------- tables


def write_csv(gallery: Gallery, path: Path) -> None:
    """Write a table: a line for each winner, and for each example of a band.

    Args:
        gallery: What to write.
        path: The file.
    """
    columns = "layer channel kind rank image name label value row column top left bottom right"
    lines: list[list[Any]] = [columns.split()]
    for row, of_row in enumerate(_boxes(gallery)):
        for kind, bands in (("w", False), ("b", True)):
            for rank, (place, box) in enumerate(zip(gallery.places(row, bands), of_row[kind], strict=True)):
                name, label = gallery.names[place.image], gallery.pictures.label(place.image) or ""
                what = BANDS[rank] if bands else "top"
                where = place.position or ("", "")
                value = f"{place.value:.9g}"
                lines.append([gallery.layer, place.channel, what, rank, place.image, name, label, value, *where, *box])
    write_whole(path, table(lines))


def write_npz(gallery: Gallery, path: Path, watch: Watch) -> None:
    """Write every number of a gallery: winners, bands, statistics, and the maps, one array per winner.

    Args:
        gallery: What to write.
        path: The file.
        watch: Shows progress.
    """
    with written_whole(path) as file:
        pack(file, _arrays(gallery, watch))


def _arrays(gallery: Gallery, watch: Watch) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    held = gallery.statistics
    names = {int(image): gallery.names[image] for image in np.unique(gallery.image) if image >= 0}
    facts = {"layer": gallery.layer, "method": gallery.method, "switches": gallery.switches, "names": names}
    yield "facts", np.array(json.dumps(facts, ensure_ascii=True))
    for name in ("channels", "image", "value", "position"):
        yield name, getattr(gallery, name)
    for name, array in gallery.bands.arrays().items():
        yield f"band_{name}", array
    for name in ("fires", "mean", "quantiles", "histogram", "edges", "entropy"):
        yield name, getattr(held, name)
    for rows in watch(grouped(gallery), "maps"):
        for row, winners in zip(rows, projected(gallery, rows), strict=True):
            channel = gallery.channels[row]
            yield f"box.{channel}", np.array([projection.box for projection in winners], np.int32)
            for rank, projection in enumerate(winners):
                yield f"map.{channel}.{rank}", projection.map
