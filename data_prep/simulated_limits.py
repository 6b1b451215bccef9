"""The rate limit of a simulated model: a token bucket, as providers keep one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from email.utils import formatdate

from data_prep.config import SimulatedModel

_GRACE = 0.2
"""Seconds in which a request may still arrive that was sent before its sender (on a busy machine) could read the refusal."""


class TokenBucket:
    """Lets `requests_per_second` through, `burst` of them at once after a pause.

    Args:
        model: rate, burst, and how a refusal says when to come again.
        clock: seconds, monotonic.
    """

    def __init__(self, model: SimulatedModel, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._clock = clock
        self._tokens = model.burst
        self._at = clock()
        self._told_at = self._told_until = -math.inf
        self.early = 0
        """Requests that came before the time that a refusal had named."""

    def take(self) -> str | None:
        """None where the request may pass, else the headers of its refusal."""
        rate = self._model.requests_per_second
        if rate is None:
            return None
        now = self._clock()
        self.early += self._told_at + _GRACE < now < self._told_until
        self._tokens, self._at = min(self._model.burst, self._tokens + (now - self._at) * rate), now
        if self._tokens >= 1:
            self._tokens -= 1
            return None
        wait = (1 - self._tokens) / rate
        match self._model.retry_after:
            case "milliseconds":
                wait, header = math.ceil(wait * 1000) / 1000, f"retry-after-ms: {math.ceil(wait * 1000)}\r\n"
            case "seconds":
                wait = math.ceil(wait)
                header = f"Retry-After: {wait}\r\n"
            case "date":
                # Dates have whole seconds: the next one that is late enough.
                until = math.ceil(time.time() + wait)
                wait, header = until - time.time(), f"Retry-After: {formatdate(until, usegmt=True)}\r\n"
            case _:
                return ""
        if now + wait > self._told_until:
            self._told_at, self._told_until = now, now + wait
        return header
