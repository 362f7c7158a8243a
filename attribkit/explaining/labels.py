"""Names of classes: which class does somebody mean?"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from attribkit.errors import BadValue, Unclear

_LISTED = 12  # candidates that a message lists; more would hide the first ones


def class_number(text: str, labels: Sequence[str]) -> int:
    """The number of the class that a text names.

    Args:
        text: A whole label, one of its synonyms (they are separated by commas), or whole words of one label only.
        labels: The names of the classes, in order.

    Returns:
        Its number.

    Raises:
        Unclear: No class fits, or several do.
    """
    wanted = _plain(text)
    names = [[_plain(label), *map(_plain, label.split(","))] for label in labels]
    exact = [number for number, synonyms in enumerate(names) if wanted in synonyms]
    word = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
    meant = exact or [number for number, synonyms in enumerate(names) if wanted and word.search(synonyms[0])]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise Unclear(f"{text!r} names {len(meant)} classes; give the number of one of them:{_lines(meant, labels)}")
    near = _near(wanted, names)
    raise Unclear(
        f"no class is called {text!r}; {f'the nearest:{_lines(near, labels)}' if near else 'give its number'}"
    )


def numbered(target: object, labels: Sequence[str] | None) -> object:
    """A target, or targets, with a number for every name in it."""
    if isinstance(target, str):
        if not labels:
            raise BadValue(
                f"the names of the classes are not known: give the number of {target!r}, or pass what load() returns"
            )
        return class_number(target, labels)
    if isinstance(target, Sequence):
        return [numbered(each, labels) for each in target]
    return target


def _plain(text: str) -> str:
    return " ".join(text.lower().replace("_", " ").split())


def _near(wanted: str, names: Sequence[Sequence[str]]) -> list[int]:
    """Classes whose names look like the wanted one: at most five, the nearest first."""
    of_name = {name: number for number, synonyms in reversed(list(enumerate(names))) for name in synonyms}
    begun = [name for name in of_name if wanted and name.startswith(wanted)]
    return list(dict.fromkeys(of_name[name] for name in [*begun, *difflib.get_close_matches(wanted, of_name, 5)]))[:5]


def _lines(numbers: Sequence[int], labels: Sequence[str]) -> str:
    lines = "".join(f"\n  {number:>4}  {labels[number]}" for number in numbers[:_LISTED])
    return lines if len(numbers) <= _LISTED else f"{lines}\n  and {len(numbers) - _LISTED} more"
