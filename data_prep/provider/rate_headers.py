"""What a provider's headers say is left of a rate limit, and what that means for the next requests.

Providers keep token buckets, of requests and of tokens. The time until a bucket is full again tells the rate at which it fills:
(limit − remaining) / reset, whatever the length of the period that the limit is named for.
"""

from __future__ import annotations

from dataclasses import dataclass

_COARSE = 5
"""Used units from which on a whole number of them says something of a rate."""
_SHARE = 0.1
"""Weight of a new measurement of a rate."""
_KEPT = 0.98
"""Weight, at each answer, of what was seen before of the tokens of requests."""


@dataclass(frozen=True)
class ReportedBucket:
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


class BucketEstimate:
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

    def update(self, reported: ReportedBucket, ticket: float, sent: int) -> None:
        """Take over what an answer says.

        Args:
            reported: by the answer.
            ticket: seconds, when its request was sent.
            sent: requests sent since the last update, up to and with this one.
        """
        if reported.rate is not None:
            if reported.kind == "tokens" and self.rate is not None:
                # Sums, since a request that overtook another one makes one difference too large and the next too small.
                used = self._level + (ticket - self._at) * self.rate - reported.remaining
                self._used, self._sent = _KEPT * self._used + used, _KEPT * self._sent + sent
                self._cost = max(1.0, self._used / max(self._sent, 1.0))
            self.rate = reported.rate if self.rate is None else self.rate + (reported.rate - self.rate) * _SHARE
        self._limit, self._level, self._at = reported.limit, reported.remaining, ticket

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
