"""The processes that `torchrun` started, sharing the shards of a study."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from attribkit.studies.folder import RunFolder
from attribkit.studies.gallery import Engine, survey_of
from attribkit.studies.survey import Survey

_PATIENCE = timedelta(days=7)  # a rank waits for the slowest


def ranks() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def among_ranks(loaded: Any, **asked: Any) -> Iterator[Engine | None]:
    """For the first process an engine that shares shards with the others; the others do theirs, and get None.

    Args:
        loaded: What `attribkit.load` gives.
        **asked: What `attribkit.gallery` is asked.
    """
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        rank, folder = dist.get_rank(), RunFolder(Path(asked["out"]))
        if rank == 0:
            yield _First(folder)
        else:
            dist.barrier()  # the first holds the folder now
            survey = survey_of(loaded, **{key: asked[key] for key in _NEEDED})
            missing = survey.missing(folder)
            for number, data in survey.done(_share(missing, rank)):
                folder.write("shards", number, data)
            dist.barrier()
            yield None
    finally:
        dist.destroy_process_group()


_NEEDED = ("data", "layer", "top", "score", "size", "precision", "out")


class _First:
    """The engine of the first process."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.alone = False

    def __call__(self, survey: Survey, missing: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Its own shards; then those that the others have written meanwhile, who come once and then leave."""
        if self.alone:
            yield from survey.done(missing)
            return
        self.alone = True
        mine = _share(missing, 0)
        dist.barrier()
        yield from survey.done(mine)
        dist.barrier()
        for number in set(missing) - set(mine):
            yield number, self.folder.read("shards", number) or b""


def _share(missing: Sequence[int], rank: int) -> list[int]:
    """By their own numbers, so that it does not matter who looked when."""
    return [number for number in missing if number % dist.get_world_size() == rank]
