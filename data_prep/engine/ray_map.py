"""Steps over Ray Data: images are read where the store lies and computed anywhere; the driver takes the results in order.

A row of the data set is a whole batch, made by the driver: what goes through a network together is then the same as on one machine.
A node that is lost costs time alone: Ray computes its batches again, and the ledger has what was finished before.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from data_prep.engine.base import EngineError, EngineResult, ItemRow, Prepared, Step
from data_prep.engine.ray_handles import cluster_nodes
from emo_lightning.core.errors import UserError

if TYPE_CHECKING:
    import pyarrow

_Found = TypeVar("_Found")
_THREADS = 4
_READERS = 4
"""Processes that read images where the store lies. They take no core from the steps, so that Ray, unasked, would start one for every
batch that waits."""
_INDEX, _DATA = "batch", "data"
"""Columns: the number of the batch, and what there is of it, pickled."""


def results(root: Path, batches: Sequence[Sequence[ItemRow]], step: Step[Prepared]) -> Iterator[list[EngineResult]]:
    """Results batch by batch, in order.

    Args:
        root: of the store, on this node.
        batches: not empty.
        step: computed anywhere.

    Raises:
        EngineError: what went wrong on a worker.
    """
    import ray
    import ray.data

    # Its plans and its own progress bars; the commands have theirs.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    rows = [{_INDEX: number, _DATA: pickle.dumps(list(batch))} for number, batch in enumerate(batches)]
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    # Blocks of one row: a batch is written down as soon as it is there, and a lost node costs no more than it was working on.
    # `Any`: what Ray says of its batches fits no function that takes a table of Arrow.
    data: Any = ray.data.from_items(rows, override_num_blocks=len(rows))
    one: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    data = data.map_batches(
        read, fn_kwargs={"root": root}, **one, num_cpus=0, concurrency=_readers(len(batches)), label_selector=here
    )
    if step.resident:
        computed = data.map_batches(Worker, fn_constructor_args=(step,), **one, **_devices(len(batches)))
    else:
        computed = data.map_batches(compute, fn_kwargs={"step": step}, **one, num_cpus=1)
    expected = 0
    for row in computed.iter_rows():
        found = pickle.loads(row[_DATA])
        if isinstance(found, str):
            raise EngineError(found)
        if row[_INDEX] != expected:
            msg = f"batch {row[_INDEX]} of {len(rows)} came where batch {expected} was due; nothing of it was written"
            raise EngineError(msg)
        expected += 1
        yield found
    if expected != len(rows):
        msg = f"{len(rows) - expected} of {len(rows)} batches did not come back; run the same command again"
        raise EngineError(msg)


def _readers(batches: int) -> int:
    return min(_READERS, os.cpu_count() or 1, batches)


def _devices(batches: int) -> dict[str, float]:
    """How many processes keep a model, and what each takes.

    A process for each GPU, else for each node. Half a core is asked for, so that the process of a lost node finds a place on a cluster
    that is full. A GPU is not shared: where a node with one is lost, its batches wait until Ray finds another (Ctrl-C and the same
    command again go on with those that are left).
    """
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's own; it has no types
    if gpus := int(resources.get("GPU", 0)):
        return {"concurrency": min(gpus, batches), "num_gpus": 1}
    return {"concurrency": min(sum(node["Alive"] for node in cluster_nodes()), batches), "num_cpus": 0.5}


def read(table: pyarrow.Table, root: Path) -> pyarrow.Table:
    """A batch of rows to the same with their images; runs where the store lies."""
    from data_prep.store.store import read_stored_image

    def with_images(rows: list[ItemRow]) -> list[tuple[ItemRow, bytes]]:
        return [(row, read_stored_image(root, row.sha256, row.extension)) for row in rows]

    return _answered(table, with_images)


def compute(table: pyarrow.Table, step: Step[Prepared]) -> pyarrow.Table:
    """A batch with images to its results, for a step that loads nothing."""
    return Worker(step)(table)


class Worker(Generic[Prepared]):
    """Batches with images to batches of results; loads the step when it is first needed.

    Args:
        step: computed here.
    """

    def __init__(self, step: Step[Prepared]) -> None:
        self._step = step
        self._compute: Callable[[Sequence[ItemRow], Sequence[Prepared]], list[EngineResult]] | None = None

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """One batch."""
        return _answered(table, self._results)

    def _results(self, found: list[tuple[ItemRow, bytes]] | str) -> list[EngineResult] | str:
        if isinstance(found, str):
            return found
        if self._compute is None:
            self._compute = self._step.load()
        with ThreadPoolExecutor(_THREADS) as threads:
            prepared = list(threads.map(self._step.prepare, [data for _, data in found]))
        return self._compute([row for row, _ in found], prepared)


def _answered(table: pyarrow.Table, work: Callable[[_Found], object]) -> pyarrow.Table:
    """A table of one batch with what `work` makes of it; an error that speaks to the user travels as its text."""
    import pyarrow

    found: object
    try:
        found = work(pickle.loads(table[_DATA][0].as_py()))
    except UserError as error:
        found = str(error)
    return pyarrow.table({_INDEX: table[_INDEX], _DATA: pyarrow.array([pickle.dumps(found)], pyarrow.binary())})
