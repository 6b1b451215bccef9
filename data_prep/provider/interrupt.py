"""Ctrl-C, `kill` and the end of a terminal while money is in flight."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

from data_prep.provider.failures import StopSignal

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
