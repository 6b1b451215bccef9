"""One writer thread for SQLite that commits everything that waits at once: callers share a flush to disk."""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from data_prep.errors import PrepError
from data_prep.ledger.counters import prepare

if TYPE_CHECKING:
    import asyncio


class LedgerError(PrepError, RuntimeError):
    """The ledger cannot be opened or written."""


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What SQLite says against a file, as one line that names it.

    Raises:
        LedgerError: it cannot be opened, is no database, or is damaged.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"{path}: cannot be used as a ledger: {error}") from None


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
        raise LedgerError(f"{path}: has a journal ({journal.name}) and cannot be written; copy the store to a place that can")
    # In WAL mode even a reader writes a shared index beside the file, unless it is told that nobody else writes.
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?immutable=1", uri=True, isolation_level=None, check_same_thread=check_same_thread
    )


@dataclass(frozen=True)
class Job:
    """Statements of one transaction, and whom to tell when it is on disk (a future of `loop`, or of a thread)."""

    statements: tuple[tuple[str, Sequence[Any]], ...]
    done: Any
    loop: asyncio.AbstractEventLoop | None


class GroupWriter:
    """The only writer: takes all jobs that wait, commits them at once, then tells their callers."""

    def __init__(self, path: Path, schema: str, version: int) -> None:
        self._jobs: queue.SimpleQueue[tuple[Job, ...] | None] = queue.SimpleQueue()
        with told(path):
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            if self._connection.execute("PRAGMA user_version").fetchone()[0] in (0, version):
                prepare(self._connection, schema)
                self._connection.execute(f"PRAGMA user_version = {version}")
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    def submit(self, jobs: tuple[Job, ...]) -> None:
        """Hand jobs over; their futures are told after the commit."""
        self._jobs.put(jobs)

    def close(self) -> None:
        """Commit what waits, then end."""
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
            self._connection.execute("BEGIN IMMEDIATE")
            for job in group:
                for sql, values in job.statements:
                    self._connection.execute(sql, values)
            self._connection.execute("COMMIT")
        except sqlite3.Error as failure:
            # Every caller of the group is told: nothing of it is on disk.
            error = LedgerError(f"writing the ledger failed: {failure}")
            self._roll_back()
        except Exception as failure:
            # A value that SQLite cannot hold. It must cost neither the others of the group their replies nor this thread its life.
            self._roll_back()
            if len(group) > 1:
                for job in group:
                    self._commit([job])
                return
            error = LedgerError(f"writing the ledger failed: {type(failure).__name__}: {failure}")
        for loop in {job.loop for job in group}:
            mine = [job.done for job in group if job.loop is loop]
            if loop is None:
                _tell(mine, error)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(_tell, mine, error)

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _tell(waiting: list[Any], error: Exception | None) -> None:
    for done in waiting:
        if done.done():
            continue
        if error:
            done.set_exception(error)
        else:
            done.set_result(None)
