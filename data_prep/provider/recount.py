"""Bodies that an earlier version read otherwise: what was paid and thrown away is a reply now, what is no reply is none any more."""

from __future__ import annotations

from data_prep.provider.base import Provider
from data_prep.provider.prices import Price, price_reply
from data_prep.provider.received import NotFromApi, TransientError
from data_prep.store.group_commit import Statement
from data_prep.store.ledger import Ledger

_BODIES = (
    "SELECT id, state, raw, upper_nano, cost_nano, batch FROM calls WHERE cache_key = ? AND raw IS NOT NULL AND "
    "(state = 'reply' OR (state = 'rejected' AND status = 200))"
)
_PAID = "UPDATE calls SET state = 'reply', prompt_tokens = ?, output_tokens = ?, cost_nano = ? WHERE id = ?"
_FREE = (
    "UPDATE calls SET state = 'rejected', status = 200, prompt_tokens = NULL, output_tokens = NULL, cost_nano = 0 WHERE id = ?"
)


async def recount(ledger: Ledger, provider: Provider, price: Price, key: str) -> int:
    """Put the rows of one request right.

    Returns:
        Nano-dollars that are paid besides what was counted; negative where less is.
    """
    statements: list[Statement] = []
    change = 0
    for call, state, raw, upper, counted, batch in ledger.read(_BODIES, (key,)):
        body = provider.read(raw)
        if isinstance(body, TransientError | NotFromApi):
            if state == "reply":
                statements.append((_FREE, (call,)))
                change -= counted or 0
        elif state == "rejected":
            cost, tokens = price_reply(body, (batch is not None and price.batch) or price, upper)
            statements.append((_PAID, (*(tokens or (None, None)), cost, call)))
            change += cost - (counted or 0)
    if statements:
        await ledger.write(*statements)
    return change
