"""What a provider says is left of a rate limit: the headers `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`.

`reset` is the time until the bucket is full again, so it tells the rate at which it fills: (limit − remaining) / reset, whatever the
length of the period that the limit is named for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_KINDS = ("requests", "tokens")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_COARSE = 5
"""Used units from which on a whole number of them says something of a rate."""
_SHARE = 0.1
"""Weight of a new measurement of a rate."""
_KEPT = 0.98
"""Weight, at each answer, of what was seen before of the tokens of requests."""


@dataclass(frozen=True)
class Allowance:
    """State of one bucket when it let a request pass, or refused it."""

    kind: str
    """`requests` or `tokens`."""
    limit: float
    remaining: float
    reset: float
    """Seconds until it is full."""

    @property
    def rate(self) -> float | None:
        """What it gains in a second, None where that does not show (it is full, or nearly: what remains is a whole number)."""
        used = self.limit - self.remaining
        return used / self.reset if self.reset > 0 and used >= _COARSE else None


def allowances(headers: Mapping[str, str]) -> list[Allowance]:
    """The buckets that an answer names whole; what is no number or no duration (`1s`, `6m0s`, `120ms`) counts as not named."""
    found = []
    for kind in _KINDS:
        values = [headers.get(f"x-ratelimit-{part}-{kind}") for part in ("limit", "remaining", "reset")]
        try:
            limit, remaining, reset = float(values[0] or ""), float(values[1] or ""), _duration(values[2] or "")
        except ValueError:
            continue
        if 0 <= remaining <= limit < float("inf"):
            found.append(Allowance(kind, limit, remaining, reset))
    return found


def _duration(text: str) -> float:
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise ValueError(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class Mirror:
    """One bucket of the provider as it is seen from here.

    Everything is counted in the time of sending: a request that was sent after the one whose answer says what is left has been
    taken from that since, or will be.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        self._limit = self._level = self._at = 0.0
        self._cost = 1.0
        """Of one request: 1, or its tokens on average."""
        self._used = self._sent = 0.0

    def update(self, told: Allowance, ticket: float, sent: int) -> None:
        """Take over what an answer says.

        Args:
            told: by the answer.
            ticket: seconds, when its request was sent.
            sent: requests sent since the last update, up to and with this one.
        """
        if told.rate is not None:
            if told.kind == "tokens" and self.rate is not None:
                # Sums, since a request that overtook another one makes one difference too large and the next too small.
                used = self._level + (ticket - self._at) * self.rate - told.remaining
                self._used, self._sent = _KEPT * self._used + used, _KEPT * self._sent + sent
                self._cost = max(1.0, self._used / max(self._sent, 1.0))
            self.rate = told.rate if self.rate is None else self.rate + (told.rate - self.rate) * _SHARE
        self._limit, self._level, self._at = told.limit, told.remaining, ticket

    def wait(self, now: float, sent: int) -> float:
        """Seconds until there is enough for one more request.

        Args:
            now: seconds.
            sent: requests sent since the last update.
        """
        if self.rate is None:
            return 0.0
        left = min(self._limit, self._level + (now - self._at) * self.rate - sent * self._cost)
        # A margin, since requests overtake each other on their way.
        return (min(self._cost + min(self._cost, self._limit / 4), self._limit) - left) / self.rate

    @property
    def per_second(self) -> float | None:
        """Requests per second that it permits."""
        return None if self.rate is None else self.rate / self._cost
