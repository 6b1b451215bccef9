"""A caller that collects questions into batches instead of asking them one by one."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_prep.provider.attempts import Attempts
from data_prep.provider.base import Question, RemoteBatch
from data_prep.provider.batch import records
from data_prep.provider.batch.records import Batch, BatchResult
from data_prep.provider.batch.service import BatchNotCreatedError, BatchService
from data_prep.provider.batch.spool import Spool, drop_files
from data_prep.provider.batch.takeover import TakeOver
from data_prep.provider.caller import Caller
from data_prep.provider.config import BatchConfig, EndpointConfig
from data_prep.provider.failures import CallError, Failure
from data_prep.provider.outage import in_words
from data_prep.provider.prices import Price
from data_prep.provider.request import Request
from data_prep.provider.transport import HttpAnswer
from data_prep.settings import ConfigError
from data_prep.store.ledger import Ledger

_WAITING = Failure("batched", "travels in a batch")


@dataclass
class _Open:
    """A file that still takes requests, and its row."""

    spool: Spool
    row: int


def check_batch_prices(prices: Mapping[str, Price], endpoints: Sequence[EndpointConfig]) -> None:
    """Whether a pass with `--batch` can pay for what it sends in batches.

    Raises:
        ConfigError: no endpoint has batches, or a model of one has no price for them.
    """
    if not any(e.batch for e in endpoints):
        msg = "--batch: no annotator and no critic has `batch: true`"
        raise ConfigError(msg)
    if without := sorted({e.model for e in endpoints if e.batch and prices[e.model].batch is None}):
        msg = f"--batch: the price table has no batch price for {', '.join(without)}"
        raise ConfigError(msg)


class BatchCaller(Caller):
    """As `Caller`; endpoints with `batch: true` are asked through the Batch API, the others one by one.

    A question that has no reply yet goes into a file and counts as not answered (`Failure("batched")`). `submit` sends the
    files off, `collect` waits for a batch to end and puts its replies into the ledger; the items are then gone through again.

    Args:
        ledger, prices, endpoints, resend_unknown, limit_nano, attempts: see `Caller`.
        folder: where files of requests lie until their batch has ended.
        settings: limits and intervals.
        new: whether new batches are made; else open ones are only waited for, and everything is asked one by one.

    Raises:
        ConfigError: as `Caller`; or no endpoint asks through batches, or one has no batch price; or a batch is open at an address
            that the configuration does not have.
    """

    def __init__(
        self,
        ledger: Ledger,
        prices: Mapping[str, Price],
        endpoints: list[EndpointConfig],
        *,
        folder: Path,
        settings: BatchConfig,
        new: bool,
        resend_unknown: bool = False,
        limit_nano: int | None = None,
        attempts: Callable[..., Attempts] = Attempts,
    ) -> None:
        super().__init__(ledger, prices, endpoints, resend_unknown=resend_unknown, limit_nano=limit_nano, attempts=attempts)
        self._folder, self._settings, self._new = folder, settings, new
        self._services: dict[str, BatchService] = {}
        """By name; of the endpoints whose provider has a Batch API."""
        without = []
        for e in endpoints:
            provider = self.attempts.provider(e)
            if (api := provider.batches(self.attempts.connections[e.name])) is not None:
                self._services[e.name] = BatchService(api, provider, e.base_url, self.stop, e.max_outage)
            elif e.batch and new:
                without.append(f"{e.name} ({e.provider})")
        if without:
            msg = f"--batch: the provider of {', '.join(without)} has no Batch API here; set `batch: false`"
            raise ConfigError(msg)
        self._open: dict[str, _Open] = {}
        self._locks = {e.name: asyncio.Lock() for e in endpoints}
        self._most = {e.name: settings.max_requests for e in endpoints}
        self._tries: Counter[str] = Counter()
        self._failed: dict[str, Failure] = {}
        self._not_taken: dict[str, float] = {}
        """By address: when a batch was first asked for, and not made, since the last one that was."""
        self._takeover = TakeOver(ledger, folder, settings.settle_seconds, self.tally)
        self._names = {e.name: e for e in endpoints}
        self._check(prices, endpoints)

    def _check(self, prices: Mapping[str, Price], endpoints: list[EndpointConfig]) -> None:
        if self._new:
            check_batch_prices(prices, endpoints)
        for batch in records.open_batches(self.ledger):
            if not self._accounts(batch) or getattr(prices.get(batch.model), "batch", None) is None:
                msg = (
                    f"a batch of {batch.requests} requests is open at {batch.base_url} for model {batch.model!r}; "
                    "the configuration must have that address and the model's batch price until it has ended"
                )
                raise ConfigError(msg)

    async def close(self) -> None:
        """Drop what was collected and not sent, then close the connections."""
        for current in self._open.values():
            current.spool.close()
            await self._drop(current.row, current.spool.token, "the run ended before it was sent")
        self._open.clear()
        await super().close()

    # -- questions ---------------------------------------------------------------------------------------------------------

    async def buy(self, request: Request, key: str) -> bytes | Failure:
        """A file takes the question, unless its endpoint is asked directly."""
        endpoint = request.endpoint
        if not (self._new and endpoint.batch):
            return await super().buy(request, key)
        if key in self._failed:
            return self._failed[key]
        if self._tries[key] >= endpoint.max_attempts:
            return Failure("gave_up", f"{endpoint.max_attempts} attempts in batches")
        price = self.prices[endpoint.model].batch
        assert price is not None, "checked at the start"
        # The images of a batch are counted as those of single requests.
        bound = request.upper_nano(price.model_copy(update={"image": self.prices[endpoint.model].image}))
        upper = self.budget.scaled(endpoint.model, bound or 0)
        if not self.budget.fits(upper):
            return Failure("budget", "does not fit the budget")
        self.budget.held += upper
        async with self._locks[endpoint.name]:
            await self._add(request, key, None if bound is None else upper)
        return _WAITING

    async def _add(self, request: Request, key: str, upper: int | None) -> None:
        await self.attempts.disk_space.wait(self.stop.is_requested)
        endpoint = request.endpoint
        line = self._services[endpoint.name].api.line(self.attempts.question(request), key)
        current = self._open.get(endpoint.name)
        if current and (
            current.spool.requests >= self._most[endpoint.name] or current.spool.bytes + len(line) > self._settings.max_bytes
        ):
            await self._launch(endpoint.name)
            current = None
        if current is None:
            spool = Spool(self._folder)
            row = await records.open_batch(self.ledger, spool.token, endpoint.name, endpoint.base_url, endpoint.model)
            current = self._open[endpoint.name] = _Open(spool, row)
        current.spool.add(line)
        await self.ledger.begin_call(**request.intent(key, upper, current.row))
        self.tally.requests += 1
        self.tally.batched += 1

    # -- batches -----------------------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Bring what an earlier run left behind to a known state; nothing is sent again that may have been taken."""
        for batch in records.open_batches(self.ledger):
            if batch.state == "collecting":
                await self._drop(batch.id, batch.token, "the run ended before it was sent")
            elif batch.state == "creating" or not batch.remote_id:
                await self._settle(batch)
        self._recount()

    async def submit(self) -> None:
        """Send off every file that has requests."""
        for name in list(self._open):
            async with self._locks[name]:
                await self._launch(name)

    async def _launch(self, name: str) -> None:
        current = self._open.pop(name)
        spool, service = current.spool, self._services[name]
        spool.close()
        try:
            file_id = await service.upload(spool.path)
        except CallError as error:
            await self._drop(current.row, spool.token, str(error))
            msg = f"{name}: {error}"
            raise self.stop.fail(msg) from None
        await records.mark_creating(self.ledger, current.row, spool.requests, file_id)
        try:
            remote = await service.create(file_id, spool.token)
        except BatchNotCreatedError as error:
            await self._drop(current.row, spool.token, str(error))
            msg = f"{name}: the batch was not created: {error}"
            raise self.stop.fail(msg) from None
        if remote is not None and remote.id:
            await self._created(current.row, service.base_url, remote)
            return
        batch = next(b for b in self.open() if b.id == current.row)
        await self._settle(batch, made=remote is not None)

    async def _created(self, row: int, base_url: str, remote: RemoteBatch) -> None:
        await records.mark_created(self.ledger, row, remote.id, remote.status)
        self._not_taken.pop(base_url, None)

    async def _settle(self, batch: Batch, *, made: bool = False) -> None:
        """Find out whether a batch was created, and under which id.

        Args:
            batch: without an id.
            made: the provider said so, and gave it none.
        """
        accounts = self._accounts(batch)
        found = None
        for service in accounts:
            found = found or await service.find(batch, self._settings.settle_seconds)
        if found is not None and found.id:
            await self._created(batch.id, batch.base_url, found)
        elif found is not None or made or batch.state == "created":
            why = "the provider made it and names no id, so nothing can be asked of it"
            await self._takeover.lose(batch, why)
            msg = f"{batch.endpoint}: {batch.base_url}: a batch of {batch.requests} requests may have been paid, and is lost: {why}"
            raise self.stop.fail(msg)
        else:
            await self._drop(batch.id, batch.token, "the provider knows no such batch")
            # Its requests are collected again by the next sweep.
            silent = time.monotonic() - self._not_taken.setdefault(batch.base_url, time.monotonic())
            if silent > accounts[0].patience:
                msg = f"{batch.endpoint}: {batch.base_url} has made no batch for {in_words(silent)}"
                raise self.stop.fail(msg)

    async def _drop(self, row: int, token: str, why: str) -> None:
        await records.end_batch(self.ledger, row, "unsent", why)
        drop_files(self._folder, token)

    def _accounts(self, batch: Batch) -> list[BatchService]:
        """Who may know a batch: the account of its endpoint, then the others at its address.

        Two endpoints at one address may have two keys, and an endpoint may have another one than when the batch was made.
        """
        here = sorted((e for e in self._names.values() if e.base_url == batch.base_url), key=lambda e: e.name != batch.endpoint)
        by_key = {e.api_key_env: self._services[e.name] for e in reversed(here) if e.name in self._services}
        return list(reversed(by_key.values()))

    def open(self) -> list[Batch]:
        """Batches that the provider works on."""
        return records.open_batches(self.ledger)

    async def collect(self) -> None:
        """Wait until at least one batch has ended, or has brought replies, and take them over.

        Raises:
            PassStoppedError: the pass was asked to stop; the batches go on.
            CallError: the provider refuses every batch, or the key that made one is not taken any more.
        """
        while waiting := self.open():
            moved = False
            for batch in waiting:
                price = self.prices[batch.model].batch
                assert price is not None, "checked at the start"
                note = partial(self._note, self._names.get(batch.endpoint))
                look = await self._takeover.look(batch, self._accounts(batch), price, note)
                self._tries.update(look.left if look.refused is None else ())
                if look.refused is not None:
                    await self._refused(batch, look.refused)
                moved |= look.ended or look.brought > 0
            if moved:
                self._recount()
                return
            await self._accounts(waiting[0])[0].sleep(self._settings.poll_seconds)

    async def cancel(self) -> int:
        """Ask the provider to end all open batches; what is answered by then is kept. Returns how many."""
        waiting = self.open()
        for batch in waiting:
            assert batch.remote_id is not None
            for service in self._accounts(batch):
                await service.cancel(batch.remote_id)
        return len(waiting)

    async def _refused(self, batch: Batch, remote: RemoteBatch) -> None:
        """A batch was not taken. Too large for the account's queue: smaller ones, later; anything else ends the pass."""
        if not remote.too_large or (batch.requests <= 1 and not self.open()):
            msg = f"{batch.endpoint}: {batch.base_url} refuses a batch: {'; '.join(remote.errors) or 'no reason given'}"
            raise self.stop.fail(msg)
        if not self.open():
            self._most[batch.endpoint] = max(1, batch.requests // 2)
        await self._accounts(batch)[0].sleep(self._settings.poll_seconds)

    def _note(self, endpoint: EndpointConfig | None, result: BatchResult) -> None:
        if result.state == "reply":
            self.tally.estimated += result.cost_nano is None
            return
        self._tries[result.key] += 1
        if result.status in (200, None):
            # An error inside, or it was not executed: it is collected again.
            return
        self.tally.statuses[result.status] += 1
        answer = HttpAnswer(result.status, result.raw or b"", {})
        if endpoint and self.attempts.learn(endpoint, answer, Question(endpoint.model, (), None, endpoint.parameters)):
            return
        if result.status != 429 and result.status < 500:
            said = (result.raw or b"")[:300].decode("utf-8", "replace")
            self._failed[result.key] = Failure("refused", f"HTTP {result.status}: {said}")

    def _recount(self) -> None:
        """Nothing is in flight here: what is paid and held is what the ledger says."""
        self.tally.cost_nano += self.ledger.total_cost() - self.budget.paid
        self.budget.paid = self.ledger.total_cost()
        self.budget.held = sum(upper for _, upper, _ in self.ledger.open_calls().values())
