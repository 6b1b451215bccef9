"""How many processes read and decode ahead of the training, and what they must not do.

Batches are the same, to the bit and in their order, whatever the number is.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from emo_lightning.core.cores import usable_cores
from emo_lightning.core.lifetimes import die_with_parent
from emo_lightning.core.model_folders import warn_once

Workers = int | Literal["auto"]
"""A number of processes, 0 for none; `auto` takes what `worker_count` says."""

MIN_SAMPLES_FOR_WORKERS = 512
"""Samples of a rank and epoch from which on workers are worth their start: as many are decoded in one to three seconds."""
MAX_WORKERS = 8
"""Workers of a rank; they decode thousands of pictures a second, more than any GPU trains on."""
PREFETCH_FACTOR = 2
"""Batches that each of them keeps ready."""
_SHARED = 256 * 2**20
"""Bytes of shared memory for the batches of a worker: 16,384 tokens of pictures, twice."""
_SHARED_FOLDER = Path("/dev/shm")


def worker_count(samples: int, *, cores: int, ranks: int, shared: int | None = None) -> int:
    """Workers of a rank: one for each of its cores, none where the epoch is short.

    Args:
        samples: of a rank in an epoch.
        cores: of this machine, or of what may be used of it.
        ranks: that share them.
        shared: bytes that are left of the machine's shared memory; None where there is no limit to it.
    """
    if samples < MIN_SAMPLES_FOR_WORKERS:
        return 0
    room = MAX_WORKERS if shared is None else shared // (ranks * _SHARED)
    return min(MAX_WORKERS, cores // ranks, room)


def workers(asked: Workers, samples: int, ranks: int) -> int:
    """The number that was asked for, or `worker_count` on this machine; arguments as there."""
    if asked != "auto":
        return asked
    shared = shutil.disk_usage(_SHARED_FOLDER).free if _SHARED_FOLDER.is_dir() else None
    cores = usable_cores()
    found = worker_count(samples, cores=cores, ranks=ranks, shared=shared)
    if shared is not None and found < (possible := worker_count(samples, cores=cores, ranks=ranks)):
        warn_once(
            f"{_SHARED_FOLDER} has {shared / 2**20:.0f} MiB left: {found} processes read images ahead, there could be {possible} "
            "(in a container: docker run --shm-size 8g)"
        )
    return found


@contextmanager
def started_safely() -> Iterator[None]:
    """While workers are forked: the tokenizer's threads do not live in them, so it must not use any there."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def end_with_parent(_worker: int) -> None:
    """In a worker: have it killed when its parent is gone, however that ended.

    PyTorch's own watchdog looks every five seconds, and not while a worker waits for room to hand over a batch. Where the system has
    no such signal, that has to do.
    """
    if (parent := multiprocessing.parent_process()) is not None:
        die_with_parent(parent=parent.pid)
