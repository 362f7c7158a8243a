"""What is done already: a record per image beside the results, so that a second run does only what is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attribkit.report.shown import Shown

FOLDER = ".done"


@dataclass(frozen=True)
class Done:
    """One image, explained: what is said of it, its files with their digests, and the key of its record."""

    key: str
    explained: list[dict[str, Any]]
    words: list[str]
    cautions: list[str]
    files: dict[str, str]

    def is_there(self) -> bool:
        """Whether the files are as they were written."""
        return all(Path(path).is_file() and digest(Path(path)) == known for path, known in self.files.items())


@dataclass(frozen=True)
class Ledger:
    """Records of images in a folder.

    Args:
        folder: Where records are.
        question: All that results follow from, but for the image.
        shows: Whether what a page shows is kept, too.
    """

    folder: Path
    question: str
    shows: bool

    def key(self, name: str, content: bytes) -> str:
        """Under which an image's record is found: a digest of all that its results follow from."""
        return hashlib.sha256(f"{self.question}\n{name}\n".encode("utf-8", "backslashreplace") + content).hexdigest()[
            :32
        ]

    def find(self, key: str) -> Done | None:
        """The record of an image whose results are all there, unchanged."""
        if not self._record(key).is_file() or (self.shows and not self._parts(key).is_file()):
            return None
        found = Done(key, **json.loads(self._record(key).read_bytes()))
        return found if found.is_there() else None

    def keep(self, done: Done, shown: Sequence[Shown]) -> None:
        """Write what `find` and `shown` read; the record last, as it stands for all."""
        from attribkit.files import write_whole

        if self.shows:
            write_whole(self._parts(done.key), _packed(shown))
        record = {name: value for name, value in asdict(done).items() if name != "key"}
        write_whole(self._record(done.key), json.dumps(record).encode("utf-8", "surrogateescape"))

    def shown(self, key: str) -> Iterator[Shown]:
        """What a page shows of an image."""
        yield from _unpacked(self._parts(key))

    def _record(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _parts(self, key: str) -> Path:
        return self.folder / f"{key}.npz"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _packed(shown: Sequence[Shown]) -> bytes:
    """Pictures and maps as arrays, all else as JSON."""
    import numpy as np

    from attribkit.files import compressed_npz

    described = [
        {
            "name": each.name,
            "unit": asdict(each.unit),
            "label": each.label,
            "sites": dict(each.sites),
            "gallery": each.gallery,
        }
        for each in shown
    ]
    arrays = {"described": np.frombuffer(json.dumps(described).encode(), np.uint8)}
    for number, each in enumerate(shown):
        arrays[f"{number} picture"] = each.picture
        arrays |= {f"{number} map {column}": values for column, values in each.maps.items()}
    return compressed_npz(**arrays)


def _unpacked(path: Path) -> Iterator[Shown]:
    import numpy as np

    from attribkit.report.shown import Shown
    from attribkit.units import Unit

    with np.load(path, allow_pickle=False) as arrays:
        for number, described in enumerate(json.loads(arrays["described"].tobytes())):
            unit: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in described["unit"].items()
            }
            start = f"{number} map "
            maps = {name.removeprefix(start): arrays[name] for name in arrays.files if name.startswith(start)}
            words = {name: described[name] for name in ("name", "label", "sites", "gallery")}
            yield Shown(picture=arrays[f"{number} picture"], maps=maps, unit=Unit(**unit), **words)
