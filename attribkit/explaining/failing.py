"""Networks that cannot take what they are given, distinguished from bugs of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from attribkit.errors import AttribkitError

_OURS, _TORCHS = Path(__file__).parents[1], Path(torch.__file__).parent
_OF_TORCH = (RuntimeError, ValueError, IndexError)


class NetworkFails(Exception):
    """A network cannot take what it was given."""


@contextmanager
def tried() -> Iterator[None]:
    """Run a network on what it may not be made for: however it fails, `NetworkFails` comes out.

    A network may raise anything. So may torch when we call it in the network's name, but then it speaks of shapes and
    values. What the library raises on purpose is passed on as it is, and so is what else comes from our code: a bug.
    """
    try:
        yield
    except AttribkitError:
        raise
    except Exception as error:  # in whatever way a network fails; see above
        if _came_from(error).is_relative_to(_OURS) and not isinstance(error, _OF_TORCH):
            raise
        raise NetworkFails(f"{type(error).__name__}: {error}") from error


def _came_from(error: Exception) -> Path:
    """The file that raised it, or that called what of torch did."""
    found, trace = Path(), error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        found = found if file.is_relative_to(_TORCHS) else file
        trace = trace.tb_next
    return found
