"""Time and memory of work that is done in turns, so that whatever else a machine does falls on all of it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """The median of some ratios, and the quartiles on both sides of it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: list[float]) -> Ratio:
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def seconds_in_turns(works: Mapping[str, Work], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """What each takes, once a round; who begins changes from round to round."""
    names, taken = list(works), {name: [0.0] * rounds for name in works}
    for turn in range(rounds):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            taken[name][turn] = _seconds(works[name], device)
    return taken


def ratio(taken: Mapping[str, list[float]], name: str, base: str) -> Ratio:
    """The time of one work over that of another, round by round."""
    return Ratio.of([mine / theirs for mine, theirs in zip(taken[name], taken[base], strict=True)])


def _seconds(work: Work, device: torch.device) -> float:
    _wait_for(device)
    start = time.perf_counter()
    work()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(work: Work, device: torch.device) -> int:
    """The most that torch holds at once while `work` runs, beyond what it held before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler reports when it starts and stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        work()
    results = profiler.profiler.kineto_results
    sizes = [event.nbytes() for event in results.events() if event.name() == "[memory]"]
    return max(accumulate(sizes, initial=0))
