"""How long a server asks to wait."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

MAX_WAIT_SECONDS = 366 * 86400.0
"""Seconds that a header can ask to wait: sums and messages stay sane."""


def retry_after(headers: Mapping[str, str], date: Callable[[], float] = time.time) -> float | None:
    """Seconds that a response asks to wait: `retry-after-ms`, or Retry-After in seconds or as an HTTP date.

    A date is read against the server's own clock (its Date header) where it names one. Where both forms stand, the longer counts.
    Something that is neither counts as nothing: the caller's own back-off serves then. More than `MAX_WAIT_SECONDS` is as good as for ever.

    Args:
        headers: of the response, names in lower case.
        date: seconds since 1970, for a response that says nothing of its own clock.
    """
    found: list[float] = []
    with_ms, plain = headers.get("retry-after-ms"), headers.get("retry-after")
    if with_ms is not None and (value := _number(with_ms)) is not None:
        found.append(value / 1000)
    if plain is not None:
        if (value := _number(plain)) is not None:
            found.append(value)
        elif (until := _date(plain)) is not None:
            found.append(until - (_date(headers.get("date", "")) or date()))
    return min(MAX_WAIT_SECONDS, max(0.0, *found)) if found else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    # A year that no clock has, or a zone of more than a day.
    except (ValueError, OverflowError, TypeError, IndexError, OSError):
        return None
