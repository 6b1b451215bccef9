"""Ranges of remote objects that are known to be needed next: asked for together by some threads of a process, while others decode."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from emo_lightning.core.errors import UserError

MAX_REQUESTS_IN_FLIGHT = 16
"""Requests in flight: a place answers each after some tens of milliseconds, and gives each connection a part of the link alone."""
MAX_BYTES_IN_FLIGHT = 64 << 20
"""Bytes that are asked for or held at once; one range may be longer."""
_LONGEST = 1 << 20
"""Bytes of one request for neighbours: the first of them is waited for until all are there."""
_GAP = 16 << 10
"""Bytes between neighbours, which are thrown away: what stands between two samples of a tar are headers."""


class Range(NamedTuple):
    """Bytes `start` to `end` of an object."""

    number: int
    """Of the object."""
    start: int
    end: int


class Ranged(Protocol):
    """An object of which ranges are kept."""

    def has(self, start: int, end: int) -> bool:
        """Whether a range can be read without asking the place."""
        ...

    def fetch(self, start: int, end: int, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        """Ask for a range; the parts of it, which are kept."""
        ...


class RangesAhead:
    """What one process will need of some objects.

    Args:
        store: number of an object -> the object; asked by several threads.
        at_once: threads.
        most: bytes that are asked for or held at once.
    """

    def __init__(
        self, store: Callable[[int], Ranged], at_once: int = MAX_REQUESTS_IN_FLIGHT, most: int = MAX_BYTES_IN_FLIGHT
    ) -> None:
        self._store, self._at_once, self._most = store, at_once, most
        self._begin()

    def _begin(self) -> None:
        """Nothing of another process's threads is there in a fork."""
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._wanted: set[Range] = set()
        self._waiting: deque[list[Range]] = deque()
        self._asked: set[Range] = set()
        self._found: dict[Range, bytes] = {}
        self._bytes = 0
        self._threads = 0

    def want(self, ranges: Iterable[Range]) -> None:
        """Say what is needed from now on, in this order; what is not among it is forgotten."""
        if self._pid != os.getpid():
            self._begin()
        with self._changed:
            wanted = dict.fromkeys(ranges)
            self._wanted = set(wanted)
            for one in self._found.keys() - self._wanted:
                self._bytes -= len(self._found.pop(one))
            self._waiting = deque(together(one for one in wanted if one not in self._found and one not in self._asked))
            self._start()

    def take(self, one: Range) -> bytes | None:
        """The bytes of a range, which is then needed no more; None where it was not said to be needed, or can be read without asking the place.

        Raises:
            StoreError: the place does not answer.
        """
        if self._pid != os.getpid():
            return None
        with self._changed:
            # Wherever it is being fetched, it will be there before another answer could be.
            self._changed.wait_for(lambda: one not in self._asked)
            if one not in self._wanted:
                return None
            self._wanted.discard(one)
            found = self._found.pop(one, None)
            if found is not None:
                self._bytes -= len(found)
                self._start()
                return found
        # No thread has come to it yet, or it failed there, and whoever needs it learns why.
        store = self._store(one.number)
        return None if store.has(*one[1:]) else store.fetch(one.start, one.end, [one[1:]])[0]

    def _start(self) -> None:
        """As many threads as there is work and room for."""
        for _ in range(min(self._at_once, len(self._waiting)) - self._threads):
            if self._bytes >= self._most:
                return
            self._threads += 1
            threading.Thread(target=self._work, name="ranges-ahead", daemon=True).start()

    def _work(self) -> None:
        while group := self._next():
            found: dict[Range, bytes] = {}
            try:
                found = self._fetched(group)
            except UserError:
                # They stay wanted: see `take`.
                continue
            except BaseException:
                self._threads -= 1
                raise
            finally:
                with self._changed:
                    self._asked.difference_update(group)
                    self._bytes -= _length(group)
                    for one in found.keys() & self._wanted:
                        self._found[one] = found[one]
                        self._bytes += len(found[one])
                    self._changed.notify_all()

    def _next(self) -> list[Range] | None:
        """Ranges for one request; None where nothing is left to do, or no room."""
        with self._changed:
            while self._waiting and self._bytes < self._most:
                # Somebody may have come first.
                if group := [one for one in self._waiting.popleft() if one in self._wanted]:
                    self._asked.update(group)
                    self._bytes += _length(group)
                    return group
            self._threads -= 1
            return None

    def _fetched(self, group: Sequence[Range]) -> dict[Range, bytes]:
        """Of those that cannot be read without asking the place."""
        store = self._store(group[0].number)
        found: dict[Range, bytes] = {}
        for run in together(one for one in group if not store.has(*one[1:])):
            parts = store.fetch(run[0].start, run[-1].end, [one[1:] for one in run])
            found.update(zip(run, parts, strict=True))
        return found


def _length(group: Sequence[Range]) -> int:
    return sum(one.end - one.start for one in group)


def together(ranges: Iterable[Range]) -> list[list[Range]]:
    """Neighbours by requests, in the order in which the first of each is needed.

    Args:
        ranges: in the order in which they are needed.
    """
    needed = {one: place for place, one in enumerate(ranges)}
    groups: list[list[Range]] = []
    for one in sorted(needed):
        last = groups[-1] if groups else None
        if (
            last is not None
            and last[0].number == one.number
            and one.start - last[-1].end <= _GAP
            and one.end - last[0].start <= _LONGEST
        ):
            last.append(one)
        else:
            groups.append([one])
    return sorted(groups, key=lambda group: min(needed[one] for one in group))
