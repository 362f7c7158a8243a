"""Shards on a Ray cluster of two nodes, one of which dies: the bytes of one process.

make test-ray
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studied import Inputs, inputs, net

import attribkit

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

IMAGES = 12 * 512
STORE = 80 * 2**20


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes with a CPU each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=STORE)
        found = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).parent)]))
        ray.init(cluster.address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": found}})
        yield cluster, second
    finally:
        ray.shutdown()
        cluster.shutdown()


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_lost_node_costs_its_shard_and_no_byte(cluster: Any, tmp_path: Path) -> None:
    from attribkit.adapters.ray import on_cluster

    nodes, second = cluster
    came: list[int] = []
    killed = threading.Event()

    def kill_soon(survey: Any, missing: Any) -> Iterator[tuple[int, bytes]]:
        """The second node dies once the first shard is there."""
        with on_cluster(None) as engine:
            for number, data in engine(survey, missing):
                came.append(number)
                if not killed.is_set():
                    killed.set()
                    nodes.remove_node(second, allow_graceful=False)
                yield number, data

    options: dict[str, Any] = {"layer": "relu2", "top": 3}
    attribkit.gallery(net(), Inputs(inputs(IMAGES), seconds=0.002), out=tmp_path / "ray", engine=kill_soon, **options)
    assert sorted(came) == list(range(12))
    assert killed.is_set()
    attribkit.gallery(net(), Inputs(inputs(IMAGES)), out=tmp_path / "alone", **options)
    assert files(tmp_path / "ray") == files(tmp_path / "alone")
