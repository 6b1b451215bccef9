"""Ctrl-C, `kill` and the end of a terminal while money is in flight."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import TypeVar

from data_prep.provider.failures import PassStoppedError, StopSignal

_T = TypeVar("_T")
_ASLEEP = 0.2
"""Seconds after which is looked whether to stop."""
_ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; `kill`, a scheduler or a shutdown; a terminal that was closed (under `nohup` that is ignored, and stays so)."""


@contextlib.contextmanager
def stop_on_interrupt(stop: StopSignal) -> Iterator[None]:
    """The first signal: send nothing more, wait for what is in flight (it is paid for). The second: at once."""
    loop = asyncio.get_running_loop()
    watched = [number for number in _ASKED if signal.getsignal(number) is not signal.SIG_IGN]

    def first() -> None:
        stop.request()
        release()

    def release() -> None:
        for number in watched:
            loop.remove_signal_handler(number)

    try:
        for number in watched:
            loop.add_signal_handler(number, first)
    except (ValueError, RuntimeError, NotImplementedError):
        # Not the main thread: signals are the caller's affair.
        yield
        return
    try:
        yield
    finally:
        release()


async def unless_stopped(stop: StopSignal, work: Coroutine[object, object, _T]) -> _T:
    """Wait for what costs nothing; unlike a paid request it is given up when the pass stops.

    Args:
        stop: of the pass.
        work: what is waited for.

    Raises:
        PassStoppedError: the pass stops.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            if stop.is_requested():
                raise PassStoppedError
            await asyncio.wait({task}, timeout=_ASLEEP)
        return task.result()
    finally:
        if task.cancel():
            await asyncio.wait({task})
