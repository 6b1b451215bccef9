"""Stores that are not there, damaged, or can only be read."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from data_prep.cli import main
from data_prep.store.group_commit import LedgerError, reader
from data_prep.store.store import Store
from tests.data_prep.review.conftest import make_store


@pytest.mark.parametrize("command", ["annotate", "dedup", "ground", "table3", "status", "stats"])
def test_a_mistyped_store_is_an_error_and_not_a_new_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for key in ("OPENAI_API_KEY", "GEMINI_API_KEY", "EMOVIT_API_KEY"):
        monkeypatch.setenv(key, "sk-none-at-all")
    assert main([command, str(tmp_path / "stroe")]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'stroe'}" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "stroe").exists()


@pytest.mark.parametrize("content", [b"no database at all, only text\n", None])
def test_a_damaged_ledger_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None) -> None:
    ledger = make_store(tmp_path, 3, 1) / "ledger.sqlite"
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.write_bytes(ledger.read_bytes()[:3000] if content is None else content)
    for command in ("status", "dedup"):
        assert main([command, str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert f"{ledger}: cannot be used as a ledger: " in said
        assert said.count("\n") == 1


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that cannot be written; as root the rights of files say nothing, so the question is answered for the test."""
    root = make_store(tmp_path / "an archive", 6, 1)
    with closing(sqlite3.connect(root / "ledger.sqlite")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    asked = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(root)) and asked(path, mode))
    return root


def test_an_archive_can_be_read_but_promises_nothing_that_must_be_kept(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file.name: file.read_bytes() for file in archive.iterdir() if file.is_file()}
    for command in (["status", str(archive)], ["stats", str(archive)], ["review", str(archive), "--report"]):
        assert main(command) == 0
    # The toys name their splits, so nothing has to be kept for an export.
    assert main(["export", str(archive), str(tmp_path / "tars")]) == 0
    assert {file.name: file.read_bytes() for file in archive.iterdir() if file.is_file()} == before
    capsys.readouterr()
    assert main(["review", str(archive)]) == 2
    assert "cannot be written; decisions could not be kept" in capsys.readouterr().err


def test_an_archive_with_an_open_journal_is_not_read_half(archive: Path) -> None:
    (archive / "ledger.sqlite-wal").write_bytes(b"x")
    with pytest.raises(LedgerError, match=r"has a journal .*copy the store"):
        reader(archive / "ledger.sqlite")


def test_a_writer_makes_a_store_unless_it_was_told_not_to(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no store there"):
        Store(tmp_path / "s", write=True, create=False)
    Store(tmp_path / "s", write=True).close()
    Store(tmp_path / "s", write=True, create=False).close()


def test_a_store_is_its_users_alone_also_one_that_was_open_to_others(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with Store(root, write=True) as store:
        store.add_image(b"one", "png")
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    with Store(root, write=True) as store:
        store.add_image(b"two", "png")
        modes = {path.stat().st_mode & 0o077 for path in (root, *root.rglob("*")) if path.is_file() or path == root}
    assert modes == {0}
