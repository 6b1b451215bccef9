"""What the ledger knows of batches, and how their results are written."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from data_prep.store.ledger import CallState, Ledger

_COLUMNS = "id, token, endpoint, base_url, model, state, requests, file_id, remote_id, remote_status, started"
_CHUNK = 500
"""Results per transaction."""


@dataclass(frozen=True)
class Batch:
    """A row of `batches` that has not ended."""

    id: int
    token: str
    """Our name for it, in the provider's metadata."""
    endpoint: str
    base_url: str
    model: str
    state: str
    requests: int
    file_id: str | None
    remote_id: str | None
    remote_status: str | None
    started: float
    """When it was collected, or, from `creating` on, when its creation was asked for."""


@dataclass(frozen=True)
class BatchResult:
    """What came of one request of a batch."""

    key: str
    """Its cache key, which is its `custom_id`."""
    state: CallState
    status: int | None = None
    raw: bytes | None = None
    error: str | None = None
    tokens: tuple[int, int] | None = None
    cost_nano: int | None = 0
    """None: a reply that names no usage, to be counted at its bound."""
    answered_model: str | None = None
    """That the reply names."""


def open_batches(ledger: Ledger) -> list[Batch]:
    """Batches that have not ended, oldest first."""
    return [Batch(*row) for row in ledger.read(f"SELECT {_COLUMNS} FROM batches WHERE state != 'ended' ORDER BY id")]


def keys_of(ledger: Ledger, batch: int) -> frozenset[str]:
    """Cache keys of the requests that travel in a batch."""
    return frozenset(key for (key,) in ledger.read("SELECT cache_key FROM calls WHERE batch = ?", (batch,)))


async def open_batch(ledger: Ledger, token: str, endpoint: str, base_url: str, model: str) -> int:
    """Begin to collect; returns the id of the row once it is on disk."""
    query = "INSERT INTO batches (token, endpoint, base_url, model, state, requests, started) VALUES (?, ?, ?, ?, ?, 0, ?)"
    await ledger.write((query, (token, endpoint, base_url, model, "collecting", time.time())))
    return int(ledger.read("SELECT id FROM batches WHERE token = ?", (token,))[0][0])


async def mark_creating(ledger: Ledger, batch: int, requests: int, file_id: str) -> None:
    """The next thing that happens is the request to create it."""
    query = "UPDATE batches SET state = 'creating', requests = ?, file_id = ?, started = ? WHERE id = ?"
    await ledger.write((query, (requests, file_id, time.time(), batch)))


async def mark_created(ledger: Ledger, batch: int, remote_id: str, status: str) -> None:
    """The provider knows it."""
    query = "UPDATE batches SET state = 'created', remote_id = ?, remote_status = ? WHERE id = ?"
    await ledger.write((query, (remote_id, status, batch)))


async def mark_status(ledger: Ledger, batch: int, status: str) -> None:
    """What the provider says of it now."""
    await ledger.write(("UPDATE batches SET remote_status = ? WHERE id = ?", (status, batch)))


async def end_batch(ledger: Ledger, batch: int, left: CallState, error: str | None) -> None:
    """Nothing more comes of it.

    Args:
        ledger: opened for writing.
        batch: row.
        left: state of its calls that have no result: `unsent` where they certainly were not answered, else `unknown`.
        error: why, for the ledger.
    """
    now = time.time()
    cost = 0 if left == "unsent" else None
    await ledger.write(
        (
            "UPDATE calls SET state = ?, error = ?, ended = ?, cost_nano = ? WHERE batch = ? AND state = 'batched'",
            (left, error, now, cost, batch),
        ),
        ("UPDATE batches SET state = 'ended', ended = ?, error = ? WHERE id = ?", (now, error, batch)),
    )


async def write_results(ledger: Ledger, batch: int, results: Iterable[BatchResult]) -> None:
    """Write results; one that is there already stays as it is, so this may be repeated after a crash.

    A reply comes before what is none: a provider may name a request twice.
    """
    now = time.time()
    query = (
        "UPDATE calls SET state = ?, status = ?, raw = ?, error = ?, prompt_tokens = ?, output_tokens = ?, "
        "cost_nano = coalesce(?, upper_nano, 0), ended = ?, answered_model = ? WHERE batch = ? AND cache_key = ? "
        "AND (state = 'batched' OR (? = 'reply' AND state != 'reply'))"
    )
    rows = [
        (
            query,
            (
                r.state,
                r.status,
                r.raw,
                r.error,
                *(r.tokens or (None, None)),
                r.cost_nano,
                now,
                r.answered_model,
                batch,
                r.key,
                r.state,
            ),
        )
        for r in results
    ]
    for start in range(0, len(rows), _CHUNK):
        await ledger.write(*rows[start : start + _CHUNK])
