"""What an HTTP status says of a paid request, whoever the provider is."""

from __future__ import annotations

RETRIED_STATUSES = (408, 409, 429, 500, 502, 503, 520, 521, 522, 523, 529)
"""With which a server says that it did not answer; 409 and 52x are those of gateways."""
UNKNOWN_OUTCOME_STATUSES = (504, 524)
"""A gateway waited too long: what it waited for may have been done, and billed."""
