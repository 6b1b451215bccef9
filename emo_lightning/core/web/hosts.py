"""What one server allows: when it may be asked again, and which addresses its robots.txt permits."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from emo_lightning.core.web.addresses import RefusedError

if TYPE_CHECKING:
    from protego import Protego

USER_AGENT = "emo-lightning"
"""Our name in robots.txt."""

_EXACT = 10**9
"""Whole numbers below it are counted with as they are."""
MAX_DELAY_SECONDS = 120.0
"""Seconds; a server that wants a longer pause than this is not waited for in this run."""


class Host:
    """One origin (scheme, host, port).

    Args:
        interval: seconds between two requests; robots.txt can only make it longer.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.robots_lock = asyncio.Lock()
        """Held while robots.txt is fetched."""
        self.robots_known = False
        """Whether robots.txt was fetched, or could not be."""
        self._next_turn = 0.0
        self._robots: Protego | None = None
        self._refusal: str | None = None

    async def turn(self) -> None:
        """Wait until the server may be asked."""
        while (wait := self._next_turn - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        self._next_turn = time.monotonic() + self.interval

    def pause(self, seconds: float) -> None:
        """Nobody asks the server for so long."""
        self._next_turn = max(self._next_turn, time.monotonic() + seconds)

    def obey(self, robots: str) -> None:
        """Take the rules of a robots.txt (RFC 9309; Crawl-delay and Request-rate as well)."""
        from protego import Protego

        self._robots = Protego.parse(robots)
        delay = self._robots.crawl_delay(USER_AGENT) or 0.0
        rate = self._robots.request_rate(USER_AGENT)
        if rate is not None and rate.requests > 0:
            # Whole numbers of any length: their quotient may be no float.
            too_long = (
                rate.seconds > MAX_DELAY_SECONDS * rate.requests if rate.requests < _EXACT else rate.seconds > rate.requests
            )
            delay = max(delay, MAX_DELAY_SECONDS + 1 if too_long else min(rate.seconds, _EXACT) / min(rate.requests, _EXACT))
        if not 0 <= delay <= MAX_DELAY_SECONDS:
            self.refuse(f"robots.txt wants {delay:g} s between requests, at most {MAX_DELAY_SECONDS:.0f} s are waited")
            return
        self.interval = max(self.interval, delay)
        self.pause(self.interval)

    def refuse(self, reason: str) -> None:
        """Nothing of this server may be asked for."""
        self._refusal = reason

    def check(self, url: str) -> None:
        """Do nothing where robots.txt allows the address.

        Raises:
            RefusedError: it does not, or could not be had.
        """
        if self._refusal is not None:
            raise RefusedError(self._refusal)
        if self._robots is not None and not self._robots.can_fetch(url, USER_AGENT):
            msg = "forbidden by robots.txt"
            raise RefusedError(msg)
