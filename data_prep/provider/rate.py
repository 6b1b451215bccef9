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
from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from data_prep.provider.rate_headers import BucketEstimate, ReportedBucket

_DECREASE = 0.95
_SEARCH = 0.7
"""Decrease while the permitted rate is not even roughly known."""
_KNOWN = 20
"""Replies between two refusals from which their count over time says what is permitted (the bucket was empty at both ends)."""
_CYCLE = 200
"""Replies in which the rate regains what a refusal took, for each refusal that the last decrease brought (all that was in flight
may be refused): about 0.5 % of requests are refused once the rate is found."""
_SECONDS = 10.0
"""A cycle lasts at least so long: a large bucket hides for a while that the rate is above what is permitted."""
_MEASURES = 3
"""Refusals with a count of replies before them after which the rate counts as found; until then it is looked for in large steps."""
_PAUSE_SHARE = 50
"""A cycle is at least so many times the pause that a refusal brings, so that pauses cost two percent."""
_OVERSHOOT = 0.1
"""Share of what is in flight that one decrease is expected to see refused at most; more of it was an accident of the search."""
_RECENT = 64
"""Requests over which the rate of sending is measured."""
_ABOVE = 1.2
"""A rate that is so much above what was sent was not tried, and a refusal says nothing of it."""
_SLOWER = 0.01
"""Share of a round trip by which each reply may lengthen what counts as the usual one."""
_STALE = 30.0
"""Seconds for which headers are believed."""
_TICKETS = 8192
"""Requests that are remembered until a header counts them."""
_CATCH_UP = 0.05
"""Seconds of lateness (the event loop was busy) that may be made up by sending at once."""
_ASLEEP = 0.5
"""Seconds after which a waiting caller looks whether to stop."""


class RateObserver(Protocol):
    """Who is told what becomes of a request: a `RateLimit`, or who tells one of another process."""

    @property
    def paused(self) -> bool:
        """Whether nothing may be sent now."""
        ...

    def pause(self, seconds: float) -> None:
        """See `RateLimit`."""
        ...

    def replied(self, ticket: float) -> None:
        """See `RateLimit`."""
        ...

    def update(self, ticket: float, left: Sequence[ReportedBucket]) -> None:
        """See `RateLimit`."""
        ...

    def refused(self, ticket: float, retry_after: float | None) -> None:
        """See `RateLimit`."""
        ...


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
        self._decreased = -math.inf
        self._sent = 0
        self._first = 0.0
        self._mark = -math.inf
        """Ticket from which accepted replies are counted: of a refusal, so the bucket was empty then."""
        self._accepted = 0
        self._idle = 0.0
        """Seconds of pauses since the mark."""
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._buckets: dict[str, BucketEstimate] = {}
        """What the provider's headers say is left, by kind."""
        self._tickets: list[float] = []
        """Of requests since the last one whose answer said so."""
        self._seen = self._updated = -math.inf
        self._round_trip = math.inf
        """Seconds, of the quickest of late."""
        self._header_share = 1.0
        """Share of the rate that the headers name."""
        self._low = self._top = 0.0
        """What it was lowered to, and what it comes back to in a cycle."""
        self._cycle = float(_CYCLE)
        self._regained = 0
        """Replies since it was lowered."""
        self._searching = _MEASURES
        self._refusals = 0
        """Since the last decrease, of requests sent before it."""

    def delay(self, now: float) -> float:
        """Seconds until the next request may be sent."""
        left = max(self._paused_until, self._next) - now
        if not self._buckets or now - self._updated > _STALE:
            return left
        return max(left, *(bucket.wait(now, len(self._tickets)) for bucket in self._buckets.values()))

    @property
    def paused(self) -> bool:
        """Whether a Retry-After still runs."""
        return self._clock() < self._paused_until

    def take(self, now: float) -> float:
        """A request is sent now; returns its ticket for `refused`."""
        if not self._sent:
            self._first = self._mark = now
        self._sent += 1
        self._recent.append(now)
        self._tickets.append(now)
        if len(self._tickets) > _TICKETS:
            del self._tickets[: _TICKETS // 2]
        if math.isfinite(self.rate):
            self._next = max(self._next, now - _CATCH_UP) + 1 / self.rate
        return now

    async def wait(self, stopped: Callable[[], bool]) -> float:
        """Wait for permission to send one request; returns its ticket.

        Args:
            stopped: looked at now and then; the wait ends early where it says so.
        """
        if not self._turn.locked() and self.delay(self._clock()) <= 0:
            return self.take(self._clock())
        async with self._turn:
            while (left := self.delay(self._clock())) > 0 and not stopped():
                await self._sleep(min(left, _ASLEEP))
            return self.take(self._clock())

    async def pause_over(self, stopped: Callable[[], bool]) -> None:
        """Wait until no Retry-After runs (one may have arrived since the ticket was given)."""
        while (left := self._paused_until - self._clock()) > 0 and not stopped():
            await self._sleep(min(left, _ASLEEP))

    def pause(self, seconds: float) -> None:
        """Send nothing for so long."""
        now = self._clock()
        self._idle += max(0.0, now + seconds - max(now, self._paused_until))
        self._paused_until = max(self._paused_until, now + seconds)

    def replied(self, ticket: float | None = None) -> None:
        """A request was taken (whatever the answer, it was not refused for its rate).

        Args:
            ticket: what `wait` returned for it.
        """
        if ticket is not None:
            taken = self._clock() - ticket
            self._round_trip = min(taken, self._round_trip + _SLOWER * taken)
            if ticket <= self._mark:
                return
        self._accepted += 1
        if math.isfinite(self.rate):
            # As CUBIC does for TCP: fast to near the rate that was refused, slowly past it, then faster and faster (it has moved up).
            self._regained += 1
            past = (self._regained / self._cycle - 1) ** 3
            self.rate = max(self.rate, self._top + (self._top - self._low) * past)

    def update(self, ticket: float, left: Sequence[ReportedBucket]) -> None:
        """An answer said what is left (`Provider.reported_buckets`).

        Args:
            ticket: what `wait` returned for its request.
            left: by kind.
        """
        if ticket <= self._seen:
            return
        sent = bisect_right(self._tickets, ticket)
        del self._tickets[:sent]
        for reported in left:
            self._buckets.setdefault(reported.kind, BucketEstimate()).update(reported, ticket, sent)
        self._seen, self._updated = ticket, self._clock()
        rates = [rate for bucket in self._buckets.values() if (rate := bucket.per_second) is not None]
        if rates:
            # Named, it needs not be found again step by step; refusals show how far it is to be believed.
            self.rate = max(self.rate, self._header_share * min(rates))

    def refused(self, ticket: float, retry_after: float | None) -> None:
        """A request was answered with 429.

        Args:
            ticket: what `wait` returned for it.
            retry_after: seconds that the provider asks for, None where it says nothing.
        """
        now = self._clock()
        if ticket <= self._decreased:
            # Sent before the rate was last lowered: it says nothing about the rate of now.
            self._refusals += 1
            self.pause(retry_after or 0.0)
            return
        counted = self._accepted
        self._header_share = max(_SEARCH, _DECREASE * self._header_share)
        before = self.rate
        # A stalled request says nothing of the way.
        round_trip = min(now - ticket, 2 * self._round_trip)
        self.rate = max(self._lowered(ticket, round_trip), 0.01)
        self.pause(retry_after or 0.0)
        self._cycle = self._next_cycle(round_trip, retry_after or 0.0)
        self._low, self._top, self._regained = self.rate, self.rate / _DECREASE, 0
        if not self._searching:
            self._top = max(self._top, _DECREASE * before)
        self._decreased, self._refusals = now, 1
        self._recent.clear()
        if counted >= _KNOWN or not counted or not self._searching:
            # While a search goes on, the count of an earlier refusal goes on too until it says something.
            self._mark, self._accepted, self._idle = ticket, 0, max(0.0, self._paused_until - now)
        self._next = max(self._next, now)

    def _lowered(self, ticket: float, round_trip: float) -> float:
        recent = self._recent
        if math.isinf(self.rate):
            rate = self._sent / max(ticket - self._first + round_trip, 1e-3)
        else:
            rate = self.rate
            if len(recent) >= _KNOWN:
                rate = min(rate, _ABOVE * (len(recent) - 1) / max(recent[-1] - recent[0], 1e-3))
        known = self._accepted >= _KNOWN
        if not known and self._searching == _MEASURES:
            return rate * _SEARCH
        if self._accepted < self._cycle:
            # Refused again so soon, the bucket was empty all the while: what it let through is what is permitted. What was just
            # taken may be a little below that, where it overflowed on the way, or some of it is not answered yet.
            # A pause filled the bucket again, how far is not known: the truth lies between the counts with and without it.
            elapsed = ticket - self._mark
            measured = (self._accepted + 2) / math.sqrt(max(elapsed, 1e-3) * max(elapsed - self._idle, 1e-3))
            # A stall (the network, the disk, either program) lets everything arrive at once, and empties the bucket with few replies
            # before it: no more than a search's step is believed of a rate that had been found.
            floor = 0.0 if self._searching else _SEARCH * rate
            rate = min(rate, max(floor, measured if self._searching and known else 1.1 * measured))
        if known:
            self._searching = max(0, self._searching - 1)
        return rate * _DECREASE

    def _next_cycle(self, round_trip: float, pause: float) -> float:
        in_flight = self.rate * round_trip
        if self._searching:
            return max(_CYCLE / 4, 2 * in_flight)
        refusals = max(1.0, (1 - _DECREASE) / 2 * in_flight, min(self._refusals, 1 + _OVERSHOOT * in_flight))
        return max(_CYCLE * refusals, max(_SECONDS, _PAUSE_SHARE * pause) * self.rate)
