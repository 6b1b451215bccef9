"""The ledger: one SQLite file that knows every image, every request ever sent, and what came of it.

A request is written down before it is sent and its raw reply before anything is done with it, so a crash at any instant loses
no reply that was received, and a request whose answer is not known is seen as such. One writer thread commits in groups:
waiting callers share one flush to disk (WAL, synchronous=FULL).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from data_prep.store.group_commit import GroupWriter, Job, LedgerError, SqlValue, Statement, ledger_errors, reader
from data_prep.store.rows import Item, Outcome
from data_prep.store.tables import LEDGER_VERSION, prepare

_GATHER = 0.002
"""Seconds that a write waits for company before it is committed."""

CallState = Literal["intent", "batched", "reply", "rejected", "unsent", "unknown"]
"""intent: about to be sent; batched: in a batch whose results are not here yet; reply: answered (2xx); rejected: any other HTTP
status; unsent: no connection came about, the pass stopped before it was sent, or its batch was never created; unknown: sent, and
what came of it is not known."""


class CallIntent(TypedDict):
    """Arguments of `Ledger.begin_call`, for those who send them to another process."""

    cache_key: str
    image_sha256: str
    prompt_sha256: str
    prompt: str
    annotator: str
    model: str
    party: NotRequired[str | None]
    started: float
    upper_nano: NotRequired[int | None]
    batch: NotRequired[int | None]


class CallEnd(TypedDict):
    """Arguments of `Ledger.end_call`, for those who send them to another process."""

    ended: float
    status: NotRequired[int | None]
    raw: NotRequired[bytes | None]
    error: NotRequired[str | None]
    tokens: NotRequired[tuple[int, int] | None]
    cost_nano: NotRequired[int | None]
    answered_model: NotRequired[str | None]


@dataclass(frozen=True)
class FormerCall:
    """A call of before the ledger knew who was asked (version 0.2.0): answered, in a batch, or of unknown outcome."""

    annotator: str
    """Name of the endpoint at that time."""
    state: CallState
    raw: bytes | None
    """Of a reply."""
    base_url: str | None
    """Of a batch that it travelled in."""


class Ledger:
    """The ledger of one store. Reads may happen anywhere in the thread that opened it; writes go through one thread."""

    def __init__(self, path: Path, *, write: bool) -> None:
        if not write and not path.exists():
            msg = f"{path}: no ledger there; `emo prep import` makes a store"
            raise LedgerError(msg)
        self.path = path
        self._writer = GroupWriter(path) if write else None
        with ledger_errors(path):
            self._read = sqlite3.connect(path, isolation_level=None) if write else reader(path)
            version = self._read.execute("PRAGMA user_version").fetchone()[0]
        if version != LEDGER_VERSION:
            msg = f"{path}: ledger version {version}, this program knows {LEDGER_VERSION}"
            raise LedgerError(msg)
        with ledger_errors(path):
            try:
                prepare(self._read)
            except sqlite3.OperationalError as error:
                msg = f"{path}: made by an older program, and its new tables cannot be added: {error}"
                raise LedgerError(msg) from None
            known = {row[1] for row in self._read.execute("PRAGMA table_info(calls)")}
            newest = self._read.execute("SELECT max(id) FROM calls").fetchone()[0]
        # An archive of an older program, which nothing can be added to, has no such column.
        self._no_party = "c.party IS NULL" if "party" in known else "TRUE"
        self._former: set[tuple[str, str]] | None = None
        self._waiting: list[Job] = []
        self._next_call = 1 + (newest or 0)

    def close(self) -> None:
        """Finish pending writes, also those whose callers were cancelled (a reply is among them), and close the file."""
        if self._writer:
            self._flush()
            self._writer.close()
        self._read.close()

    async def write(self, *statements: Statement) -> None:
        """Run statements in one transaction; returns when they are on disk."""
        if self._writer is None:
            msg = f"{self.path}: opened for reading"
            raise LedgerError(msg)
        # Loaded when used: `emo prep status` reads without it, and is to answer at once.
        import asyncio

        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            # Callers of the same moment travel together: waking the writer for each one costs more than the wait.
            loop.call_later(_GATHER, self._flush)
        self._waiting.append(Job(statements, done, loop))
        await done

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._submit(*waiting)

    def write_now(self, *statements: Statement) -> None:
        """As `write`, outside of asyncio."""
        from concurrent.futures import Future

        done: Future[None] = Future()
        self._submit(Job(statements, done, None))
        done.result()

    def _submit(self, *jobs: Job) -> None:
        if self._writer is None:
            msg = f"{self.path}: opened for reading"
            raise LedgerError(msg)
        self._writer.submit(jobs)

    # -- items ---------------------------------------------------------------------------------------------------------

    def add_items(self, items: Iterable[Item]) -> None:
        """Insert items; one that is there already (same id) stays as it is."""
        marks = ",".join("?" * 13)
        self.write_now(*((f"INSERT OR IGNORE INTO items VALUES ({marks})", item.row()) for item in items))

    def items(self) -> Iterator[Item]:
        """All items, by id."""
        for row in self._read.execute("SELECT * FROM items ORDER BY id"):
            yield Item.from_row(row)

    def duplicates(self) -> dict[str, str]:
        """Items that dedup leaves out, and which one is kept instead, by id."""
        return dict(self._read.execute("SELECT item_id, kept_id FROM duplicates"))

    def item_keys(self, source: str) -> dict[str, str]:
        """sha256 of what is imported already of a source, by key."""
        return dict(self._read.execute("SELECT key, sha256 FROM items WHERE source = ?", (source,)))

    # -- calls ---------------------------------------------------------------------------------------------------------

    def recover(self) -> int:
        """Turn intents that a dead process left into `unknown`; returns how many. Only for the holder of the store's lock.

        Requests in batches are not touched: what became of them can be asked of the provider.
        """
        count = self._read.execute("SELECT count(*) FROM calls WHERE state = 'intent'").fetchone()[0]
        if count:
            self.write_now(("UPDATE calls SET state = 'unknown', error = 'process ended' WHERE state = 'intent'", ()))
        return int(count)

    def cached_reply(self, cache_key: str) -> bytes | None:
        """The raw body of the reply to this very request, if it was ever received."""
        row = self._read.execute(
            "SELECT raw FROM calls WHERE cache_key = ? AND state = 'reply' LIMIT 1", (cache_key,)
        ).fetchone()
        return row[0] if row else None

    def former_calls(self, cache_key: str) -> list[FormerCall]:
        """Calls of this key without a party, the newest last."""
        query = (
            "SELECT c.annotator, c.state, CASE c.state WHEN 'reply' THEN c.raw END, b.base_url FROM calls c "
            f"LEFT JOIN batches b ON b.id = c.batch WHERE c.cache_key = ? AND {self._no_party} "
            "AND c.state IN ('reply', 'batched', 'unknown') ORDER BY c.id"
        )
        return [FormerCall(*row) for row in self._read.execute(query, (cache_key,))]

    def has_former_calls(self, annotator: str, model: str) -> bool:
        """Whether calls without a party were made under this name; looked up once."""
        if self._former is None:
            query = f"SELECT DISTINCT annotator, model FROM calls c WHERE {self._no_party} AND state = 'reply'"
            self._former = set(self._read.execute(query))
        return (annotator, model) in self._former

    def is_open(self, cache_key: str, state: Literal["unknown", "batched"]) -> bool:
        """Whether this request was once sent without its outcome being known, or travels in a batch."""
        query = "SELECT 1 FROM calls WHERE cache_key = ? AND state = ? LIMIT 1"
        return self._read.execute(query, (cache_key, state)).fetchone() is not None

    async def begin_call(
        self,
        *,
        cache_key: str,
        image_sha256: str,
        prompt_sha256: str,
        prompt: str,
        annotator: str,
        model: str,
        started: float,
        upper_nano: int | None = None,
        batch: int | None = None,
        party: str | None = None,
    ) -> int:
        """Write the intent to send a request; returns the id of the call once it is on disk.

        Args:
            cache_key: what a later request must have to be answered by this call's reply.
            image_sha256: of the image that is asked about.
            prompt_sha256: of `prompt`.
            prompt: what is asked.
            annotator: who is asked, by name.
            model: of the endpoint.
            started: seconds since the epoch.
            upper_nano: the most that the call can cost; None where nothing limits it.
            batch: row of `batches` that the request travels in; the call is `batched` then.
            party: who is asked, with `model`.
        """
        call_id, self._next_call = self._next_call, self._next_call + 1
        await self.write(
            ("INSERT OR IGNORE INTO prompts VALUES (?, ?)", (prompt_sha256, prompt)),
            (
                "INSERT INTO calls (id, cache_key, image_sha256, prompt_sha256, annotator, model, state, started, upper_nano, "
                "batch, party) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(call_id, cache_key, image_sha256, prompt_sha256, annotator, model),
                    *("intent" if batch is None else "batched", started, upper_nano, batch, party),
                ),
            ),
        )
        return call_id

    async def end_call(
        self,
        call_id: int,
        state: CallState,
        *,
        ended: float,
        status: int | None = None,
        raw: bytes | None = None,
        error: str | None = None,
        tokens: tuple[int, int] | None = None,
        cost_nano: int | None = None,
        answered_model: str | None = None,
    ) -> None:
        """Write what came of a request: tokens are (prompt, output); a cost of None means that the reply named no usage."""
        prompt_tokens, output_tokens = tokens or (None, None)
        values = (state, status, raw, error, prompt_tokens, output_tokens, cost_nano, ended, answered_model, call_id)
        await self.write(
            (
                "UPDATE calls SET state = ?, status = ?, raw = ?, error = ?, prompt_tokens = ?, output_tokens = ?, "
                "cost_nano = ?, ended = ?, answered_model = ? WHERE id = ?",
                values,
            )
        )

    def call_totals(self) -> list[tuple[str, str, int, int, int]]:
        """(annotator, state, calls, nano-dollars, replies without usage), sorted.

        A reply that names no usage is counted at the most that its request can cost.
        """
        query = (
            "SELECT annotator, state, sum(calls), sum(cost_nano), sum(estimated) FROM call_counts "
            "GROUP BY annotator, state HAVING sum(calls) > 0 ORDER BY annotator, state"
        )
        return list(self._read.execute(query))

    def total_cost(self) -> int:
        """Nano-dollars of everything ever paid, discarded and unparsable replies included."""
        return int(self._read.execute("SELECT coalesce(sum(cost_nano), 0) FROM call_counts").fetchone()[0])

    def open_calls(self) -> dict[str, tuple[int, int, int]]:
        """By state (`intent`, `batched`, `unknown`): calls, the most that they can cost in nano-dollars, calls without a bound."""
        query = (
            "SELECT state, sum(calls), sum(upper_nano), sum(unbounded) FROM call_counts "
            "WHERE state IN ('intent', 'batched', 'unknown') GROUP BY state HAVING sum(calls) > 0"
        )
        return {state: (calls, upper, unbounded) for state, calls, upper, unbounded in self._read.execute(query)}

    def read(self, query: str, values: Sequence[SqlValue] = ()) -> list[tuple[Any, ...]]:
        """Rows of a SELECT, for rooms that keep tables of their own here."""
        return self._read.execute(query, values).fetchall()

    # -- outcomes and groundings ----------------------------------------------------------------------------------------

    async def set_outcome(self, outcome: Outcome) -> None:
        """Write or replace the outcome of an item."""
        values = (outcome.item_id, outcome.state, outcome.config, outcome.revisions, outcome.record)
        query = (
            "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET state = excluded.state, "
            "config = excluded.config, revisions = excluded.revisions, record = excluded.record"
        )
        await self.write((query, values))

    def outcomes(self) -> Iterator[tuple[Item, Outcome]]:
        """Items that have an outcome, by id."""
        query = "SELECT items.*, outcomes.* FROM items JOIN outcomes ON items.id = outcomes.item_id ORDER BY items.id"
        for row in self._read.execute(query):
            yield Item.from_row(row[:13]), Outcome(*row[13:])

    def outcome_configs(self) -> dict[str, str]:
        """Digest of the configuration that decided, by item."""
        return dict(self._read.execute("SELECT item_id, config FROM outcomes"))

    def outcome_counts(self) -> dict[str, int]:
        """Items by state; those without an outcome are `duplicate` where dedup leaves them out, else `pending`."""
        rows = self._read.execute("SELECT name, key, n FROM row_counts WHERE n > 0 ORDER BY key").fetchall()
        total = sum(n for name, _, n in rows if name == "items")
        counts = {"duplicate" if name == "duplicates" else key: n for name, key, n in rows if name != "items"}
        return {**counts, "pending": total - sum(counts.values())}

    def grounding(self, image_sha256: str, phrase: str, backend: str) -> str | None:
        """Candidates found before (JSON list of `schema.GroundedObject`)."""
        query = "SELECT objects FROM groundings WHERE image_sha256 = ? AND phrase = ? AND backend = ?"
        row = self._read.execute(query, (image_sha256, phrase, backend)).fetchone()
        return row[0] if row else None

    def add_groundings(self, rows: Iterable[tuple[str, str, str, str]]) -> None:
        """Store candidates: rows of (image_sha256, phrase, backend, objects as JSON)."""
        self.write_now(*(("INSERT OR REPLACE INTO groundings VALUES (?, ?, ?, ?)", row) for row in rows))
