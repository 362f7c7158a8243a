"""How far long work is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from attribkit.reference_models.training.loop import Job


T = TypeVar("T")

_SHOWN_AFTER = 2  # seconds


def tracked(items: Iterable[T], name: str, quiet: bool, count: int | None = None) -> Iterator[T]:
    """The items, with a bar on a terminal once they take long; `count` of them, where they cannot be counted."""
    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    start = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=hidden)
    task = bar.add_task(name, total=len(items) if isinstance(items, Sized) else count)
    try:
        for item in items:
            yield item
            bar.advance(task)
            if not hidden and time.monotonic() - start > _SHOWN_AFTER:
                bar.start()
    finally:
        bar.stop()


class TrainingProgress:
    """One line per epoch with its metrics, on standard error; between them, on a terminal, a bar."""

    def __init__(self, job: Job, quiet: bool) -> None:
        self.job = job
        self.quiet = quiet
        self.epochs = job.recipe.epochs
        self.name = f"{job.model} seed {job.seed}"
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        self.bar = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        per_epoch = max(1, len(job.data.train) // job.recipe.batch) * job.recipe.batch
        self.task = self.bar.add_task(self.name, total=per_epoch, rate="")
        self.start, self.seen = time.monotonic(), 0

    def __enter__(self) -> TrainingProgress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def step(self, images: int) -> None:
        self.seen += images
        rate = self.seen / max(time.monotonic() - self.start, 1e-6)
        self.bar.update(self.task, advance=images, rate=f"{rate:,.0f} images/s")

    def epoch(self, metrics: dict[str, Any]) -> None:
        self.bar.reset(self.task, rate="")
        self.start, self.seen = time.monotonic(), 0
        if self.quiet:
            return
        left = (self.epochs - metrics["epoch"]) * metrics["seconds"] / 60
        end = "stopped learning: starting again with another seed" if metrics.get("dead") else f"{left:.0f} min left"
        self.bar.console.print(
            f"{self.name}  epoch {metrics['epoch']}/{self.epochs}  loss {metrics['loss']:.4f}  "
            f"error {metrics['test_error']:.2f}%  {metrics['rate']:,.0f} images/s  {end}",
            highlight=False,
            soft_wrap=True,
        )
        sys.stderr.flush()
