"""How long a test waits for something else before it calls it hung, and how it waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 900.0
"""Seconds; reached only where something is broken, however busy the machine. No test passes or fails by a shorter clock."""


def wait_until(true: Callable[[], bool]) -> None:
    """Until a condition holds."""
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
