"""A backup of a store, also while a pass writes to it: a folder that is a store itself.

The ledger is copied by SQLite's own backup, which sees what is committed, the journal included; a copy of the file alone lacks the
replies that still stand in the journal. Images come after it: they are written before the ledger names them, so all that the copied
ledger names are there. The ledger of the backup is renamed last, so it never names what the backup does not have.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.store.group_commit import LedgerError, ledger_errors, reader
from data_prep.store.lock import StoreError, take_lock
from data_prep.store.private import make_private, private_file
from data_prep.store.tables import LEDGER_VERSION
from emo_lightning.core.files import replacing, write_json

MARK = "backup.json"
"""File that says that a folder is a backup, and may be brought up to date."""
_IMAGE = re.compile(r"([0-9a-f]{64})\.[a-z0-9]{1,8}")
_CHUNK = 1 << 20
_KEPT = (
    ("calls", "paid replies", "o.raw IS NOT NULL", "n.id = o.id AND n.cache_key = o.cache_key AND n.raw IS NOT NULL"),
    ("items", "images", "1", "n.id = o.id AND n.sha256 = o.sha256"),
    ("reviews", "decisions of people", "1", "n.id = o.id AND n.item_id = o.item_id AND n.time = o.time"),
)
"""What a backup never gives up: table, what it holds, which rows, and when a row is still there."""


@dataclass
class BackupReport:
    """What a backup holds, and what was done for it."""

    items: int = 0
    replies: int = 0
    """Calls whose reply is kept."""
    cost_nano: int = 0
    copied: int = 0
    """Images copied now; each was read back from the store and has the sha256 of its name."""
    there: int = 0
    """Images that the backup had already."""
    wrong: list[str] = field(default_factory=list)
    """Images that the store does not have, or not as their name says: of these the backup has no better copy than before."""
    foreign: int = 0
    """Other files among the images, which are not copied."""


def backup(
    root: str | Path, target: str | Path, *, verify: bool = False, on_image: Callable[[], None] = lambda: None
) -> BackupReport:
    """Make a backup, or bring one up to date: then only images that it lacks are copied.

    Args:
        root: the store; it is only read.
        target: a folder that is empty, not there yet, or an earlier backup of the same store.
        verify: read the images that the backup has already, and compare their sha256; else their size is compared.
        on_image: called after each image.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
        StoreError: the folder holds something else, or a backup of what the store does not have, or a program uses it as a store.
    """
    root, target = Path(root), Path(target)
    source = root / "ledger.sqlite"
    if not source.exists():
        msg = f"{source}: no ledger there; `emo prep import` makes a store"
        raise LedgerError(msg)
    _check_place(root, target)
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    make_private(target)
    private_file(target / "lock")
    with take_lock(target):
        mark = target / MARK
        write_json(mark, {"backup_of": str(root.resolve())})
        mark.chmod(0o600)
        _drop_leftovers(target)
        report = BackupReport()
        with replacing(target / "ledger.sqlite", fsync=True) as snapshot:
            _copy_ledger(source, snapshot)
            with ledger_errors(snapshot), closing(sqlite3.connect(snapshot, isolation_level=None)) as ledger:
                _keep_what_was_kept(ledger, target, root)
                named = {f"{sha256}.{extension}" for sha256, extension in ledger.execute("SELECT sha256, extension FROM items")}
                (report.items,) = ledger.execute("SELECT count(*) FROM items").fetchone()
                report.replies, report.cost_nano = ledger.execute(
                    "SELECT count(*) FILTER (WHERE state = 'reply'), coalesce(sum(cost_nano), 0) FROM calls"
                ).fetchone()
            _copy_images(root, target, named, report, verify, on_image)
    return report


def _check_place(root: Path, target: Path) -> None:
    """Whether a folder may become a backup of a store.

    Raises:
        StoreError: it may not.
    """
    inner, outer = target.resolve(), root.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        msg = f"{target}: is the store {root} itself, or one lies in the other; choose a folder elsewhere, best on another disk"
        raise StoreError(msg)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / MARK).is_file())):
        msg = f"{target}: holds something that is no backup (it has no {MARK}); choose an empty folder, or one that is not there yet"
        raise StoreError(msg)


def _drop_leftovers(target: Path) -> None:
    """Remove what a backup that was killed left behind."""
    for leftover in (*target.glob("ledger.sqlite.tmp*"), *target.glob("images/*/*.tmp")):
        leftover.unlink()


def _copy_ledger(source: Path, snapshot: Path) -> None:
    """All that is committed, at one moment, into one file without a journal.

    Raises:
        LedgerError: the ledger is damaged, or of another version.
    """
    private_file(snapshot)
    with ledger_errors(source), closing(reader(source)) as live, closing(sqlite3.connect(snapshot)) as copy:
        # In one step: between two a writer would make it begin anew.
        live.backup(copy, pages=-1)
    with ledger_errors(source), closing(sqlite3.connect(snapshot, isolation_level=None)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")
        version = copy.execute("PRAGMA user_version").fetchone()[0]
        found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    if version != LEDGER_VERSION:
        msg = f"{source}: ledger version {version}, this program knows {LEDGER_VERSION}"
        raise LedgerError(msg)
    if found != "ok":
        msg = f"{source}: damaged, so it takes no backup's place: {found}; copy it, and mend the copy with `sqlite3 … .recover`"
        raise LedgerError(msg)


def _keep_what_was_kept(ledger: sqlite3.Connection, target: Path, root: Path) -> None:
    """Hold the snapshot against the ledger that the backup has: a store that was emptied, or another one, must not take its place.

    Raises:
        StoreError: the backup has what the store has not; or somebody reads it just now.
    """
    former = target / "ledger.sqlite"
    if not former.exists():
        return
    with ledger_errors(former), closing(sqlite3.connect(former, isolation_level=None)) as connection:
        # A backup that was used as a store has a journal, which must not outlive the file that it belongs to.
        mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if mode != "delete":
        msg = f"{target}: another program is reading the ledger of this backup"
        raise StoreError(msg)
    ledger.execute("ATTACH ? AS former", (str(former),))
    for table, what, rows, same in _KEPT:
        if table not in tables:
            continue
        query = f"SELECT count(*) FROM former.{table} o WHERE {rows} AND NOT EXISTS (SELECT 1 FROM main.{table} n WHERE {same})"
        (more,) = ledger.execute(query).fetchone()
        if more:
            msg = f"{target}: has {more} {what} that {root} does not have; nothing was changed: choose another folder"
            raise StoreError(msg)
    ledger.execute("DETACH former")


def _copy_images(
    root: Path, target: Path, named: set[str], report: BackupReport, verify: bool, on_image: Callable[[], None]
) -> None:
    """Copy what the backup lacks; `named` are the images that the ledger's items have."""
    (target / "images").mkdir(exist_ok=True, mode=0o700)
    for path in _files(root / "images"):
        if (found := _IMAGE.fullmatch(path.name)) is None:
            report.foreign += not path.name.endswith(".tmp")
            continue
        named.discard(path.name)
        sha256 = found.group(1)
        copy = target / "images" / sha256[:2] / path.name
        if _is_there(copy, path, sha256, verify):
            report.there += 1
        elif copied(path, copy, sha256):
            report.copied += 1
        else:
            report.wrong.append(f"{path}: the content does not have the sha256 of its name")
        on_image()
    report.wrong += sorted(f"{root / 'images' / name[:2] / name}: the image is missing from the store" for name in named)


def _files(folder: Path) -> Iterator[Path]:
    # Images may lie on another disk, behind a link.
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def _is_there(copy: Path, path: Path, sha256: str, verify: bool) -> bool:
    if not copy.is_file() or copy.stat().st_size != path.stat().st_size:
        return False
    if not verify:
        return True
    with copy.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


class _OtherBytesError(Exception):
    """A file does not hold what its name says: its copy must not be kept."""


def copied(path: Path, copy: Path, sha256: str) -> bool:
    """Copy a file; False, and nothing is changed, where it does not hold what its name says."""
    copy.parent.mkdir(exist_ok=True, mode=0o700)
    digest = hashlib.sha256()
    try:
        with replacing(copy, fsync=True) as temporary:
            private_file(temporary)
            with path.open("rb") as read, temporary.open("wb") as write:
                while chunk := read.read(_CHUNK):
                    digest.update(chunk)
                    write.write(chunk)
            if digest.hexdigest() != sha256:
                raise _OtherBytesError
    except _OtherBytesError:
        return False
    return True
