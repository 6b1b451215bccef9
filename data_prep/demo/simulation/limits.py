"""The rate limit of a simulated model: a bucket of requests and one of tokens, as providers keep them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from email.utils import formatdate

from data_prep.demo.simulation.config import SimulatedModel

_GRACE = 0.2
"""Seconds in which a request may still arrive that was sent before its sender (on a busy machine) could read the refusal."""


class _Bucket:
    """Fills at a rate, holds `size`."""

    def __init__(self, kind: str, rate: float, size: float, now: float) -> None:
        self.kind, self.rate, self.size = kind, rate, size
        self.level = size
        self._at = now

    def fill(self, now: float) -> None:
        self.level, self._at = min(self.size, self.level + (now - self._at) * self.rate), now

    def wait(self, cost: float) -> float:
        """Seconds until so much is there; what is dearer than a full bucket passes when it is full."""
        return max(0.0, min(cost, self.size) - self.level) / self.rate

    def headers(self) -> str:
        name = f"x-ratelimit-{{}}-{self.kind}"
        reset = (self.size - self.level) / self.rate
        return (
            f"{name.format('limit')}: {self.size:.0f}\r\n{name.format('remaining')}: {max(0, math.floor(self.level))}\r\n"
            f"{name.format('reset')}: {reset * 1000:.0f}ms\r\n"
        )


class TokenBucket:
    """Lets `requests_per_second` and `tokens_per_second` through, `burst` and `token_burst` of them at once after a pause.

    Args:
        model: rates, bursts, and how a refusal says when to come again.
        clock: seconds, monotonic.
        date: seconds since 1970, for refusals that name one.
    """

    def __init__(
        self,
        model: SimulatedModel,
        clock: Callable[[], float] = time.monotonic,
        date: Callable[[], float] = time.time,
    ) -> None:
        self._model = model
        self._clock = clock
        self._date = date
        self._pause_began = self._pause_ends = -math.inf
        limits = (
            ("requests", model.requests_per_second, model.burst),
            ("tokens", model.tokens_per_second, model.token_burst),
        )
        self._buckets = [_Bucket(kind, rate, size, clock()) for kind, rate, size in limits if rate is not None]
        self.early = 0
        """Requests that came before the time that a refusal had named."""

    def take(self, tokens: float = 0.0) -> str | None:
        """None where a request of so many tokens may pass, else the headers of its refusal."""
        if not self._buckets:
            return None
        now = self._clock()
        self.early += self._pause_began + _GRACE < now < self._pause_ends
        costs = [1.0 if bucket.kind == "requests" else tokens for bucket in self._buckets]
        wait = 0.0
        for bucket, cost in zip(self._buckets, costs, strict=True):
            bucket.fill(now)
            wait = max(wait, bucket.wait(cost))
        if wait == 0:
            for bucket, cost in zip(self._buckets, costs, strict=True):
                bucket.level -= cost
            return None
        return self._refusal(now, wait) + self.state()

    def state(self) -> str:
        """Header lines that say what is left (`x-ratelimit-*`), empty where this model sends none."""
        return "".join(bucket.headers() for bucket in self._buckets) if self._model.rate_headers else ""

    def _refusal(self, now: float, wait: float) -> str:
        match self._model.retry_after:
            case "milliseconds":
                wait, header = math.ceil(wait * 1000) / 1000, f"retry-after-ms: {math.ceil(wait * 1000)}\r\n"
            case "seconds":
                wait = math.ceil(wait)
                header = f"Retry-After: {wait}\r\n"
            case "date":
                # Dates have whole seconds: the next one that is late enough.
                today = self._date()
                until = math.ceil(today + wait)
                wait, header = until - today, f"Retry-After: {formatdate(until, usegmt=True)}\r\n"
            case _:
                return ""
        if now + wait > self._pause_ends:
            self._pause_began, self._pause_ends = now, now + wait
        return header
