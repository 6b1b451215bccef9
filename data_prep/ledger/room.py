"""Room on the disk before money is spent: a reply that is paid for must find a place, also where the program has to end just then."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from data_prep.ledger.group_commit import PATIENCE, LedgerError

LEAST = 64 * 2**20
"""Bytes that must be free before a request is sent: much more than the replies to everything in flight, and the journal, can need."""
_ASLEEP = 0.5
"""Seconds between two looks."""

log = logging.getLogger(__name__)


async def room(path: Path, halted: Callable[[], bool]) -> None:
    """Return at once where there is room beside a ledger, else as soon as there is.

    Args:
        path: of the ledger.
        halted: the wait ends early where it says so.

    Raises:
        LedgerError: there was none for hours.
    """
    began = None
    while (free := shutil.disk_usage(path.parent).free) < LEAST and not halted():
        if began is None:
            began = time.monotonic()
            log.warning(
                "%s: only %d MB are free on its disk; nothing is sent until there are %d", path, free // 2**20, LEAST // 2**20
            )
        if time.monotonic() - began > PATIENCE:
            raise LedgerError(f"{path}: only {free // 2**20} MB are free on its disk; a reply might find no room")
        await asyncio.sleep(_ASLEEP)
