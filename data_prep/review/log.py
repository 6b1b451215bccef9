"""The rows of reviewers in the ledger: added at once, never changed; and what the page reads of a store.

Reviews cost nothing, so they do not need the store's lock: a pass may run while somebody reviews.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from data_prep.review.decisions import Review, ReviewError, reviewed
from data_prep.review.messages import RegionJSON
from data_prep.store.group_commit import LedgerError, reader, writable
from data_prep.store.ledger import Ledger
from data_prep.store.rows import Item, Outcome, stored_json

_COLUMNS = "id, item_id, field, reviewer, verdict, shown, value, time, undoes"
_INSERT = "INSERT INTO reviews (item_id, field, reviewer, verdict, shown, value, time, undoes) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_BUSY = 30.0
"""Seconds to wait for another writer of the ledger."""


def read_reviews(path: Path) -> list[Review]:
    """All rows of a ledger, in the order of the history; none where nobody has reviewed yet."""
    with ReviewLog(path, write=False) as log:
        return log.reviews()


def reviewed_outcomes(ledger: Ledger) -> Iterator[tuple[Item, Outcome]]:
    """As `Ledger.outcomes`, with what humans decided applied; costs one extra read where nobody has reviewed."""
    by_item: dict[str, list[Review]] = {}
    for row in read_reviews(ledger.path):
        by_item.setdefault(row.item_id, []).append(row)
    for item, outcome in ledger.outcomes():
        yield item, reviewed(outcome, by_item.get(item.id, ()))


class StaleError(Exception):
    """A signal to the session: the page has not seen everything that was decided since."""


class ReviewLog:
    """Rows of reviewers and participants; may be used from any thread.

    Args:
        path: the ledger of a store.
        write: rows can be added.

    Raises:
        LedgerError: there is no ledger, or it is of another version.
    """

    def __init__(self, path: Path, *, write: bool) -> None:
        # Checks what there is, and adds our tables to a store that was made before they were known.
        Ledger(path, write=False).close()
        self.path = path
        self._lock = threading.RLock()
        if not write:
            self._db = reader(path, check_same_thread=False)
            self._db.execute("PRAGMA query_only = ON")
            return
        if not writable(path):
            msg = f"{path}: cannot be written; decisions could not be kept"
            raise LedgerError(msg)
        uri = f"{path.resolve().as_uri()}?mode=rw"
        self._db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=_BUSY)
        self._db.execute("PRAGMA synchronous = FULL")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def write(self, statements: Iterable[tuple[str, Sequence[object]]], check: Callable[[], None] | None = None) -> list[int]:
        """Run statements in one transaction, on disk when this returns; the row ids that they inserted.

        Args:
            statements: to run.
            check: called first, when nobody else can write any more; what it raises ends the transaction.
        """
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                if check is not None:
                    check()
                ids = [int(self._db.execute(sql, values).lastrowid or 0) for sql, values in statements]
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            return ids

    # -- reviews -------------------------------------------------------------------------------------------------------

    def reviews(self, *, item_id: str | None = None, reviewer: str | None = None) -> list[Review]:
        """Rows in the order of the history, of one item or reviewer or of all."""
        wanted = [(column, value) for column, value in (("item_id", item_id), ("reviewer", reviewer)) if value is not None]
        where = " AND ".join(f"{column} = ?" for column, _ in wanted) or "1"
        rows = self.query(f"SELECT {_COLUMNS} FROM reviews WHERE {where} ORDER BY id", [value for _, value in wanted])
        return [_review(row) for row in rows]

    def version(self, reviewer: str, item_id: str | None = None) -> int:
        """The place of the last row of a reviewer (about an item), 0 where there is none; it only grows."""
        sql = "SELECT coalesce(max(id), 0) FROM reviews WHERE reviewer = ? AND item_id = coalesce(?, item_id)"
        return int(self.query(sql, (reviewer, item_id))[0][0])

    def add(self, reviews: Sequence[Review], *, seen: int | None = None) -> list[int]:
        """Add rows in one transaction; their places in the history.

        Args:
            reviews: the rows; with `seen`, of one reviewer about one item.
            seen: the `version` that the reviewer has seen of the item; None where nobody has looked.

        Raises:
            StaleError: there are newer rows than `seen`; nothing was added.
        """

        def check() -> None:
            if self.version(reviews[0].reviewer, reviews[0].item_id) != seen:
                raise StaleError

        return self.write([(_INSERT, _row(review)) for review in reviews], None if seen is None else check)

    def undo(self, reviewer: str, seen: int | None = None) -> list[Review]:
        """Take back the last thing that a reviewer did (all rows of the moment); the rows taken back, none if there are none.

        Args:
            reviewer: who.
            seen: the `version` of the reviewer that the page knows; None where there is no page.

        Raises:
            StaleError: the reviewer has decided something since that the page does not know; nothing was taken back.
        """

        def check() -> None:
            if seen is not None and self.version(reviewer) != seen:
                raise StaleError

        with self._lock:
            check()
            rows = self.reviews(reviewer=reviewer)
            gone = {row.undoes for row in rows if row.undoes is not None}
            left = [row for row in rows if row.undoes is None and row.id not in gone]
            if not left:
                return []
            last = [row for row in left if (row.item_id, row.time) == (left[-1].item_id, left[-1].time)]
            now = time.time()
            rows = [Review(r.item_id, r.field, reviewer, "undone", r.shown, None, now, r.id) for r in last]
            self.write([(_INSERT, _row(row)) for row in rows], check)
            return last

    # -- what the page reads of a store ------------------------------------------------------------------------------------

    def strata(self, states: Sequence[str]) -> list[tuple[str, str, str, str]]:
        """(item id, source, state, emotion or '') of every outcome in one of the states, by id."""
        marks = ",".join("?" * len(states))
        sql = (
            "SELECT items.id, items.source, outcomes.state, coalesce(json_extract(outcomes.record, '$.emotion'), '') "
            f"FROM items JOIN outcomes ON items.id = outcomes.item_id WHERE outcomes.state IN ({marks}) ORDER BY items.id"
        )
        return [(str(a), str(b), str(c), str(d)) for a, b, c, d in self.query(sql, states)]

    def outcome(self, item_id: str) -> tuple[Item, Outcome]:
        """An item and its outcome.

        Raises:
            ReviewError: there is no such item, or it has no outcome.
        """
        sql = "SELECT items.*, outcomes.* FROM items JOIN outcomes ON items.id = outcomes.item_id WHERE items.id = ?"
        for row in self.query(sql, (item_id,)):
            return Item.from_row(row[:-5]), Outcome(*row[-5:])
        msg = f"{item_id!r}: no item of that name has an outcome in {self.path}"
        raise ReviewError(msg)

    def outcomes(self, source: str | None) -> Iterator[tuple[Item, Outcome]]:
        """Items of a source (None: of all) that have an outcome, by id."""
        sql = "SELECT items.*, outcomes.* FROM items JOIN outcomes ON items.id = outcomes.item_id"
        for row in self.query(f"{sql} WHERE items.source = coalesce(?, items.source) ORDER BY items.id", (source,)):
            yield Item.from_row(row[:-5]), Outcome(*row[-5:])

    def items(self, source: str | None) -> Iterator[Item]:
        """Items of a source (None: of all), by id."""
        for row in self.query("SELECT * FROM items WHERE source = coalesce(?, source) ORDER BY id", (source,)):
            yield Item.from_row(row)

    def candidates(self, image_sha256: str) -> list[RegionJSON]:
        """Everything that grounding ever found in an image (`GroundedObject` as JSON), whatever the phrase and backend."""
        rows = self.query("SELECT objects FROM groundings WHERE image_sha256 = ? ORDER BY phrase, backend", (image_sha256,))
        return [candidate for (objects,) in rows for candidate in stored_json(objects, "groundings", list)]


def _row(review: Review) -> tuple[object, ...]:
    value = None if review.value is None else json.dumps(review.value, ensure_ascii=False)
    shown = json.dumps(review.shown, ensure_ascii=False)
    return review.item_id, review.field, review.reviewer, review.verdict, shown, value, review.time, review.undoes


def _review(row: Sequence[Any]) -> Review:
    place, item_id, field, reviewer, verdict, shown, value, moment, undoes = row
    mend = None if value is None else stored_json(value, f"a review of {item_id!r}", object)
    was = stored_json(shown, f"a review of {item_id!r}", object)
    return Review(item_id, field, reviewer, verdict, was, mend, moment, undoes, place)
