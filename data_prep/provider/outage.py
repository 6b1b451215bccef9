"""An endpoint that answers nobody: its callers wait for it together, instead of each using up its attempts on it.

A provider may be out of order for an hour, and so may the network. Then it is the endpoint that fails and not the request: one
request is sent now and then until one is answered, all others wait, and none of their attempts counts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

_DIFFERENT = 3
"""Requests that failed since the last answer from which on the endpoint is to blame: one that nobody could answer fails alone."""
_SILENT = 10.0
"""Seconds without an answer from which on it is an outage; at once, where a request may have been answered and billed."""
_GAPS = (1.0, 60.0)
"""Seconds between two requests of an outage: the first, doubled up to the second."""
_REPEATED = 3600.0
"""Seconds after which the log says again that it lasts."""
_ASLEEP = 0.5
"""Seconds after which a waiting caller looks whether to stop."""

log = logging.getLogger(__name__)


class Outage:
    """Whether one model of one provider answers at all; shared by all that ask it.

    Args:
        where: its name, for messages.
        clock: seconds, monotonic.
        sleep: coroutine function of seconds.
    """

    def __init__(
        self,
        where: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.connected = False
        """Whether there was ever a connection: an address at which nothing was ever reached is more likely wrong than out of order."""
        self._where, self._clock, self._sleep = where, clock, sleep
        self._failed: set[str] = set()
        self._costly = False
        self._since = self._next = self._said = self._rate = 0.0
        self._gap = _GAPS[0]
        self._last = ""

    def now(self) -> float:
        """By its clock, for `answered`."""
        return self._clock()

    @property
    def seconds(self) -> float:
        """Since the first failure after the last answer; 0 where the last request was answered."""
        return self._clock() - self._since if self._failed else 0.0

    @property
    def lasting(self) -> bool:
        """Whether nobody is answered."""
        return self.connected and len(self._failed) >= _DIFFERENT and (self._costly or self.seconds >= _SILENT)

    def answered(self, began: float) -> float | None:
        """A request was answered, if only to decline it.

        Args:
            began: when it was sent, by the same clock. The answer to one that left before the first failure may have been on its
                way all the time: it ends no outage.

        Returns:
            Where this ends an outage, the rate of before: what was refused (429) meanwhile says nothing of what is permitted.
        """
        self.connected = True
        if self._failed and began < self._since:
            return None
        rate = self._rate if self.lasting else None
        if self._said:
            log.warning("%s: answers again after %s", self._where, in_words(self.seconds))
        self._failed.clear()
        self._costly = False
        self._said, self._gap = 0.0, _GAPS[0]
        return rate

    def failed(self, key: str, problem: str, rate: float, *, connected: bool, costly: bool = False) -> None:
        """A request was not answered.

        Args:
            key: of the question; one that fails again and again counts once.
            problem: in words.
            rate: at which requests are sent now.
            connected: whether anything was there.
            costly: whether it may have been billed: of these none must follow the other at full speed.
        """
        if not self._failed:
            self._since, self._rate = self._clock(), rate
        self._failed.add(key)
        self.connected = self.connected or connected
        self._costly = self._costly or costly
        self._last = " ".join(problem.split())[:200]

    async def turn(self, stopped: Callable[[], bool]) -> None:
        """Wait until a request may be sent: at once, but in an outage one after the other, ever more slowly.

        Args:
            stopped: looked at now and then; the wait ends early where it says so.
        """
        while self.lasting and not stopped():
            now = self._clock()
            if now >= self._next:
                self._next, self._gap = now + self._gap, min(2 * self._gap, _GAPS[1])
                self._tell(now)
                return
            await self._sleep(min(self._next - now, _ASLEEP))

    def why(self) -> str:
        """For the message that ends a pass."""
        return f"{self._where} has answered nothing for {in_words(self.seconds)}, last: {self._last}"

    def _tell(self, now: float) -> None:
        if self.seconds >= _SILENT and (not self._said or now - self._said >= _REPEATED):
            self._said = now
            log.warning("%s; asking now and then until it does", self.why())


def in_words(seconds: float) -> str:
    """A length of time for people."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
