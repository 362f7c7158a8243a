"""Which pictures are meant by the words on the command line, and what their results are called."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attribkit.errors import BadValue

if TYPE_CHECKING:
    from attribkit.adapters.images import RGB


@dataclass(frozen=True)
class GivenImage:
    """A picture that is to be read, and the name of what is made of it."""

    path: str
    stem: str

    @property
    def name(self) -> str:
        """What it is called where it is shown."""
        return "standard input" if self.path == "-" else Path(self.path).name

    def content(self) -> bytes:
        """The bytes of its file; standard input can be read only once."""
        from attribkit.adapters.images import image_bytes

        return sys.stdin.buffer.read() if self.path == "-" else image_bytes(self.path)

    def decoded(self, content: bytes) -> RGB:
        from attribkit.adapters.images import decode_image

        return decode_image(content, "standard input" if self.path == "-" else self.path)

    def read(self) -> RGB:
        return self.decoded(self.content())


def given_images(words: Iterable[str], recursive: bool = False, out: Path | None = None) -> list[GivenImage]:
    """Files, folders (their images), patterns that the shell has not resolved, and - for standard input.

    With `recursive`, folders in folders, too, but not `out`, the one of results; results then have the same folders.
    Each image has a stem of its own, also when two files in different folders have the same name.
    """
    images: list[GivenImage] = []
    taken: set[str] = set()
    for path, base in (found for word in words for found in _found(word, recursive, out)):
        stem, number = base, 2
        while stem in taken:
            stem, number = f"{base}-{number}", number + 1
        taken.add(stem)
        images.append(GivenImage(path, stem))
    return images


def _found(word: str, recursive: bool, out: Path | None) -> list[tuple[str, str]]:
    """The images that a word means, each with what its results are to be called."""
    path = Path(word)
    if word == "-":
        return [(word, "stdin")]
    if path.is_dir():
        return [(str(entry), str(entry.relative_to(path).with_suffix(""))) for entry in _inside(path, recursive, out)]
    if glob.has_magic(word) and not path.is_file():
        matching = sorted(entry for entry in glob.glob(word, recursive=True) if not Path(entry).is_dir())
        if not matching:
            raise BadValue(f"nothing matches {word}")
        return [(entry, Path(entry).stem) for entry in matching]
    return [(word, path.stem)]  # reading it will say what is wrong


def _inside(folder: Path, recursive: bool, out: Path | None) -> list[Path]:
    from attribkit.adapters.images import ENDINGS

    entries = folder.rglob("*") if recursive else folder.iterdir()
    images = sorted(entry for entry in entries if entry.suffix.lower() in ENDINGS and not entry.is_dir())
    if recursive and out is not None:
        images = [image for image in images if not image.resolve().is_relative_to(out.resolve())]
    if not images:
        deeper = "" if recursive else ": --recursive looks in its folders, too"
        raise BadValue(f"{folder} is a folder without images{deeper}")
    return images
