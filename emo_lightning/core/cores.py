"""Processor cores: how many this process may use, and how its threads wait for one another."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Of a container under Linux: microseconds that it may use in each period, and the period (kernel's cgroup-v2.rst, "cpu.max")."""

BRIEF_WAIT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "300"}
"""Variables of the environment: by the first alone threads sleep at once; the second is of GNU's OpenMP, which torch has on Linux."""


def usable_cores() -> int:
    """Cores that the scheduler and the container's quota leave to this process; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        used, period = _QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if used == "max" else max(1, min(cores, int(used) // int(period)))


def wait_briefly() -> None:
    """Have OpenMP's threads spin for microseconds when they wait, and then sleep; nothing where the environment says how they wait.

    To be called before torch is loaded. By default they spin for milliseconds: beside one other busy process on two cores a step took up
    to nine times as long. Asleep at once, they are woken by the kernel for every operation: alone, an epoch of `benchmarks/sft_peers.py` took
    1.7 times as long, a step of `benchmarks/openmp_wait.py` 1.1 times (experiments/LOG.md).
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ |= BRIEF_WAIT
