"""A caller that collects questions into batches instead of asking them one by one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_prep.provider.attempts import Attempts
from data_prep.provider.base import ENDED, Question, RemoteBatch
from data_prep.provider.batch import records
from data_prep.provider.batch.records import Batch, Result
from data_prep.provider.batch.service import BatchNotCreatedError, BatchService, GoneError
from data_prep.provider.batch.spool import Spool, spool_path
from data_prep.provider.caller import Caller
from data_prep.provider.config import BatchConfig, EndpointConfig
from data_prep.provider.failures import Failure
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
        """By address; of the endpoints whose provider has a Batch API."""
        without = []
        for e in endpoints:
            provider = self.attempts.provider(e)
            if (api := provider.batches(self.attempts.connections[e.name])) is not None:
                self._services[e.base_url] = BatchService(api, provider, e.base_url, self.stop, e.max_outage)
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
        self._since: dict[int, float] = {}
        """By row: since when a batch is not known to its provider, or has ended and its replies are not named."""
        self._names = {e.name: e for e in endpoints}
        self._check(prices, endpoints)

    def _check(self, prices: Mapping[str, Price], endpoints: list[EndpointConfig]) -> None:
        if self._new and not any(e.batch for e in endpoints):
            msg = "--batch: no annotator and no critic has `batch: true`"
            raise ConfigError(msg)
        without = sorted({e.model for e in endpoints if e.batch and prices[e.model].batch is None}) if self._new else []
        if without:
            msg = f"--batch: the price table has no batch price for {', '.join(without)}"
            raise ConfigError(msg)
        for batch in records.open_batches(self.ledger):
            if batch.base_url not in self._services or getattr(prices.get(batch.model), "batch", None) is None:
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
        line = self._services[endpoint.base_url].api.line(self.attempts.question(request), key)
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
            elif batch.state == "creating":
                await self._settle(batch)
        self._recount()

    async def submit(self) -> None:
        """Send off every file that has requests."""
        for name in list(self._open):
            async with self._locks[name]:
                await self._launch(name)

    async def _launch(self, name: str) -> None:
        current = self._open.pop(name)
        spool, service = current.spool, self._services[self._names[name].base_url]
        spool.close()
        file_id = await service.upload(spool.path)
        await records.mark_creating(self.ledger, current.row, spool.requests, file_id)
        try:
            remote = await service.create(file_id, spool.token)
        except BatchNotCreatedError as error:
            await self._drop(current.row, spool.token, str(error))
            msg = f"{name}: the batch was not created: {error}"
            raise self.stop.fail(msg) from None
        if remote is None:
            batch = next(b for b in records.open_batches(self.ledger) if b.id == current.row)
            await self._settle(batch)
        else:
            await self._created(current.row, self._names[name].base_url, remote)

    async def _created(self, row: int, base_url: str, remote: RemoteBatch) -> None:
        await records.mark_created(self.ledger, row, remote.id, remote.status)
        self._not_taken.pop(base_url, None)

    async def _settle(self, batch: Batch) -> None:
        """Find out whether a batch was created."""
        found = await self._services[batch.base_url].find(batch, self._settings.settle_seconds)
        if found is None:
            await self._drop(batch.id, batch.token, "the provider knows no such batch")
            # Its requests are collected again by the next sweep.
            silent = time.monotonic() - self._not_taken.setdefault(batch.base_url, time.monotonic())
            if silent > self._services[batch.base_url].patience:
                msg = f"{batch.endpoint}: {batch.base_url} has made no batch for {in_words(silent)}"
                raise self.stop.fail(msg)
        else:
            await self._created(batch.id, batch.base_url, found)

    async def _drop(self, row: int, token: str, why: str) -> None:
        await records.end_batch(self.ledger, row, "unsent", why)
        spool_path(self._folder, token).unlink(missing_ok=True)

    def open(self) -> list[Batch]:
        """Batches that the provider works on."""
        return records.open_batches(self.ledger)

    async def collect(self) -> None:
        """Wait until at least one batch has ended, and take its replies over.

        Raises:
            PassStoppedError: the pass was asked to stop; the batches go on.
            CallError: the provider refuses every batch.
        """
        while waiting := self.open():
            ended = 0
            for batch in waiting:
                assert batch.remote_id is not None, "a batch without a remote id is settled before"
                service = self._services[batch.base_url]
                try:
                    remote = await service.poll(batch.remote_id)
                except GoneError as error:
                    # A list that lags behind is not believed at once.
                    if self._waited(batch) >= self._settings.settle_seconds:
                        await self._lose(batch, str(error))
                        ended += 1
                    continue
                if remote.status != batch.remote_status:
                    await records.mark_status(self.ledger, batch.id, remote.status)
                if remote.status in ENDED:
                    if self._unnamed(remote) and self._waited(batch) < service.patience:
                        continue
                    await self._take(batch, remote)
                    ended += 1
            if ended:
                self._recount()
                return
            await self._services[waiting[0].base_url].sleep(self._settings.poll_seconds)

    async def cancel(self) -> int:
        """Ask the provider to end all open batches; what is answered by then is kept. Returns how many."""
        waiting = self.open()
        for batch in waiting:
            assert batch.remote_id is not None
            # One that is gone is lost when it is looked at.
            with contextlib.suppress(GoneError):
                await self._services[batch.base_url].cancel(batch.remote_id)
        return len(waiting)

    def _waited(self, batch: Batch) -> float:
        """Seconds since this was first asked of the batch."""
        return time.monotonic() - self._since.setdefault(batch.id, time.monotonic())

    def _unnamed(self, remote: RemoteBatch) -> bool:
        """Whether the provider has answered requests and does not say yet where the replies are."""
        if remote.has_output or remote.status == "failed":
            return False
        return bool(remote.completed) or (remote.status == "completed" and not remote.files)

    async def _lose(self, batch: Batch, why: str) -> None:
        """Nothing comes of the batch any more, and what it answered may have been paid."""
        self.tally.lost.append(f"batch {batch.remote_id} of {batch.endpoint}, {batch.requests} requests: {why}")
        await records.end_batch(self.ledger, batch.id, "unknown", f"lost, may have been paid: {why}"[:500])
        spool_path(self._folder, batch.token).unlink(missing_ok=True)

    async def _take(self, batch: Batch, remote: RemoteBatch) -> None:
        service, price = self._services[batch.base_url], self.prices[batch.model].batch
        assert price is not None, "checked at the start"
        answered, missing = 0, ""
        for file_id in remote.files:
            try:
                results, garbled = await service.results(file_id, price)
            except GoneError as error:
                missing = str(error)
                continue
            answered += garbled + sum(result.status == 200 for result in results)
            self.tally.garbled += garbled
            await records.write_results(self.ledger, batch.id, results)
            for result in results:
                self._note(self._names.get(batch.endpoint), result)
        if missing or answered < (remote.completed or 0):
            said = f"the provider says it answered {remote.completed}, its files have {answered}"
            await self._lose(batch, "; ".join(filter(None, (said, missing))))
            return
        why = "; ".join([remote.status, *remote.errors])[:500]
        # A completed batch has answered everything: a request that it does not mention may have been billed.
        await records.end_batch(self.ledger, batch.id, "unknown" if remote.status == "completed" else "unsent", why)
        spool_path(self._folder, batch.token).unlink(missing_ok=True)
        if remote.status == "failed":
            await self._refused(batch, remote)

    async def _refused(self, batch: Batch, remote: RemoteBatch) -> None:
        """A batch was not taken. Too large for the account's queue: smaller ones, later; anything else ends the pass."""
        if not remote.too_large or (batch.requests <= 1 and not self.open()):
            msg = f"{batch.endpoint}: {batch.base_url} refuses a batch: {'; '.join(remote.errors) or 'no reason given'}"
            raise self.stop.fail(msg)
        if not self.open():
            self._most[batch.endpoint] = max(1, batch.requests // 2)
        await self._services[batch.base_url].sleep(self._settings.poll_seconds)

    def _note(self, endpoint: EndpointConfig | None, result: Result) -> None:
        if result.state == "reply":
            self.tally.estimated += result.cost_nano is None
            return
        if result.status is None:
            return
        self._tries[result.key] += 1
        if result.status == 200:
            # An error inside: it is collected again.
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
