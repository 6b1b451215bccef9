"""The same work for many things that a network is waited for, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

GivenT = TypeVar("GivenT")
FoundT = TypeVar("FoundT")

MAX_CONCURRENT = 8


def each_at_once(work: Callable[[GivenT], FoundT], given: Iterable[GivenT], at_once: int = MAX_CONCURRENT) -> Iterator[FoundT]:
    """What the work gives for each, in order; where it fails, what has not begun is left.

    Args:
        work: called in threads.
        given: for each call.
        at_once: calls at the same time.
    """
    pool = ThreadPoolExecutor(at_once)
    try:
        yield from pool.map(work, given)
    finally:
        pool.shutdown(cancel_futures=True)
