"""Shards on a Ray cluster: a machine that is lost costs what it was working on, and the bytes stay the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from attribkit.errors import BadValue
from attribkit.studies.gallery import Engine
from attribkit.studies.survey import Survey, device_of


class RayMissing(BadValue):
    """Ray is not installed, or no cluster answers."""


class _Worker:
    """Works on shards, one at a time, with a model that it gets once."""

    def __init__(self, survey: Survey) -> None:
        self.survey = survey

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        done = list(self.survey.done([int(number) for number in batch["shard"]]))
        return {"shard": [number for number, _ in done], "file": [data for _, data in done]}


@contextmanager
def on_cluster(address: str | None) -> Iterator[Engine]:
    """An engine that sends shards to a cluster; files come back to this process, which alone writes.

    Args:
        address: Of the cluster's head, such as `ray://host:10001` or "auto"; None starts one on this machine.

    Raises:
        RayMissing: Ray is not installed, or nothing answers at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise RayMissing("--ray needs Ray: pip install 'attribkit[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address, include_dashboard=False if address is None else None, log_to_driver=False,
                     logging_level=logging.ERROR)  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise RayMissing(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}") from error
    try:
        yield _done
    finally:
        if ours:
            ray.shutdown()


def _done(survey: Survey, missing: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """The files of shards, as they come; a shard whose worker is lost is begun again elsewhere."""
    if not missing:
        return
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    shards = ray.data.from_items([{"shard": number} for number in missing], override_num_blocks=len(missing))
    resources: dict[str, Any] = {"num_gpus": 1} if device_of(survey.model).type == "cuda" else {"num_cpus": 1}
    held: Any = ray.cluster_resources  # which Ray does not annotate
    most = max(1, int(held().get("GPU" if "num_gpus" in resources else "CPU", 1)))
    files = shards.map_batches(
        _Worker,
        fn_constructor_args=(survey,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(most, len(missing))),
        max_restarts=-1,
        max_task_retries=-1,
        **resources,
    )
    for row in files.iter_rows():
        yield int(row["shard"]), bytes(row["file"])
