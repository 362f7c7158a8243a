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

    def read(self) -> RGB:
        from attribkit.adapters.images import decode_image, read_image

        if self.path == "-":
            return decode_image(sys.stdin.buffer.read(), "standard input")
        return read_image(self.path)


def given_images(words: Iterable[str]) -> list[GivenImage]:
    """Files, folders (their images), patterns that the shell has not resolved, and - for standard input.

    Each has a stem of its own, also when two files in different folders have the same name.
    """
    images: list[GivenImage] = []
    taken: set[str] = set()
    for path in (path for word in words for path in _paths(word)):
        stem = base = "stdin" if path == "-" else Path(path).stem
        number = 2
        while stem in taken:
            stem, number = f"{base}-{number}", number + 1
        taken.add(stem)
        images.append(GivenImage(path, stem))
    return images


def _paths(word: str) -> list[str]:
    from attribkit.adapters.images import ENDINGS

    path = Path(word)
    if word == "-" or path.is_file():
        return [word]
    if path.is_dir():
        inside = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in ENDINGS)
        if not inside:
            raise BadValue(f"{word} is a folder without images")
        return [str(entry) for entry in inside]
    if glob.has_magic(word):
        matching = sorted(glob.glob(word, recursive=True))
        if not matching:
            raise BadValue(f"nothing matches {word}")
        return matching
    return [word]  # reading it will say what is wrong
