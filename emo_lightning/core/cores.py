"""How many processor cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Of a container under Linux: microseconds that it may use in each period, and the period (kernel's cgroup-v2.rst, "cpu.max")."""


def usable_cores() -> int:
    """Cores that the scheduler and the container's quota leave to this process; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        used, period = _QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if used == "max" else max(1, min(cores, int(used) // int(period)))
