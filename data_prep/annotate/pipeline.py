"""The pass over a store: annotate, cross-verify, criticise, revise; then ground.

Every step is a function of replies, and replies come from the ledger or are bought once. So the pass may be interrupted at any
point and started again: it goes on with the items that have no outcome yet.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from data_prep.annotate.item import ItemPendingError, ItemPipeline, pass_digest
from data_prep.config import PrepConfig
from data_prep.emovit.votes import LocalVotes
from data_prep.engine import LOCAL_ENGINE, Engine
from data_prep.provider.budget import Tally
from data_prep.provider.caller import Caller, CallerOptions
from data_prep.provider.failures import PassStoppedError
from data_prep.provider.health import Health
from data_prep.provider.interrupt import stop_on_interrupt
from data_prep.provider.prices import load_prices
from data_prep.store.rows import Item, Outcome
from data_prep.store.store import Store


@dataclass
class PassReport:
    """What a pass did."""

    total: int = 0
    """Items in the store."""
    done_before: int = 0
    duplicates: int = 0
    """Items left out because another one of their group is kept."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of this run: valid, discarded, human."""
    pending: Counter[str] = field(default_factory=Counter)
    """Of this run: items left for another run, by the kind of failure."""
    revised: int = 0
    """Items that ended after at least one revision."""
    stopped: bool = False
    seconds: float = 0.0
    tally: Tally = field(default_factory=Tally)
    health: Health = field(default_factory=Health)
    """What each endpoint gave."""
    recovered: int = 0
    """Calls of a run that died: their outcome is unknown."""
    stopped_by_budget: bool = False
    waiting: int = 0
    """Items that wait for a batch."""
    open_batches: int = 0
    """Batches that have not ended."""


async def annotate(
    store: Store,
    config: PrepConfig,
    *,
    resend_unknown: bool = False,
    limit_nano: int | None = None,
    batch: bool = False,
    cancel_batches: bool = False,
    on_progress: Callable[[PassReport], None] | None = None,
    on_end: Callable[[PassReport], None] | None = None,
    engine: Engine = LOCAL_ENGINE,
) -> PassReport:
    """Bring every item of a store to an outcome.

    Args:
        store: opened for writing.
        config: who annotates.
        resend_unknown: send calls again whose outcome is unknown (they may be paid twice).
        limit_nano: nano-dollars that may be spent on this store, all runs together; the pass stops before it would be passed.
        batch: ask endpoints with `batch: true` through the Batch API.
        cancel_batches: ask for the end of all open batches, take over what they answered, and stop.
        on_progress: called after every item, and while batches are waited for.
        on_end: called with what the pass did once requests have been sent, also where an error ends it.
        engine: who sends requests that are asked one by one; batches travel from here.

    Raises:
        ConfigError: a key or a price is missing, or a budget cannot be held (before any request).
        CallError: an endpoint answers nothing at all; what was received is in the ledger.
    """
    with engine.paid(store) as attempts:
        options: CallerOptions = {"resend_unknown": resend_unknown, "limit_nano": limit_nano, "attempts": attempts}
        return await _annotate(store, config, options, batch, cancel_batches, on_progress, on_end)


async def _annotate(
    store: Store,
    config: PrepConfig,
    options: CallerOptions,
    batch: bool,
    cancel_batches: bool,
    on_progress: Callable[[PassReport], None] | None,
    on_end: Callable[[PassReport], None] | None,
) -> PassReport:
    run = _Run(store, config, on_progress)
    run.report.recovered = store.ledger.recover()
    prices = load_prices(config.prices)
    batches = None
    if batch or cancel_batches or _open_batches(store):
        from data_prep.provider.batch.caller import BatchCaller

        caller: Caller
        caller = batches = BatchCaller(
            store.ledger,
            prices,
            config.endpoints,
            folder=store.root / "batches",
            settings=config.batches,
            new=batch and not cancel_batches,
            **options,
        )
    else:
        caller = Caller(store.ledger, prices, config.endpoints, **options)
    run.begin(caller)
    with stop_on_interrupt(caller.stop):
        try:
            if batches:
                await batches.recover()
            if batches and cancel_batches:
                await batches.cancel()
                while batches.open():
                    await batches.collect()
            else:
                while await run.sweep() and not caller.stop.is_requested():
                    if batches:
                        await batches.submit()
                        run.show()
                        await batches.collect()
            await run.settle()
        except PassStoppedError:
            pass
        finally:
            await caller.close()
    return run.end(on_end)


def _open_batches(store: Store) -> int:
    return int(store.ledger.read("SELECT count(*) FROM batches WHERE state != 'ended'")[0][0])


class _Run:
    """The items of one call of `annotate`."""

    def __init__(self, store: Store, config: PrepConfig, on_progress: Callable[[PassReport], None] | None) -> None:
        self.store, self.config = store, config
        self.report = PassReport()
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._local = LocalVotes(store.ledger, config)
        self._digest = pass_digest(config)
        self._errors: list[BaseException] = []
        self._held: list[tuple[ItemPipeline, Outcome]] = []
        """Decided, and not written yet."""
        self._todo: list[Item] = []
        before = store.ledger.outcome_configs()
        left_out = store.ledger.duplicates()
        for item in store.ledger.items():
            self.report.total += 1
            if item.id in left_out:
                self.report.duplicates += 1
            elif before.get(item.id) == self._digest:
                self.report.done_before += 1
            else:
                self._todo.append(item)

    def begin(self, caller: Caller) -> None:
        self._caller = caller
        self.report.tally = caller.tally

    async def sweep(self) -> bool:
        """Go through all items that have no outcome: each ends, fails, or waits for a batch.

        Returns:
            Whether another sweep may bring more: some wait for a batch; or an endpoint gave up on some, and answered others.
        """
        todo, self._todo = self._todo, []
        decided = self.report.outcomes.total() + len(self._held)
        self.report.pending.clear()
        queue = iter(todo)
        workers = min(len(todo), sum(e.concurrency for e in self.config.endpoints))
        await asyncio.gather(*(self._work(queue) for _ in range(workers)))
        # Workers that were stopped leave the rest of the queue.
        self._todo += queue
        self.report.waiting = self.report.pending.pop("batched", 0)
        decided = self.report.outcomes.total() + len(self._held) - decided
        return self.report.waiting > 0 or (decided > 0 and self.report.pending["gave_up"] > 0)

    async def _work(self, queue: Iterator[Item]) -> None:
        caller, report = self._caller, self.report
        for item in queue:
            if caller.stop.is_requested():
                self._todo.append(item)
                return
            try:
                read = partial(self.store.image, item.sha256, item.extension)
                decision = ItemPipeline(self.config, self._digest, caller, item, read, self._local.of(item), report.health)
                outcome = await decision.run()
                self._held.append((decision, outcome))
                await self.write(in_doubt=False)
            except PassStoppedError:
                self._todo.append(item)
                return
            except ItemPendingError as pending:
                report.pending[pending.kind] += 1
                self._todo.append(item)
            except Exception as error:
                # The other workers finish what is in flight, so that nothing paid is lost; then the pass ends with this error.
                caller.stop.request()
                self._errors.append(error)
                return
            self.show()

    async def write(self, *, in_doubt: bool) -> None:
        """Write down what was decided.

        Args:
            in_doubt: also what an endpoint gave nothing to that has given nothing since.
        """
        ready = [(decision, outcome) for decision, outcome in self._held if in_doubt or not decision.in_doubt()]
        self._held = [pair for pair in self._held if pair not in ready]
        for _, outcome in ready:
            await self.store.ledger.set_outcome(outcome)
            self.report.outcomes[outcome.state] += 1
            self.report.revised += outcome.revisions > 0

    async def settle(self) -> None:
        """What is still in doubt when all items were gone through: written, unless an endpoint was of no use at all."""
        stop = self._caller.stop
        if not stop.is_requested() and (why := self.report.health.verdict()):
            stop.fail(why)
        if stop.error is None:
            await self.write(in_doubt=True)

    def show(self) -> None:
        """Tell how far it is."""
        self.report.seconds = time.monotonic() - self._started
        if self._on_progress:
            self._on_progress(self.report)

    def end(self, on_end: Callable[[PassReport], None] | None) -> PassReport:
        """The report; raises what ended the pass."""
        report, stop = self.report, self._caller.stop
        report.seconds = time.monotonic() - self._started
        report.open_batches = _open_batches(self.store)
        report.stopped_by_budget = stop.by_budget or report.pending["budget"] > 0
        report.stopped = stop.is_requested() or report.stopped_by_budget
        if on_end:
            on_end(report)
        if error := stop.error or next(iter(self._errors), None):
            raise error
        return report
