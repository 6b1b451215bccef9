"""A real Ray cluster of two nodes on this machine, for all tests of the engine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import pytest

from data_prep.engine import EngineResult, ItemRow, Step
from tests.patience import PATIENCE

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

_T = TypeVar("_T")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
_STORE = 80 * 2**20
_SETTINGS = {
    # A node that is gone refuses at once, and is believed gone after five times; one that is only slow has half a minute each time.
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 30_000,
    "health_check_failure_threshold": 5,
    # A process that has nothing to do waits for the next test, which else would start, and import pandas and Arrow, once more.
    "num_workers_soft_limit": 4,
    "idle_worker_killing_time_threshold_ms": 600_000,
}
# What copies logs to the driver and what starts nodes: looked at by no test, and at work all the time.
_ALONE: dict[str, Any] = {"include_log_monitor": False, "no_monitor": True, "object_store_memory": _STORE, "num_cpus": 1}


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one core each; the driver is connected to the first."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Of its own, lest it become the current cluster of whoever runs the tests. Short: names of sockets below it may have no more than
    # 107 characters.
    folder = tempfile.mkdtemp(prefix="ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setattr(ray._private.services, "get_node", _patient(ray._private.services.get_node))
        head = {**_ALONE, "include_dashboard": False, "_system_config": _SETTINGS}
        found = Cluster(initialize_head=True, head_node_args=head)
        found.add_node(**_ALONE)
        ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
        yield found
        ray.shutdown()
        found.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def _patient(get_node: Callable[..., _T]) -> Callable[..., _T]:
    """A node that starts is given up after 30 seconds, which a busy machine takes; asked like this, it has ten minutes."""

    def ask(*arguments: object) -> _T:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    return ask


@pytest.fixture
def doomed(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """A third node; call it to kill it, all its processes at once, as when its power goes."""
    node = cluster.add_node(**_ALONE)

    def kill() -> None:
        if node in cluster.worker_nodes:
            # Left to Ray, workers outlive their raylet by seconds, and finish what they were at.
            for process in psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            cluster.remove_node(node, allow_graceful=False)

    yield kill
    kill()


class Where(Step[int]):
    """Which node computed a row, and what its batch looked like; slow as a model is, and kept by a process as one is.

    Args:
        folder: on this machine, where processes sign in.
        processes: which have to be there before any of them works.
    """

    def __init__(self, folder: Path, processes: int) -> None:
        self._folder, self._processes = folder / "processes", processes
        self._folder.mkdir()

    def prepare(self, data: bytes) -> int:
        return len(data)

    def load(self) -> Callable[[Sequence[ItemRow], Sequence[int]], list[EngineResult]]:
        import ray

        node = ray.get_runtime_context().get_node_id()
        (self._folder / str(os.getpid())).touch()

        def compute(rows: Sequence[ItemRow], sizes: Sequence[int]) -> list[EngineResult]:
            end = time.monotonic() + PATIENCE
            while len(list(self._folder.iterdir())) < self._processes and time.monotonic() < end:
                time.sleep(0.02)
            time.sleep(0.1)
            return [json.dumps([node, row.given, len(rows), size]) for row, size in zip(rows, sizes, strict=True)]

        return compute
