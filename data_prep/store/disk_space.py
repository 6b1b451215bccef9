"""Space on the disk before money is spent: a reply that is paid for must find a place, also where the program has to end just then."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from data_prep.store.group_commit import MAX_RETRY_SECONDS, LedgerError

MIN_FREE_BYTES = 64 * 2**20
"""Bytes that must be free before a request is sent: much more than the replies to everything in flight, and the journal, can need."""
_ASLEEP = 0.5
"""Seconds between two looks."""

log = logging.getLogger(__name__)


class DiskSpace:
    """The disk of a ledger.

    Args:
        path: of the ledger.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._none_since: float | None = None

    async def wait(self, stopped: Callable[[], bool]) -> None:
        """Return at once where there is room, else as soon as there is.

        Args:
            stopped: the wait ends early where it says so.

        Raises:
            LedgerError: there was none for hours.
        """
        while (free := shutil.disk_usage(self._path.parent).free) < MIN_FREE_BYTES and not stopped():
            now = time.monotonic()
            none = f"{self._path}: only {free // 2**20} MB are free on its disk"
            if self._none_since is None:
                self._none_since = now
                log.warning("%s; nothing is sent until there are %d", none, MIN_FREE_BYTES // 2**20)
            if now - self._none_since > MAX_RETRY_SECONDS:
                msg = f"{none}, and a reply needs room"
                raise LedgerError(msg)
            await asyncio.sleep(_ASLEEP)
        self._none_since = None
