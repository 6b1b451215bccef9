"""Adaptive rate: requests per second towards one model of one provider, found by additive increase and multiplicative decrease.

Until the first refusal nothing is slowed down (the concurrency of the endpoint alone limits it). Each refusal (429) takes a small
share off the rate, each reply adds a little; the steps are such that a rate near the permitted one is refused about once in
several hundred requests. A pause that the provider asks for (Retry-After) holds for every caller of the model, not just for the
one that was told.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime

_DECREASE = 0.95
_SEARCH = 0.7
"""Decrease while the permitted rate is not even roughly known."""
_KNOWN = 20
"""Replies between two refusals from which their count over time says what is permitted (a bucket was empty at both ends)."""
_CYCLE = 200
"""Replies in which the rate regains what a refusal took, for each refusal that the last decrease brought (all that was in flight
may be refused): about 0.5 % of requests are refused once the rate is found."""
_FASTER = 3
"""Doublings of the increase, one for each cycle that passes without a refusal after the first."""
_MEASURES = 3
"""Refusals with a count of replies before them after which the rate counts as found; until then it is looked for in large steps."""
_PAUSE_SHARE = 50
"""A cycle is at least so many times the pause that a refusal brings, so that pauses cost two percent."""
_CATCH_UP = 0.05
"""Seconds of lateness (the event loop was busy) that may be made up by sending at once."""
_ASLEEP = 0.5
"""Seconds after which a waiting caller looks whether to stop."""


class RateLimit:
    """The rate of one (base_url, model), shared by all that ask it.

    Args:
        clock: seconds, monotonic.
        sleep: coroutine function of seconds.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.rate = math.inf
        """Requests per second."""
        self._clock = clock
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._next = 0.0
        self._paused_until = 0.0
        self._last_pause = 0.0
        self._decreased = -math.inf
        self._since = math.nan
        """When the count of replies began."""
        self._accepted = self._sent = 0
        self._step = 0.0
        self._cycle = float(_CYCLE)
        self._searching = _MEASURES
        self._refusals = 0
        """Since the last decrease, of requests sent before it."""

    def delay(self, now: float) -> float:
        """Seconds until the next request may be sent."""
        return max(self._paused_until, self._next) - now

    @property
    def paused(self) -> bool:
        """Whether a Retry-After still runs."""
        return self._clock() < self._paused_until

    def take(self, now: float) -> float:
        """A request is sent now; returns its ticket for `refused`."""
        if math.isnan(self._since):
            self._since = now
        self._sent += 1
        if math.isfinite(self.rate):
            self._next = max(self._next, now - _CATCH_UP) + 1 / self.rate
        return now

    async def wait(self, halted: Callable[[], bool]) -> float:
        """Wait for permission to send one request; returns its ticket.

        Args:
            halted: looked at now and then; the wait ends early where it says so.
        """
        if math.isinf(self.rate) and not self.paused:
            return self.take(self._clock())
        async with self._turn:
            while (left := self.delay(self._clock())) > 0 and not halted():
                await self._sleep(min(left, _ASLEEP))
            return self.take(self._clock())

    async def pause_over(self, halted: Callable[[], bool]) -> None:
        """Wait until no Retry-After runs (one may have arrived since the ticket was given)."""
        while (left := self._paused_until - self._clock()) > 0 and not halted():
            await self._sleep(min(left, _ASLEEP))

    def pause(self, seconds: float) -> None:
        """Send nothing for so long."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)
        self._last_pause = seconds

    def replied(self) -> None:
        """A request was taken (whatever the answer, it was not refused for its rate)."""
        self._accepted += 1
        if math.isfinite(self.rate):
            # Long without a refusal: the limit has moved up, look for it faster and faster.
            self.rate += self._step * 2 ** min(_FASTER, int(self._accepted / self._cycle))

    def refused(self, ticket: float, retry_after: float | None) -> None:
        """A request was answered with 429.

        Args:
            ticket: what `wait` returned for it.
            retry_after: seconds that the provider asks for, None where it says nothing.
        """
        now = self._clock()
        if retry_after is not None:
            self.pause(retry_after)
        if ticket <= self._decreased:
            # Sent before the rate was last lowered: it says nothing about the rate of now.
            self._refusals += 1
            return
        elapsed = max(now - self._since, 1e-3)
        measured = self._accepted / elapsed
        rate = self.rate if math.isfinite(self.rate) else self._sent / elapsed
        if self._accepted >= _KNOWN:
            # What was just taken may be a little below what is permitted, where the bucket overflowed on the way.
            rate = min(rate, measured if self._searching else 1.1 * measured) * _DECREASE
            self._searching = max(0, self._searching - 1)
        else:
            rate *= _SEARCH if self._searching else _DECREASE
        self.rate = max(rate, 0.01)
        pause = retry_after or 0.0
        if self._searching:
            self._cycle = _CYCLE / 4
        else:
            self._cycle = max(_CYCLE * max(1, self._refusals), _PAUSE_SHARE * pause * self.rate)
        self._step = (1 - _DECREASE) * self.rate / self._cycle
        self._decreased, self._since, self._accepted, self._sent, self._refusals = now, now, 0, 0, 1
        self._next = max(self._next, now)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait: `retry-after-ms`, or Retry-After in seconds or as an HTTP date.

    A date is read against the server's own clock (its Date header) where it names one. Where both forms stand, the longer counts.
    Something that is neither counts as nothing: the caller's own back-off serves then.
    """
    found: list[float] = []
    with_ms, plain = headers.get("retry-after-ms"), headers.get("retry-after")
    if with_ms is not None and (value := _number(with_ms)) is not None:
        found.append(value / 1000)
    if plain is not None:
        if (value := _number(plain)) is not None:
            found.append(value)
        elif (date := _date(plain)) is not None:
            found.append(date - (_date(headers.get("date", "")) or time.time()))
    return max(0.0, *found) if found else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
