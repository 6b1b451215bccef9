"""One writer thread for SQLite that commits everything that waits at once: callers share a flush to disk."""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

from data_prep.store.tables import LEDGER_VERSION, prepare
from emo_lightning.core.errors import UserError

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future


SqlValue: TypeAlias = "str | bytes | int | float | None"
Statement: TypeAlias = "tuple[str, Sequence[SqlValue]]"
"""SQL, and the values of its question marks."""
MAX_RETRY_SECONDS = 6 * 3600.0
"""Seconds for which a ledger that cannot be written is tried again: what waits to be written has been paid."""
_PASSING = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
"""What may pass by itself, or by somebody's hand: a full disk, a disk that does not answer, another program's transaction."""
_PAUSES = (0.5, 10.0)
"""Seconds between two tries: the first, doubled up to the second."""

log = logging.getLogger(__name__)


class LedgerError(UserError, RuntimeError):
    """The ledger cannot be opened or written."""


@contextmanager
def ledger_errors(path: Path) -> Iterator[None]:
    """What SQLite says against a file, as one line that names it.

    Raises:
        LedgerError: it cannot be opened, is no database, or is damaged.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        hint = "; copy it, and mend the copy with `sqlite3 … .recover`" if damaged(error) else ""
        msg = f"{path}: cannot be used as a ledger: {error}{hint}"
        raise LedgerError(msg) from None


def damaged(error: object) -> bool:
    """Whether SQLite found a file that is not as it wrote it."""
    return isinstance(error, sqlite3.DatabaseError) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_CORRUPT


def writable(path: Path) -> bool:
    """Whether a ledger can be written, and not only read (an archive, a snapshot)."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def reader(path: Path, *, check_same_thread: bool = True) -> sqlite3.Connection:
    """A connection that only reads, also where nothing can be written.

    Raises:
        LedgerError: it cannot be read without writing, since a program that died left a journal.
    """
    if writable(path):
        return sqlite3.connect(path, isolation_level=None, check_same_thread=check_same_thread)
    journal = path.with_name(f"{path.name}-wal")
    if journal.exists() and journal.stat().st_size:
        msg = f"{path}: has a journal ({journal.name}) and cannot be written; copy the store to a place that can"
        raise LedgerError(msg)
    # In WAL mode even a reader writes a shared index beside the file, unless it is told that nobody else writes.
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?immutable=1", uri=True, isolation_level=None, check_same_thread=check_same_thread
    )


@dataclass(frozen=True)
class Job:
    """Statements of one transaction, and whom to tell when it is on disk (a future of `loop`, or of a thread)."""

    statements: tuple[Statement, ...]
    done: asyncio.Future[None] | Future[None]
    loop: asyncio.AbstractEventLoop | None


class GroupWriter:
    """The only writer: takes all jobs that wait, commits them at once, then tells their callers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: queue.SimpleQueue[tuple[Job, ...] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        with ledger_errors(path):
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            if self._connection.execute("PRAGMA user_version").fetchone()[0] in (0, LEDGER_VERSION):
                prepare(self._connection)
                self._connection.execute(f"PRAGMA user_version = {LEDGER_VERSION}")
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    def submit(self, jobs: tuple[Job, ...]) -> None:
        """Hand jobs over; their futures are told after the commit."""
        self._jobs.put(jobs)

    def close(self) -> None:
        """Commit what waits, then end; what cannot be written now is not waited for any more."""
        self._closing.set()
        self._jobs.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        open_ = True
        while open_:
            taken = [self._jobs.get()]
            while not self._jobs.empty():
                taken.append(self._jobs.get())
            open_ = None not in taken
            group = [job for jobs in taken if jobs is not None for job in jobs]
            if group:
                self._commit(group)

    def _commit(self, group: list[Job]) -> None:
        error: Exception | None = None
        try:
            self._write_in_the_end(group)
        except Exception as failure:
            # One that cannot be written (a value that SQLite cannot hold, a key that is taken) must cost neither the others of the
            # group their replies nor this thread its life.
            if len(group) > 1:
                for job in group:
                    self._commit([job])
                return
            kind = "" if isinstance(failure, sqlite3.Error) else f"{type(failure).__name__}: "
            error = LedgerError(f"{self._path}: writing the ledger failed: {kind}{failure}")
        for loop in {job.loop for job in group}:
            mine = [job.done for job in group if job.loop is loop]
            if loop is None:
                _tell(mine, error)
                continue
            # A loop that is closed, perhaps just now, has nobody who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_tell, mine, error)

    def _write_in_the_end(self, group: list[Job]) -> None:
        """Write, again and again where what is in the way may pass: everybody who wants to write waits, so nothing more is sent."""
        began, pause = time.monotonic(), _PAUSES[0]
        while True:
            try:
                self._write(group)
            except sqlite3.Error as failure:
                passing = (getattr(failure, "sqlite_errorcode", 0) & 0xFF) in _PASSING
                if not passing or self._closing.is_set() or time.monotonic() - began > MAX_RETRY_SECONDS:
                    raise
                if pause == _PAUSES[0]:
                    log.warning("%s: cannot be written (%s); trying on, nothing is sent meanwhile", self._path, failure)
                self._closing.wait(pause)
                pause = min(2 * pause, _PAUSES[1])
                continue
            if pause > _PAUSES[0]:
                log.warning("%s: written again", self._path)
            return

    def _write(self, group: list[Job]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in group:
                for sql, values in job.statements:
                    self._connection.execute(sql, values)
            self._connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _tell(waiting: Sequence[asyncio.Future[None] | Future[None]], error: Exception | None) -> None:
    for done in waiting:
        if done.done():
            continue
        if error:
            done.set_exception(error)
        else:
            done.set_result(None)
