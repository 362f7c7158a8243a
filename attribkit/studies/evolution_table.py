"""An evolution as a table, and as a document for programs."""

from __future__ import annotations

from typing import Any

from attribkit import files
from attribkit.studies.evolution import Evolution, Film
from attribkit.studies.evolution_picture import measured

_COLUMNS = "layer channel checkpoint image name label value row column top left bottom right fires changed"


def table(evolution: Evolution) -> bytes:
    """A line for each channel at each checkpoint; empty where the channel fires on no image.

    Args:
        evolution: What to write.

    Returns:
        The bytes of a .csv file.
    """
    lines = (
        _line(evolution, film, row, column)
        for film in evolution.films.values()
        for row in range(len(film.channels))
        for column in range(len(evolution.numbers))
    )
    return files.table([_COLUMNS.split(), *lines])


def _line(evolution: Evolution, film: Film, row: int, column: int) -> list[Any]:
    tile, image = film.tiles[row][column], int(film.image[row, column])
    found: list[Any] = [""] * 10
    if tile is not None:
        label = "" if evolution.labels is None else evolution.labels[image]
        position = tile.place.position or ("", "")
        found = [image, evolution.names[image], label, f"{tile.place.value:.9g}", *position, *tile.box]
    end = [repr(float(film.fires[row, column])), int(film.changed[row, column])]
    return [film.layer, film.channels[row], evolution.numbers[column], *found, *end]


def document(evolution: Evolution) -> dict[str, Any]:
    """The same for `--json`, with how fast each layer settles.

    Args:
        evolution: What to describe.

    Returns:
        What `json.dumps` takes.
    """
    return {
        "checkpoints": [
            {"number": number, "file": name}
            for number, name in zip(evolution.numbers, evolution.checkpoints, strict=True)
        ],
        "method": evolution.method,
        "switches": evolution.switches,
        "images": len(evolution.names),
        "unreadable": [{"image": evolution.names[number], "error": why} for number, why in evolution.unreadable],
        "layers": [_of_layer(evolution, film) for film in evolution.films.values()],
    }


def _of_layer(evolution: Evolution, film: Film) -> dict[str, Any]:
    return {
        "layer": film.layer,
        "settling": measured(film),
        "unsure": [{"checkpoint": number, "channel": channel} for number, channel in film.unsure],
        "channels": [
            {
                "channel": int(channel),
                "winners": [None if tile is None else tile.place.as_data(evolution.names) for tile in tiles],
                "changed": changed.tolist(),
            }
            for channel, tiles, changed in zip(film.channels, film.tiles, film.changed, strict=True)
        ],
    }
