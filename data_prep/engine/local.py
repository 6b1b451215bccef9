"""The engine of one machine: threads make images ready while the step works on the batch before; requests are sent from here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from data_prep.engine.base import Engine, EngineResult, ItemRow, MakeAttempts, Prepared, Step
from data_prep.provider.attempts import Attempts

if TYPE_CHECKING:
    from data_prep.store.store import Store

_THREADS = max(4, os.cpu_count() or 1)
"""Pillow decodes and scales outside the interpreter's lock, so threads are enough."""


class LocalEngine:
    """This machine."""

    def map(self, store: Store, batches: Sequence[Sequence[ItemRow]], step: Step[Prepared]) -> Iterator[list[EngineResult]]:
        """See `Engine.map`; at most two batches of images are in memory."""
        if not batches:
            return
        compute = step.load()

        def ready(row: ItemRow) -> Prepared:
            return step.prepare(store.image(row.sha256, row.extension))

        with ThreadPoolExecutor(_THREADS) as threads:

            def start(number: int) -> list[Future[Prepared]]:
                return [threads.submit(ready, row) for row in batches[number]] if number < len(batches) else []

            ahead = start(0)
            for number, batch in enumerate(batches):
                prepared = [future.result() for future in ahead]
                ahead = start(number + 1)
                yield compute(batch, prepared)

    def paid(self, store: Store) -> contextlib.AbstractContextManager[MakeAttempts]:
        """See `Engine.paid`: this process sends, and writes its own ledger."""
        del store
        return contextlib.nullcontext(Attempts)


LOCAL_ENGINE: Engine = LocalEngine()
"""The default of everything that takes an engine."""
