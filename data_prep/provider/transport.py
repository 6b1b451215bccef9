"""JSON over HTTP as a paid request wants it: nothing is retried, the raw body comes out, and what was sent is told from what was not.

The transport itself says whether anything left (`_Watch`): a request of which nothing was sent is free, whatever stood in its way. Answers
are read with a limit of bytes and of whole time, no redirect is followed, and the key is blotted out of what comes back.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlsplit

from data_prep.provider.json_bodies import is_complete
from emo_lightning.core.web.bodies import IDENTITY_ENCODING, BodyError, BodyLimit, BodyReader

if TYPE_CHECKING:
    import ssl

    import aiohttp

_SECRET = 8
"""Characters from which on a key is one, and not the `x` of a server that wants none."""
MAX_ANSWER_BYTES = 8 * 2**20
"""Of one answer; a model's longest reply is a tenth of it."""
_CHUNK = 2**16
_SHOWN = 300
"""Bytes of an answer in a message."""
_CONNECTIONS = 1000
"""To one endpoint; its `concurrency` is what limits them."""


@dataclass(frozen=True)
class HttpAnswer:
    """An answer of any status."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    """Names in lower case."""

    def shown(self) -> str:
        """The beginning of the body, for messages."""
        return self.body[:_SHOWN].decode("utf-8", "replace")


class TransportError(Exception):
    """There was no answer, or not a whole one.

    Args:
        problem: in words; no key is in it.
        sent: whether any of the request can have left, and may be billed.
        hopeless: whether another try gives the same: the address or the certificate is wrong, or the answer is too large.
    """

    def __init__(self, problem: str, *, sent: bool, hopeless: bool = False) -> None:
        super().__init__(problem)
        self.sent, self.hopeless = sent, hopeless


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


class _Watch:
    """What the transport has seen of one request."""

    sent = False
    """Whether its head was written to a connection: its body follows at once."""


class HttpConnection:
    """Plain JSON over HTTP.

    Args:
        base_url: of the endpoint.
        headers: of every request.
        timeout: seconds for a whole request, from connecting to the last byte.
        secret: the key, which is blotted out of answers and messages.
        most: bytes of an answer.
    """

    def __init__(
        self, base_url: str, headers: Mapping[str, str], timeout: float, *, secret: str = "", most: int = MAX_ANSWER_BYTES
    ) -> None:
        self._base_url, self._headers = base_url.rstrip("/"), {**headers, **IDENTITY_ENCODING}
        self._timeout, self._secret, self._limit = timeout, secret, BodyLimit(most)
        self._session: aiohttp.ClientSession | None = None
        self._proxy: str | None = None

    async def post(self, path: str, body: Mapping[str, object]) -> HttpAnswer:
        """See `Connection`."""
        import aiohttp

        # Half a pair of surrogates is no text; a model may have written one.
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        if wrong := [name for name, value in self._headers.items() if not value.isprintable()]:
            # The client would say so after it has told that they were sent.
            msg = (
                f"the header {', '.join(wrong)} holds a control character: look at the environment variable that it comes from"
            )
            raise TransportError(msg, sent=False, hopeless=True)
        watch = _Watch()
        try:
            return await self._answer(path, data, watch)
        except BodyError as error:
            msg = f"the answer cannot be read: {error}"
            raise TransportError(msg, sent=True) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # TimeoutError is an OSError; ValueError: what is no address, or no header.
            problem = without_key(root_cause(error).encode(), self._secret).decode()
            if isinstance(error, TimeoutError):
                problem = f"{'no whole answer' if watch.sent else 'no connection'} within {self._timeout:g} s"
            raise TransportError(problem, sent=watch.sent, hopeless=not watch.sent and is_hopeless(error)) from None

    async def _answer(self, path: str, data: bytes, watch: _Watch) -> HttpAnswer:
        import aiohttp

        session = self._session or self._open()
        async with session.post(
            self._base_url + path,
            data=data,
            headers=self._headers,
            allow_redirects=False,
            proxy=self._proxy,
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            trace_request_ctx=watch,
        ) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            try:
                raw = await _whole_body(response.content.iter_chunked(_CHUNK), headers.get("content-encoding"), self._limit)
            except BodyError as error:
                if 200 <= response.status < 300:
                    raise
                # The status says all that is needed.
                raw = f"[the answer is not read: {error}]".encode()
        return HttpAnswer(response.status, without_key(raw, self._secret), headers)

    def _open(self) -> aiohttp.ClientSession:
        """Within the loop that uses it."""
        import aiohttp

        seen = aiohttp.TraceConfig()
        seen.on_request_headers_sent.append(_headers_sent)
        self._proxy = proxy_of(self._base_url)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=trusted()),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trace_configs=[seen],
        )
        return self._session

    async def close(self) -> None:
        """See `Connection`."""
        if self._session is not None:
            await self._session.close()


async def _whole_body(chunks: AsyncIterable[bytes], coding: str | None, limit: BodyLimit) -> bytes:
    """As `read_body`; where the connection ends before its end was announced, what has arrived, if that is all of a reply.

    Raises:
        ClientPayloadError: it is not.
        BodyError: see `read_body`.
    """
    import aiohttp

    reader = BodyReader(coding, limit)
    try:
        async for chunk in chunks:
            reader.feed(chunk)
    except aiohttp.ClientPayloadError:
        if not is_complete(bytes(reader.body)):
            raise
    return bytes(reader.body)


async def _headers_sent(_session: object, context: SimpleNamespace, _parameters: object) -> None:
    context.trace_request_ctx.sent = True


def trusted() -> ssl.SSLContext:
    """Whose certificates are believed: as the `openai` client does (`SSL_CERT_FILE`, `SSL_CERT_DIR`)."""
    import httpx2

    return httpx2.create_ssl_context()


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for an address (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`)."""
    from urllib.request import getproxies, proxy_bypass

    parts, proxies = urlsplit(url), getproxies()
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return proxies.get(parts.scheme) or proxies.get("all")


def is_hopeless(error: BaseException) -> bool:
    """Whether no later try can succeed: what is no address, a certificate that is not trusted, a proxy that wants a password."""
    import ssl

    import aiohttp

    wrong = (ssl.CertificateError, aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)
    for cause in causes(error):
        if isinstance(cause, wrong) or (isinstance(cause, aiohttp.ClientHttpProxyError) and cause.status in (401, 403, 407)):
            return True
    # What remains of ValueError: an address or a header that cannot be written.
    return isinstance(error, ValueError) and not isinstance(error, aiohttp.ClientError | OSError)


def root_cause(error: BaseException) -> str:
    """The innermost cause, for the ledger."""
    last = causes(error)[-1]
    return f"{type(last).__name__}: {last}"


def without_key(raw: bytes, key: str) -> bytes:
    """The same with an echoed API key blotted out: some servers put it into their error messages."""
    if len(key) < _SECRET:
        return raw
    # As it is, and as JSON and addresses may write it.
    for written in (key, json.dumps(key)[1:-1], key.replace("/", "\\/"), quote(key, safe="")):
        raw = raw.replace(written.encode(), b"[key]")
    return raw


def causes(error: BaseException) -> list[BaseException]:
    """An exception and what it was raised from, the innermost last."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__
    return chain
