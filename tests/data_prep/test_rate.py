"""The adaptive rate, in simulated time against a token bucket; and what Retry-After means."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from email.utils import formatdate

import pytest

from data_prep.config import SimulatedModel
from data_prep.rate import RateLimit, retry_after
from data_prep.simulated_limits import TokenBucket


class Clock:
    """Time that passes when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def drive(
    model: SimulatedModel, *, clients: int, seconds: float, warm_up: float, round_trip: float = 0.4
) -> tuple[float, float, int]:
    """Share of what the bucket permits that was taken, share of 429s (both after warm-up), requests before a Retry-After."""
    clock, rng, number = Clock(), random.Random(0), itertools.count()
    limit, bucket = RateLimit(clock), TokenBucket(model, clock)
    events: list[tuple[float, int, str, float, float | None]] = []
    idle, taken, refused = clients, 0, 0
    while clock.now < seconds:
        wake = []
        while idle and (left := limit.delay(clock.now)) <= 1e-9:
            idle -= 1
            heapq.heappush(
                events, (clock.now + round_trip * rng.uniform(0.4, 0.6), next(number), "arrive", limit.take(clock.now), None)
            )
        if idle:
            wake.append(clock.now + left)
        clock.now = min([*wake, *(e[0] for e in events[:1])])
        while events and events[0][0] <= clock.now:
            _, _, what, ticket, wait = heapq.heappop(events)
            back = clock.now + round_trip * rng.uniform(0.4, 0.6)
            if what == "arrive":
                headers = bucket.take()
                if headers is None:
                    heapq.heappush(events, (back, next(number), "reply", ticket, None))
                else:
                    lines = dict(line.split(": ") for line in headers.lower().splitlines())
                    heapq.heappush(events, (back, next(number), "refusal", ticket, retry_after(lines)))
                continue
            idle += 1
            late = clock.now > warm_up
            if what == "reply":
                limit.replied()
                taken += late
            else:
                limit.refused(ticket, wait)
                refused += late
    assert model.requests_per_second is not None
    return taken / (model.requests_per_second * (seconds - warm_up)), refused / (taken + refused), bucket.early


@pytest.mark.parametrize("told", ["milliseconds", "seconds", "none"])
@pytest.mark.parametrize("rate", [5.0, 60.0])
def test_the_rate_comes_to_what_a_token_bucket_permits(rate: float, told: str) -> None:
    model = SimulatedModel(role="full", requests_per_second=rate, burst=rate, retry_after=told)
    share, refused, _ = drive(model, clients=64, seconds=400, warm_up=40)
    assert share >= 0.95
    assert refused <= 0.01


def test_a_limit_that_falls_and_rises_is_followed() -> None:
    clock = Clock()
    limit = RateLimit(clock)
    limit.rate = 100.0
    for _ in range(300):
        clock.now += 0.05
        limit.take(clock.now)
        limit.replied()
    limit.refused(clock.now, None)
    assert limit.rate < 25, "20 a second were taken: what was asked for above that is not believed"
    start = limit.rate
    for _ in range(4000):
        limit.replied()
    assert limit.rate > 2 * start


def test_nobody_sends_before_retry_after_and_old_refusals_count_once() -> None:
    clock = Clock()
    limit = RateLimit(clock)
    limit.rate = 10.0
    tickets = []
    for _ in range(5):
        clock.now += 0.1
        tickets.append(limit.take(clock.now))
    limit.refused(tickets[0], 3.0)
    once = limit.rate
    for ticket in tickets[1:]:
        limit.refused(ticket, 2.0)
    assert limit.rate == once, "all of them were in flight when the rate was lowered"
    assert limit.delay(clock.now) == pytest.approx(3.0), "the longest pause counts"
    limit.pause(1.0)
    assert limit.delay(clock.now) == pytest.approx(3.0)


def test_the_pause_is_kept_on_the_real_clock() -> None:
    import asyncio

    async def go() -> float:
        limit = RateLimit()
        limit.rate = 100.0
        limit.refused(await limit.wait(lambda: False), 0.3)
        began = time.monotonic()
        await asyncio.gather(*(limit.wait(lambda: False) for _ in range(3)))
        return time.monotonic() - began

    assert asyncio.run(go()) >= 0.3


def test_retry_after_in_every_form() -> None:
    assert retry_after({}) is None
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "1", "retry-after-ms": "1500"}) == 1.5
    assert retry_after({"retry-after": "soon"}) is None
    server = time.time() - 5000
    skewed = {"retry-after": formatdate(server + 12, usegmt=True), "date": formatdate(server, usegmt=True)}
    assert retry_after(skewed) == pytest.approx(12, abs=1), "dates are read against the server's clock"
    assert retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)}) == pytest.approx(30, abs=1.5)
    assert retry_after({"retry-after": formatdate(time.time() - 30, usegmt=True)}) == 0
