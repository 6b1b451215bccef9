"""Bodies that an earlier version read otherwise: what was paid and thrown away is a reply now, what is no reply is none any more."""

from __future__ import annotations

import asyncio

from data_prep.provider.attempts import Attempts
from data_prep.provider.config import EndpointConfig
from data_prep.provider.received import NotFromApi, TransientError
from data_prep.store.group_commit import Statement

_BODIES = (
    "SELECT id, state, raw, upper_nano, cost_nano, batch FROM calls WHERE cache_key = ? AND raw IS NOT NULL AND "
    "(state = 'reply' OR (state = 'rejected' AND status = 200))"
)
_PAID = "UPDATE calls SET state = 'reply', raw = ?, prompt_tokens = ?, output_tokens = ?, cost_nano = ? WHERE id = ?"
_FREE = (
    "UPDATE calls SET state = 'rejected', status = 200, prompt_tokens = NULL, output_tokens = NULL, cost_nano = 0 WHERE id = ?"
)


class Recount:
    """Puts the rows of requests right, those of each key once.

    Args:
        attempts: reads bodies, prices them, and keeps them as it keeps those that arrive now.
    """

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._done: set[str] = set()
        self._lock = asyncio.Lock()

    async def put_right(self, endpoint: EndpointConfig, key: str) -> None:
        """What an earlier version took for a reply, or for none, and is not what it took it for; the budget is told.

        Whoever asks the same meanwhile waits: before the row is right, the reply in it is not found, and would be bought again.
        """
        async with self._lock:
            if key not in self._done:
                self._attempts.budget.correct(await self._recounted(endpoint, key))
                self._done.add(key)

    async def _recounted(self, endpoint: EndpointConfig, key: str) -> int:
        """Nano-dollars that are paid besides what was counted; negative where less is."""
        ledger, provider = self._attempts.ledger, self._attempts.provider(endpoint)
        statements: list[Statement] = []
        change = 0
        for call, state, raw, upper, counted, batch in ledger.read(_BODIES, (key,)):
            body = provider.read(raw)
            if isinstance(body, TransientError | NotFromApi):
                if state == "reply":
                    statements.append((_FREE, (call,)))
                    change -= counted or 0
            elif state == "rejected":
                kept, cost, tokens = await self._attempts.received(endpoint, raw, body, upper, batch=batch is not None)
                statements.append((_PAID, (kept, *(tokens or (None, None)), cost, call)))
                change += cost - (counted or 0)
        if statements:
            await ledger.write(*statements)
        return change
