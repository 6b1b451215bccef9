"""Callers of a `RateLimit` against a `TokenBucket` in simulated time: minutes of traffic in a second, nothing sleeps.

The controller and the bucket are the real ones; only the clock and the way between them are simulated.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from data_prep.demo.simulation.config import SimulatedModel
from data_prep.demo.simulation.limits import TokenBucket
from data_prep.provider.openai import OpenAIProvider
from data_prep.provider.rate import RateLimit
from emo_lightning.core.web.waiting import retry_after


class Clock:
    """Time that passes when somebody says so."""

    now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


class Controller(Protocol):
    """What decides when a request is sent: `RateLimit`, or a peer."""

    def delay(self, now: float) -> float:
        """Seconds until the next request."""
        ...

    def take(self, now: float) -> float:
        """A request is sent; its ticket."""
        ...

    def replied(self, ticket: float | None = None) -> None:
        """It was answered."""
        ...

    def refused(self, ticket: float, retry_after: float | None) -> None:
        """It was refused (429)."""
        ...


class Paced:
    """A peer that knows the permitted rate: one request every so often; it obeys Retry-After, and learns nothing."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self._clock, self._gap = clock, 1 / rate
        self._next = self._paused_until = 0.0

    def delay(self, now: float) -> float:
        """Seconds until the next request."""
        return max(self._next, self._paused_until) - now

    def take(self, now: float) -> float:
        """A request is sent."""
        self._next = max(self._next + self._gap, now)
        return now

    def replied(self, ticket: float | None = None) -> None:
        """Nothing is learnt."""

    def refused(self, ticket: float, retry_after: float | None) -> None:
        """Nothing is sent before the pause is over."""
        del ticket
        self._paused_until = max(self._paused_until, self._clock.now + (retry_after or 0.0))


@dataclass(frozen=True)
class Traffic:
    """What came of a run, after its warm-up."""

    share: float
    """Replies, as a share of what the bucket's rate permits in that time."""
    refused: float
    """Share of 429s among all answers."""
    early: int
    """Requests that came before a Retry-After was over (warm-up included)."""


def drive(
    model: SimulatedModel,
    *,
    clients: int,
    seconds: float,
    warm_up: float,
    round_trip: float,
    jitter: float = 0.2,
    tokens: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
    stalls: Sequence[tuple[float, float]] = (),
    began: float = 1_700_000_000.0,
    controller: Callable[[Clock], Controller] = RateLimit,
) -> Traffic:
    """Keep `clients` callers busy for so many simulated seconds.

    Args:
        model: bucket and headers; its other settings play no part.
        clients: callers at once.
        seconds: of the run, `warm_up` included.
        warm_up: seconds that are not counted.
        round_trip: seconds from sending to the answer without jitter.
        jitter: each way takes half of the round trip, ± this share of it, drawn evenly.
        tokens: each request costs so many, drawn evenly between the two.
        seed: of jitter and costs.
        stalls: (when, for how many seconds) nothing gets through: what was on its way arrives at the end, all at once.
        began: date of the beginning, seconds since 1970: its fraction decides how far whole-second dates are off.
        controller: what decides when a request is sent.
    """
    clock, rng, number = Clock(), random.Random(seed), itertools.count()

    def date() -> float:
        return began + clock.now

    limit, bucket = controller(clock), TokenBucket(model, clock, date)
    headers_of = OpenAIProvider().reported_buckets
    events: list[tuple[float, int, float, str | None, str | None]] = []
    idle, taken, refused = clients, 0, 0
    way = round_trip / 2

    def travel() -> float:
        arrival = clock.now + way * (1 + jitter * rng.uniform(-1, 1))
        return next((at + long for at, long in stalls if at <= arrival < at + long), arrival)

    while clock.now < seconds:
        left = 0.0
        while idle and (left := limit.delay(clock.now)) <= 1e-9:
            idle -= 1
            heapq.heappush(events, (travel(), next(number), limit.take(clock.now), None, None))
        coming = [events[0][0]] if events else []
        clock.now = min([*coming, clock.now + left] if idle else coming)
        while events and events[0][0] <= clock.now:
            _, _, ticket, what, headers = heapq.heappop(events)
            if what is None:
                refusal = bucket.take(rng.uniform(*tokens))
                what, headers = ("reply", bucket.state()) if refusal is None else ("refusal", refusal)
                heapq.heappush(events, (travel(), next(number), ticket, what, headers))
                continue
            idle += 1
            late = clock.now > warm_up
            lines = dict(line.split(": ") for line in (headers or "").lower().splitlines())
            if isinstance(limit, RateLimit) and (left_over := headers_of(lines)):
                limit.update(ticket, left_over)
            if what == "reply":
                limit.replied(ticket)
                taken += late
            else:
                limit.refused(ticket, retry_after(lines, date))
                refused += late
    permitted = model.requests_per_second or 0.0
    if model.tokens_per_second is not None:
        by_tokens = model.tokens_per_second / (sum(tokens) / 2)
        permitted = min(permitted or by_tokens, by_tokens)
    return Traffic(taken / (permitted * (seconds - warm_up)), refused / max(taken + refused, 1), bucket.early)
