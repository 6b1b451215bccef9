"""Batches that were sent: looked at until they have ended, and what they brought is in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.provider.base import ENDED_BATCH_STATES, RemoteBatch
from data_prep.provider.batch import records
from data_prep.provider.batch.account import Account
from data_prep.provider.batch.doubt import Doubts
from data_prep.provider.batch.records import Batch, BatchResult
from data_prep.provider.batch.service import BatchService, GoneError
from data_prep.provider.batch.spool import drop_files, results_path
from data_prep.provider.budget import Tally
from data_prep.provider.prices import Price
from data_prep.store.ledger import CallState, Ledger

_PART = 500
"""Results that are written down at a time."""
_PART_BYTES = 32 * 2**20
"""Of their bodies."""


@dataclass(frozen=True)
class Look:
    """What one look at a batch brought."""

    ended: bool = False
    brought: int = 0
    """Results that are new."""
    left: list[str] = field(default_factory=list)
    """Keys of requests that an ended batch has no row for."""
    refused: RemoteBatch | None = None
    """It was not taken at all."""


class TakeOver:
    """Takes over what batches bring, however late their provider names it.

    Args:
        ledger: opened for writing.
        folder: of the files of requests; that of a batch is deleted when it has ended.
        settle: seconds for which it is not believed that a batch or file is gone.
        tally: told what is lost, and where counts and rows differ.
    """

    def __init__(self, ledger: Ledger, folder: Path, settle: float, tally: Tally) -> None:
        self._ledger, self._folder, self._settle, self._tally = ledger, folder, settle, tally
        self._doubts = Doubts()
        self._accounts: dict[int, Account] = {}

    async def look(
        self, batch: Batch, accounts: Sequence[BatchService], price: Price, note: Callable[[BatchResult], None]
    ) -> Look:
        """Ask how a batch is, and take over what its files hold.

        Args:
            batch: that its provider knows.
            accounts: that may know it; it is gone where none of them does.
            price: of the Batch API.
            note: told each result that is new, once it is in the ledger.
        """
        assert batch.remote_id, "a batch without a remote id is settled before"
        found, why = None, ""
        for service in accounts:
            try:
                found = service, await service.poll(batch.remote_id)
                break
            except GoneError as error:
                why = why or str(error)
        if found is None:
            # A list that lags behind is not believed at once.
            if not self._doubts.lasts(("batch", batch.id), self._settle):
                return Look()
            left = self._account(batch).left
            await self.lose(batch, why)
            return Look(ended=True, left=left)
        service, remote = found
        self._doubts.over("batch", batch.id)
        if remote.status != batch.remote_status:
            await records.mark_status(self._ledger, batch.id, remote.status)
        return await self._take(batch, remote, service, price, note) if remote.status in ENDED_BATCH_STATES else Look()

    async def lose(self, batch: Batch, why: str) -> None:
        """Nothing comes of the batch any more, and what it answered may have been paid."""
        self._tally.lost.append(f"{_named(batch)}: {why}")
        await self._end(batch, "unknown", f"lost, may have been paid: {why}")

    def _account(self, batch: Batch) -> Account:
        if batch.id not in self._accounts:
            self._accounts[batch.id] = Account(records.keys_of(self._ledger, batch.id))
        return self._accounts[batch.id]

    async def _take(
        self, batch: Batch, remote: RemoteBatch, service: BatchService, price: Price, note: Callable[[BatchResult], None]
    ) -> Look:
        account = self._account(batch)
        path = results_path(self._folder, batch.token)
        brought, open_ = 0, False
        gone: list[str] = []
        for file_id in remote.files:
            if file_id in account.files:
                continue
            try:
                whole = await service.download(file_id, path)
            except GoneError as error:
                gone.append(str(error))
                open_ |= not self._doubts.lasts(("file", batch.id, file_id), self._settle)
                continue
            if not whole:
                account.cut.append(f"file {file_id} is larger than the {path.stat().st_size:,} bytes that are read")
            brought += await self._read(batch, file_id, service.results(path, price), note)
            path.unlink()
        if open_:
            return Look(brought=brought)
        wait = account.waits(remote, service.patience, self._settle)
        if wait > 0 and not self._doubts.lasts(("unnamed", batch.id), wait):
            return Look(brought=brought)
        ending = account.ending(remote, [*gone, *account.cut])
        if ending.lost:
            await self.lose(batch, ending.lost)
        else:
            if ending.differs:
                self._tally.differs.append(f"{_named(batch)}: {ending.differs}")
            why = "; ".join(filter(None, (remote.status, *remote.errors, ending.differs)))
            await self._end(batch, ending.left, why)
        refused = remote if remote.status == "failed" and not ending.lost else None
        return Look(ended=True, brought=brought, left=account.left, refused=refused)

    async def _read(
        self, batch: Batch, file_id: str, found: Iterable[BatchResult | None], note: Callable[[BatchResult], None]
    ) -> int:
        """Write down what a file says, a part at a time; returns how many results are new."""
        account, brought = self._account(batch), 0
        try:
            for part in _parts(found):
                results = [result for result in part if result is not None]
                new = account.take(results, len(part) - len(results))
                await records.write_results(self._ledger, batch.id, new)
                self._tally.garbled += len(part) - len(results)
                for result in new:
                    note(result)
                brought += len(new)
        except BaseException:
            # What was counted of half a file is counted anew with the whole of it; what is written stays as it is.
            self._accounts.pop(batch.id, None)
            raise
        account.files.add(file_id)
        return brought

    async def _end(self, batch: Batch, left: CallState, why: str) -> None:
        await records.end_batch(self._ledger, batch.id, left, why[:1000])
        drop_files(self._folder, batch.token)
        self._accounts.pop(batch.id, None)


def _parts(found: Iterable[BatchResult | None]) -> Iterator[list[BatchResult | None]]:
    """Results by parts that memory holds, whatever the length of a file."""
    part: list[BatchResult | None] = []
    held = 0
    for result in found:
        part.append(result)
        held += len((result and result.raw) or b"")
        if len(part) >= _PART or held >= _PART_BYTES:
            yield part
            part, held = [], 0
    if part:
        yield part


def _named(batch: Batch) -> str:
    return f"batch {batch.remote_id or 'without an id'} of {batch.endpoint}, {batch.requests} requests"
