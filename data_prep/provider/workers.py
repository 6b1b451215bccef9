"""Many questions at a time, until all are answered or the pass stops: one loop for every caller of a model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from data_prep.provider.failures import PassStoppedError, StopSignal
from data_prep.provider.interrupt import stop_on_interrupt

_Q = TypeVar("_Q")


async def ask_all(stop: StopSignal, questions: Iterable[_Q], ask: Callable[[_Q], Awaitable[None]], at_once: int) -> None:
    """Ask every question; one that stops, or fails, ends the asking, and what is in flight is waited for, since it is paid for.

    Ctrl-C does the same (`stop_on_interrupt`).

    Args:
        stop: of the pass; afterwards it says whether and why not everything was asked.
        questions: taken one after another, when a worker is free.
        ask: asks one and keeps the answer; `PassStoppedError` is no error.
        at_once: workers.

    Raises:
        CallError: why the pass cannot go on.
        Exception: the first one that `ask` raised.
    """
    errors: list[Exception] = []

    async def worker(queue: Iterator[_Q]) -> None:
        for question in queue:
            if stop.is_requested():
                return
            try:
                await ask(question)
            except PassStoppedError:
                return
            except Exception as error:
                stop.request()
                errors.append(error)
                return

    queue = iter(questions)
    with stop_on_interrupt(stop):
        await asyncio.gather(*(worker(queue) for _ in range(at_once)))
    if error := stop.error or next(iter(errors), None):
        raise error
