"""A full disk, somebody else's transaction, a damaged file: what was paid for is written in the end, or the message names the file."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_prep.cli import main
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE
from data_prep.store import disk_space, group_commit
from data_prep.store.group_commit import LedgerError
from data_prep.store.store import Store
from tests.data_prep.serving import calls, good, import_toys, run_pass, send, server

QUERY = "INSERT INTO prompts VALUES (?, ?)"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "x")
    monkeypatch.setattr(group_commit, "_PAUSES", (0.05, 0.1))


def allow(store: Store, pages: int) -> None:
    """SQLite says that the disk is full when a file would have more pages."""
    assert store.ledger._writer is not None
    store.ledger._writer._connection.execute(f"PRAGMA max_page_count = {pages}")


@pytest.fixture
def full(tmp_path: Path) -> Store:
    store = Store(tmp_path, write=True)
    allow(store, 1)
    return store


def test_a_write_waits_for_room(full: Store, caplog: pytest.LogCaptureFixture) -> None:
    threading.Timer(0.5, lambda: allow(full, 10**6)).start()
    began = time.monotonic()
    full.ledger.write_now((QUERY, ("a", "x" * 100_000)))
    assert time.monotonic() - began >= 0.5
    assert full.ledger.read("SELECT count(*) FROM prompts") == [(1,)]
    full.close()
    assert [r.getMessage().split(": ", 1)[1] for r in caplog.records] == [
        "cannot be written (database or disk is full); trying on, nothing is sent meanwhile",
        "written again",
    ]


def test_closing_ends_the_wait_and_those_who_wait_are_told(full: Store) -> None:
    async def go() -> object:
        waiting = asyncio.ensure_future(full.ledger.write((QUERY, ("a", "x" * 100_000))))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        assert full.ledger._writer is not None
        closing = asyncio.get_running_loop().run_in_executor(None, full.ledger._writer.close)
        return (await asyncio.gather(waiting, closing, return_exceptions=True))[0]

    error = asyncio.run(go())
    assert isinstance(error, LedgerError)
    assert "ledger.sqlite: writing the ledger failed: database or disk is full" in str(error)


def test_patience_has_an_end(full: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "MAX_RETRY_SECONDS", 0.2)
    with full, pytest.raises(LedgerError, match="disk is full"):
        full.ledger.write_now((QUERY, ("a", "x" * 100_000)))


def test_replies_outlast_a_transaction_of_somebody_else(tmp_path: Path, toys: list, write_config: Callable[..., Path]) -> None:
    """A person with the `sqlite3` shell, in the middle of a pass, for longer than SQLite itself waits."""
    config = DemoConfig.load(write_config())
    import_toys(tmp_path / "s", toys[:8])
    answered: list[int] = []
    other = sqlite3.connect(tmp_path / "s" / "ledger.sqlite", check_same_thread=False, isolation_level=None)

    def answer(handler: BaseHTTPRequestHandler, body: dict) -> None:
        answered.append(1)
        if len(answered) == 6:
            other.execute("BEGIN IMMEDIATE")
            threading.Timer(6.0, lambda: other.execute("COMMIT")).start()
        send(handler, 200, good(body))

    with server(answer) as (url, _):
        report = run_pass(tmp_path / "s", config, url)
    other.close()
    assert report.outcomes["valid"] == 8
    assert [state for state, *_ in calls(tmp_path / "s")] == ["reply"] * len(answered), "none was lost, none asked twice"


def test_nothing_is_sent_while_a_reply_might_find_no_room(
    tmp_path: Path,
    toys: list,
    write_config: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = DemoConfig.load(write_config())
    import_toys(tmp_path / "s", toys[:6])
    free = [10 * disk_space.MIN_FREE_BYTES]
    monkeypatch.setattr(disk_space, "_ASLEEP", 0.05)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[0]))
    asked: list[float] = []

    def make_room() -> None:
        asked.append(0.0)
        free[0] = 10 * disk_space.MIN_FREE_BYTES

    def answer(handler: BaseHTTPRequestHandler, body: dict) -> None:
        asked.append(1.0)
        if sum(asked) == 5:
            free[0] = disk_space.MIN_FREE_BYTES - 1
            threading.Timer(1.0, make_room).start()
        send(handler, 200, good(body))

    with server(answer) as (url, _), caplog.at_level(logging.WARNING):
        report = run_pass(tmp_path / "s", config, url)
    assert report.outcomes["valid"] == 6
    assert asked.index(0.0) <= 5 + 3 * 15, "no more than was on its way"
    assert sum("MB are free on its disk; nothing is sent" in r.getMessage() for r in caplog.records) == 1
    monkeypatch.setattr(disk_space, "MAX_RETRY_SECONDS", 0.1)
    free[0] = 0
    with pytest.raises(LedgerError, match="only 0 MB are free"):
        asyncio.run(disk_space.DiskSpace(tmp_path / "s" / "ledger.sqlite").wait(lambda: False))


@pytest.mark.parametrize("command", [["status"], ["stats", "--out", "stats"], ["export", "tars"], ["annotate", "--estimate"]])
@pytest.mark.parametrize("tables", [("sqlite_master",), ("items", "row_counts")])
def test_a_damaged_ledger_is_one_line(
    tables: tuple[str, ...],
    command: list[str],
    tmp_path: Path,
    toys: list,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    import_toys(tmp_path / "s", toys)
    path = tmp_path / "s" / "ledger.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = dict(db.execute("SELECT name, rootpage FROM sqlite_master"))
        size = db.execute("PRAGMA page_size").fetchone()[0]
    data = bytearray(path.read_bytes())
    for table in tables:
        # The first page begins with the header of the file.
        start, length = (100, size - 100) if table == "sqlite_master" else ((pages[table] - 1) * size, size)
        data[start : start + length] = b"\xa5" * length
    path.write_bytes(bytes(data))
    name, *rest = command
    assert main([name, "s", *rest]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert "s/ledger.sqlite: cannot be used as a ledger: database disk image is malformed; copy it" in error
