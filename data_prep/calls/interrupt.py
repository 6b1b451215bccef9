"""Ctrl-C while money is in flight."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

from data_prep.calls.attempts import Halt


@contextlib.contextmanager
def halt_on_interrupt(halt: Halt) -> Iterator[None]:
    """First Ctrl-C: send nothing more, wait for what is in flight (it is paid for). Second: at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        halt.asked = True
        loop.remove_signal_handler(signal.SIGINT)

    try:
        loop.add_signal_handler(signal.SIGINT, stop)
    except (ValueError, RuntimeError, NotImplementedError):
        # Not the main thread: interrupts are the caller's affair.
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
