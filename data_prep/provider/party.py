"""Who answered: the party is part of what a reply is kept under, and how replies of before that was so are found.

Up to version 0.2.0 a key held the question and the model's name alone, so two servers with one model name shared their replies. A call of
that time has no party in the ledger. Its reply counts as a party's where it certainly, or as far as can be known, came from there:

1. It travelled in a batch, whose address the ledger has.
2. It was asked for under the name of an endpoint of this pass: then it is that endpoint's, and of those that are the same party.
3. It was asked for under a name that no endpoint has today. Where one party alone has this model, and the ledger knows none of its calls by
   its own name, it was called something else then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.provider.config import EndpointConfig, address_name
from data_prep.provider.request import Request
from data_prep.store.ledger import CallState, FormerCall, Ledger


@dataclass(frozen=True)
class KnownReply:
    """What the ledger has of a question to a party."""

    key: str
    state: CallState
    """`reply`, `batched` or `unknown`."""
    raw: bytes | None = None
    """Of a reply."""


def kept(ledger: Ledger, request: Request, endpoints: Sequence[EndpointConfig]) -> KnownReply | None:
    """The call that answered a question, or may have been answered or will be; a reply comes before all else.

    Args:
        ledger: of the store.
        request: the question, and whom it goes to.
        endpoints: of the pass.
    """
    found: list[KnownReply] = []
    keys = [request.key]
    if (unnamed := request.key_of(address_name(request.endpoint.base_url))) != request.key:
        # An endpoint that was given a name later has answered under its address.
        keys += [unnamed] if _asked_unnamed(ledger, unnamed, request.endpoint, endpoints) else []
    for key in keys:
        if (raw := ledger.cached_reply(key)) is not None:
            return KnownReply(key, "reply", raw)
        found += [KnownReply(key, state) for state in ("batched", "unknown") if ledger.is_open(key, state)]
    former = request.key_of(None)
    for call in ledger.former_calls(former):
        if _gave(ledger, call, request.endpoint, endpoints):
            found.append(KnownReply(former, call.state, call.raw))
    order = ("reply", "batched", "unknown")
    best = min(found, key=lambda one: order.index(one.state), default=None)
    if best is not None and best.raw is None and ledger.cached_reply(best.key) is not None:
        # Another party has answered under this key of before: what it says is not this one's, whose question may have been paid all the same.
        return KnownReply(request.key, best.state)
    return best


def is_answered(ledger: Ledger, request: Request, endpoints: Sequence[EndpointConfig]) -> bool:
    """Whether the ledger has the reply: asking costs nothing."""
    found = kept(ledger, request, endpoints)
    return found is not None and found.state == "reply"


def _asked_unnamed(ledger: Ledger, key: str, endpoint: EndpointConfig, endpoints: Sequence[EndpointConfig]) -> bool:
    """Whether what was asked at an address was asked of this party: of several behind one address, of that whose name was asked."""
    there = address_name(endpoint.base_url)
    several = any(
        e.party_name != endpoint.party_name
        for e in endpoints
        if (e.model, e.provider, address_name(e.base_url)) == (endpoint.model, endpoint.provider, there)
    )
    query = "SELECT 1 FROM calls WHERE cache_key = ? AND annotator = ? LIMIT 1"
    return not several or bool(ledger.read(query, (key, endpoint.name)))


def _gave(ledger: Ledger, call: FormerCall, endpoint: EndpointConfig, endpoints: Sequence[EndpointConfig]) -> bool:
    """Whether a call without a party was this endpoint's."""
    rivals = [e for e in endpoints if e.model == endpoint.model and e.provider == endpoint.provider]
    if call.base_url is not None:
        there = address_name(call.base_url)
        if there == address_name(endpoint.base_url):
            return True
        if any(there == address_name(e.base_url) for e in rivals):
            return False
    for other in (endpoint, *rivals):
        if other.name == call.annotator:
            return other.party_name == endpoint.party_name
    alone = {e.party_name for e in rivals} <= {endpoint.party_name}
    return alone and not ledger.has_former_calls(endpoint.name, endpoint.model)
