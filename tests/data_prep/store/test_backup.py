"""A backup holds every reply that was paid for before it began, whoever writes meanwhile, and never less than it held before."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from data_prep.cli import main
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE
from data_prep.store.backup import MARK, backup, copied
from data_prep.store.group_commit import LedgerError
from data_prep.store.ledger import Ledger
from data_prep.store.store import Store, StoreError
from tests.data_prep.conftest import item_of, truth
from tests.data_prep.serving import good, import_toys, run_pass, send, server
from tests.patience import PATIENCE


async def pay(ledger: Ledger, key: str) -> None:
    """A reply on disk."""
    call = await ledger.begin_call(
        cache_key=key, image_sha256="i", prompt_sha256="p", prompt="?", annotator="a", model="m", started=0.0
    )
    await ledger.end_call(call, "reply", ended=1.0, status=200, raw=key.encode() * 50, tokens=(1, 1), cost_nano=7)


async def pay_all(ledger: Ledger, keys: list[str]) -> None:
    await asyncio.gather(*(pay(ledger, key) for key in keys))


def replies(root: Path) -> set[str]:
    with closing(sqlite3.connect(root / "ledger.sqlite")) as ledger:
        assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = ledger.execute("SELECT cache_key, raw FROM calls WHERE state = 'reply'").fetchall()
    assert all(raw == key.encode() * 50 for key, raw in rows)
    return {key for key, _ in rows}


def paid_store(root: Path, count: int = 3, images: int = 3) -> Path:
    with Store(root, write=True) as store:
        store.import_items([item_of(*truth(seed)) for seed in range(images)])
        asyncio.run(pay_all(store.ledger, [f"k{n}" for n in range(count)]))
    return root


@contextmanager
def paying(root: Path) -> Iterator[list[str]]:
    """A pass that pays without end, in a thread; yields what is on disk so far."""
    done: list[str] = []
    enough, failed = threading.Event(), []

    async def work(ledger: Ledger) -> None:
        while not enough.is_set():
            keys = [f"live-{len(done) + n}" for n in range(8)]
            await pay_all(ledger, keys)
            done.extend(keys)

    def run() -> None:
        try:
            with Store(root, write=True) as store:
                asyncio.run(work(store.ledger))
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        enough.set()
        thread.join(PATIENCE)
    assert not failed


def test_every_reply_that_was_paid_is_there_while_a_writer_is_active(tmp_path: Path) -> None:
    store, target = paid_store(tmp_path / "store"), tmp_path / "backup"
    with paying(store) as done:
        for _ in range(4):
            before, deadline = len(done), time.monotonic() + PATIENCE
            while len(done) < before + 40 and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(done) >= before + 40, "the writer goes on, from one backup to the next"
            known = set(done)
            backup(store, target)
            assert known <= replies(target)
            assert not list(target.glob("ledger.sqlite-*")), "nothing lies beside it"
    backup(store, target)
    assert replies(target) == replies(store) == {*done, "k0", "k1", "k2"}


def test_a_copy_without_the_journal_would_lack_replies(tmp_path: Path) -> None:
    """What the documentation warns of."""
    root = paid_store(tmp_path / "store")
    with Store(root, write=True) as store:
        asyncio.run(pay(store.ledger, "late"))
        (tmp_path / "copied").mkdir()
        shutil.copy(root / "ledger.sqlite", tmp_path / "copied")
        backup(root, tmp_path / "backup")
    assert "late" in replies(tmp_path / "backup")
    assert "late" not in replies(tmp_path / "copied")


def test_a_backup_is_a_store_and_nothing_is_bought_again(
    tmp_path: Path, toys: list, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "x")
    config = DemoConfig.load(write_config())
    import_toys(tmp_path / "store", toys[:3])
    with server(lambda handler, body: send(handler, 200, good(body))) as (url, seen):
        first = run_pass(tmp_path / "store", config, url)
        assert main(["backup", str(tmp_path / "store"), str(tmp_path / "backup")]) == 0
        shutil.rmtree(tmp_path / "store")
        # Another pass over the same replies, over the backup in the place of the lost store.
        (tmp_path / "backup").rename(tmp_path / "store")
        with Store(tmp_path / "store", write=True) as store:
            store.ledger.write_now(("DELETE FROM outcomes", ()))
        asked = len(seen)
        again = run_pass(tmp_path / "store", config, url)
    assert (again.outcomes, again.tally.requests, len(seen)) == (first.outcomes, 0, asked)
    assert first.outcomes.total() == 3


def test_a_second_backup_copies_what_is_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, target = paid_store(tmp_path / "store"), tmp_path / "backup"
    (store / "images" / "note.txt").write_text("mine")
    first = backup(store, target)
    assert (first.items, first.replies, first.cost_nano, first.copied, first.there, first.foreign) == (3, 3, 21, 3, 0, 1)
    paid_store(store, 0, 5)
    second = backup(store, target)
    assert (second.items, second.copied, second.there, second.wrong) == (5, 2, 3, [])
    held = sorted((target / "images").glob("*/*.png"))
    assert [path.read_bytes() for path in held] == [(store / path.relative_to(target)).read_bytes() for path in held]
    (store / "images" / "note.txt").unlink()
    for root in (store, target):
        modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in (root, *root.rglob("*"))}
        assert modes == {(True, 0o700), (False, 0o600)}
    # A copy that rotted: its size says nothing, its content does.
    held[0].write_bytes(bytes(held[0].stat().st_size))
    assert backup(store, target).copied == 0
    assert main(["backup", str(store), str(target), "--verify"]) == 0
    assert "copied 1 images now, 4 were there" in capsys.readouterr().out


def test_missing_and_damaged_images_are_named_and_cost_no_good_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, target = paid_store(tmp_path / "store"), tmp_path / "backup"
    one, two, three = sorted((store / "images").glob("*/*.png"))
    good_one = one.read_bytes()
    two.write_bytes(b"")
    three.unlink()
    assert main(["backup", str(store), str(target)]) == 2
    said = capsys.readouterr().err
    assert f"{two}: the content does not have the sha256" in said
    assert f"{three}: the image is missing from the store" in said
    assert "2 images are missing or damaged; all else is in the backup" in said
    assert len(replies(target)) == 3
    one.write_bytes(b"less")
    assert len(backup(store, target).wrong) == 3
    assert (target / one.relative_to(store)).read_bytes() == good_one


def test_no_backup_gives_up_what_it_has(tmp_path: Path) -> None:
    """A store that was lost and begun anew, at the same place; and another one."""
    store, target = paid_store(tmp_path / "store"), tmp_path / "backup"
    backup(store, target)
    before = (target / "ledger.sqlite").read_bytes()
    shutil.rmtree(store)
    paid_store(store, 0, 3)
    with pytest.raises(StoreError, match=r"has 3 paid replies that .*store does not have; nothing was changed"):
        backup(store, target)
    shutil.rmtree(store)
    paid_store(store, 3, 1)
    with pytest.raises(StoreError, match="has 2 images that"):
        backup(store, target)
    assert (target / "ledger.sqlite").read_bytes() == before
    assert not list(target.glob("*.tmp*"))


def test_a_backup_that_was_used_as_a_store_is_not_overwritten(tmp_path: Path) -> None:
    store, target = paid_store(tmp_path / "store"), tmp_path / "backup"
    backup(store, target)
    with Store(target, write=True), pytest.raises(StoreError, match="another program is writing"):
        backup(store, target)
    backup(store, target)
    with Store(target, write=True) as used:
        asyncio.run(pay(used.ledger, "own"))
    with pytest.raises(StoreError, match="has 1 paid replies"):
        backup(store, target)
    assert "own" in replies(target)


def test_what_a_killed_backup_left_is_taken_over(tmp_path: Path) -> None:
    store, target = paid_store(tmp_path / "store"), tmp_path / "backup"
    (target / "images" / "ab").mkdir(parents=True)
    (target / MARK).write_text("{}")
    (target / "ledger.sqlite.tmp").write_bytes(b"half a ledger")
    (target / "ledger.sqlite.tmp-journal").write_bytes(b"and its journal")
    (target / "images" / "ab" / "x.png.tmp").write_bytes(b"half an image")
    backup(store, target)
    assert len(replies(target)) == 3
    assert not list(target.rglob("*.tmp*"))


def test_places_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = paid_store(tmp_path / "a" / "store")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    paid_store(tmp_path / "another store")
    for place in (store, store / "backup", store.parent, tmp_path / "other", tmp_path / "file", tmp_path / "another store"):
        assert main(["backup", str(store), str(place)]) == 2
        said = capsys.readouterr().err
        assert str(place) in said
        assert said.count("\n") == 1
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"thesis.tex"}
    assert not (store / "backup").exists()
    with pytest.raises(LedgerError, match="no ledger there"):
        backup(tmp_path / "stroe", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_damaged_ledger_takes_no_backups_place(tmp_path: Path) -> None:
    store, target = paid_store(tmp_path / "store", 200), tmp_path / "backup"
    backup(store, target)
    with closing(sqlite3.connect(store / "ledger.sqlite")) as ledger:
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray((store / "ledger.sqlite").read_bytes())
    for page in range(4096 * 8, len(data), 4096):
        data[page : page + 64] = b"\xff" * 64
    (store / "ledger.sqlite").write_bytes(data)
    with pytest.raises(LedgerError, match=r"damaged|malformed"):
        backup(store, target)
    assert len(replies(target)) == 200


def test_a_copy_is_whole_or_not_there(tmp_path: Path) -> None:
    """Whatever ends it: other bytes than the name says, or an error of the system."""
    (tmp_path / "image").write_bytes(b"bytes")
    copy = tmp_path / "copies/image"
    assert not copied(tmp_path / "image", copy, "0" * 64)
    assert list(copy.parent.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        copied(tmp_path / "gone", copy, "0" * 64)
    assert list(copy.parent.iterdir()) == []
    assert copied(tmp_path / "image", copy, hashlib.sha256(b"bytes").hexdigest())
    assert [path.name for path in copy.parent.iterdir()] == ["image"]
    assert copy.stat().st_mode & 0o077 == 0, "for its owner alone"
