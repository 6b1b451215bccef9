"""JSON over HTTP as a paid request wants it: nothing is retried, the raw body comes out, and what was sent is told from what was not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import httpx2

_SECRET = 8
"""Characters from which on a key is one, and not the `x` of a server that wants none."""

# No connection came about, so nothing was sent. aiohttp's transport must be asked itself: openai's adapter maps a lost
# connection to the same class as a failed one.
_NEVER_SENT = {
    "httpx": {"ConnectError", "ConnectTimeout", "PoolTimeout"},
    "aiohttp": {"ClientConnectorError", "ClientConnectorDNSError", "ClientConnectorSSLError", "ConnectionTimeoutError"},
}


@dataclass(frozen=True)
class HttpAnswer:
    """An answer of any status."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    """Names in lower case."""

    def shown(self) -> str:
        """The beginning of the body, for messages."""
        return self.body[:300].decode("utf-8", "replace")


class TransportError(Exception):
    """There was no answer, or not a whole one; the message is the innermost cause.

    Attributes:
        sent: whether any of the request can have arrived, and may be billed.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__(root_cause(cause))
        self.sent = not never_sent(cause)


class HttpStatusError(Exception):
    """An answer whose status is not 2xx, where one was needed."""

    def __init__(self, answer: HttpAnswer) -> None:
        super().__init__(f"HTTP {answer.status}: {answer.shown()}")
        self.answer = answer


class Connection(Protocol):
    """To one endpoint, with its key."""

    async def post(self, path: str, body: Mapping[str, object]) -> HttpAnswer:
        """Send a JSON body once.

        Args:
            path: below the endpoint's `base_url`.
            body: JSON.

        Raises:
            TransportError: there was no answer.
        """
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


class HttpConnection:
    """Plain JSON over HTTP.

    Args:
        base_url: of the endpoint.
        headers: of every request.
        timeout: seconds between two bytes.
    """

    def __init__(self, base_url: str, headers: Mapping[str, str], timeout: float) -> None:
        self._base_url, self._headers = base_url.rstrip("/"), dict(headers)
        self._client = http_client(timeout)

    async def post(self, path: str, body: Mapping[str, object]) -> HttpAnswer:
        """See `Connection`."""
        import aiohttp
        import httpx2

        try:
            answer = await self._client.post(self._base_url + path, json=body, headers=self._headers)
        except (httpx2.HTTPError, aiohttp.ClientError, OSError) as error:
            raise TransportError(error) from None
        return HttpAnswer(answer.status_code, answer.content, answer.headers)

    async def close(self) -> None:
        """See `Connection`."""
        await self._client.aclose()


def http_client(timeout: float) -> httpx2.AsyncClient:
    """The quickest client that is there."""
    import openai

    try:
        # Twice as fast as the default transport for many small requests.
        return openai.DefaultAioHttpClient(timeout=timeout)
    except RuntimeError:
        return openai.DefaultAsyncHttpxClient(timeout=timeout)


def never_sent(error: BaseException) -> bool:
    """Whether a connection error means that no byte of the request can have arrived."""
    chain = _causes(error)
    for library in ("aiohttp", "httpx"):
        mine = [e for e in chain if type(e).__module__.startswith(library)]
        if mine:
            return any(type(e).__name__ in _NEVER_SENT[library] for e in mine)
    return False


def root_cause(error: BaseException) -> str:
    """The innermost cause, for the ledger."""
    last = _causes(error)[-1]
    return f"{type(last).__name__}: {last}"


def without_key(raw: bytes, key: str) -> bytes:
    """The same with an echoed API key blotted out: some servers put it into their error messages."""
    return raw.replace(key.encode(), b"[key]") if len(key) >= _SECRET else raw


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__
    return chain
