"""Reading of what an endpoint sends back, and the key under which it is kept. Pure functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Message:
    """What a reply says: its text, or why the model declines."""

    text: str | None
    refusal: str | None


_MOST_TOKENS = 10**9
"""Of one request; a reply that claims more is mistaken, and its cost would not fit the ledger."""

_SECRET = 8
"""Characters from which on a key is one, and not the `x` of a server that wants none."""

# No connection came about, so nothing was sent. aiohttp's transport must be asked itself: openai's adapter maps a lost
# connection to the same class as a failed one.
_NEVER_SENT = {
    "httpx": {"ConnectError", "ConnectTimeout", "PoolTimeout"},
    "aiohttp": {"ClientConnectorError", "ClientConnectorDNSError", "ClientConnectorSSLError", "ConnectionTimeoutError"},
}


def cache_key(image_sha256: str, prompt: str, schema: Mapping[str, Any], model: str, parameters: Mapping[str, Any]) -> str:
    """sha256 over all that decides a reply; the address of the endpoint is not part of it."""
    parts = [image_sha256, prompt, schema, model, parameters]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def never_sent(error: BaseException) -> bool:
    """Whether a connection error means that no byte of the request can have arrived."""
    chain = _causes(error)
    for library in ("aiohttp", "httpx"):
        mine = [e for e in chain if type(e).__module__.startswith(library)]
        if mine:
            return any(type(e).__name__ in _NEVER_SENT[library] for e in mine)
    return False


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__
    return chain


def root_cause(error: BaseException) -> str:
    """The innermost cause, for the ledger."""
    last = _causes(error)[-1]
    return f"{type(last).__name__}: {last}"


def message_of(raw: bytes) -> Message:
    """Text or refusal of a chat completion; a body that is none counts as an empty text (it was paid all the same)."""
    try:
        choice = json.loads(raw)["choices"][0]
        message = choice["message"]
        if choice.get("finish_reason") == "content_filter":
            return Message(None, "content filter")
        return Message(message.get("content"), message.get("refusal"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return Message(None, None)


def is_completion(raw: bytes) -> bool:
    """Whether a body may be a chat completion, and so have been billed: no page of a proxy, no error under status 200.

    One that was cut off may be.
    """
    if not raw.lstrip().startswith(b"{"):
        return False
    try:
        return not json.loads(raw).keys().isdisjoint(("choices", "usage"))
    except (ValueError, RecursionError):
        return True


def without_key(raw: bytes, key: str) -> bytes:
    """The same with an echoed API key blotted out: some servers put it into their error messages."""
    return raw.replace(key.encode(), b"[key]") if len(key) >= _SECRET else raw


def usage_of(raw: bytes) -> tuple[int, int, int] | None:
    """(prompt, cached prompt, output) tokens of a reply, or None where it names none that can be true."""
    try:
        usage = json.loads(raw)["usage"]
        prompt, output = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        # Gemini's endpoint leaves thinking tokens out of `completion_tokens` but bills them: the total has them.
        output = max(output, int(usage.get("total_tokens") or 0) - prompt)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    if not (0 <= prompt <= _MOST_TOKENS and 0 <= output <= _MOST_TOKENS and cached >= 0):
        return None
    return prompt, min(cached, prompt), output
