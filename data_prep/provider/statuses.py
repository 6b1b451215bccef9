"""What an HTTP status says of a paid request, and of all others that would follow it."""

from __future__ import annotations

import json

RETRIED = (408, 409, 429, 500, 502, 503, 520, 521, 522, 523, 529)
"""With which a server says that it did not answer; 409 and 52x are those of gateways."""
UNKNOWN = (504, 524)
"""A gateway waited too long: what it waited for may have been done, and billed."""
_FATAL = (401, 402, 403, 404)
"""Nothing is gained by going on: the key, the account, the address or the model's name is wrong."""
_FATAL_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""The account has no money: said with a 429 or a 400."""


def is_fatal(status: int, raw: bytes) -> bool:
    """Whether no request of this account, or to this model, can be answered.

    Args:
        status: of a response.
        raw: its body.
    """
    return status in _FATAL or (status in (400, 429) and _code(raw) in _FATAL_CODES)


def _code(raw: bytes) -> str | None:
    try:
        return str(json.loads(raw)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return None
