"""Downloads from servers that are not trusted: size, time, redirects and rate are limited; robots.txt is obeyed.

Private addresses are refused. Proxies of the environment are not used: through one, nobody here would know which machine is connected to.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from emo_lightning.core.errors import InputError
from emo_lightning.core.images import MAX_IMAGE_BYTES, image_format
from emo_lightning.core.text import shown
from emo_lightning.core.web.addresses import IPAddress, RefusedError, is_public, normal_url
from emo_lightning.core.web.bodies import IDENTITY_ENCODING, BodyError, BodyLimit, BodyReader, BodyTooLargeError
from emo_lightning.core.web.hosts import MAX_DELAY_SECONDS, USER_AGENT, Host
from emo_lightning.core.web.waiting import retry_after

if TYPE_CHECKING:
    import aiohttp

_ATTEMPTS = 4
_BACK_OFF = 0.5
"""Seconds before the second attempt; doubled each time, with jitter."""
_REDIRECTS = 5
_RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504}
_ROBOTS_BYTES = 500 * 1024
"""RFC 9309, section 2.5: at least this much of robots.txt is read."""
_CHUNK = 2**16
_HEAD = 16
"""Bytes by which a body is accepted."""

AcceptBody = Callable[[bytes], str | None]
DeliverBody = Callable[[bytes, str], Awaitable[None]]


class NotPublicError(OSError):
    """A signal to `Downloader`: raised instead of a connection.

    Its text is always the same: aiohttp then raises it as it is when a host has several addresses.
    """

    def __init__(self) -> None:
        super().__init__("address is not public")


def guarded(public: Callable[[IPAddress], bool]) -> aiohttp.SocketFactoryType:
    """A `socket_factory` of aiohttp that makes no socket to an address that is not public.

    It is called with the very address that is connected to next, after every resolution and for every redirect: a name that resolves to
    something else the second time (DNS rebinding) gains nothing.
    """

    def make(addr_info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = addr_info
        if not public(ipaddress.ip_address(str(address[0]).partition("%")[0])):
            raise NotPublicError
        return socket.socket(family, kind, protocol)

    return make


class _NotPublicHostError(RefusedError):
    """The address belongs to a private network."""


class _StatusError(RefusedError):
    """The server answered with a status that another attempt does not change."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class _RetryError(Exception):
    """A signal to `Downloader._attempts`: a later attempt may succeed."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class DownloadLimits:
    """What a download may cost.

    Raises:
        InputError: a value that makes no sense.
    """

    concurrency: int = 16
    """Downloads at the same moment, over all hosts."""
    per_host_rate: float = 2.0
    """Requests per second to one host; a Crawl-delay or Request-rate of its robots.txt can only lower it."""
    timeout: float = 30.0
    """Seconds for one request, from connecting to the last byte."""
    max_bytes: int = MAX_IMAGE_BYTES
    """Of one image."""
    allow_private: bool = False
    """Connect to private, loopback, link-local and reserved addresses too."""

    def __post_init__(self) -> None:
        for name, low, high in (("concurrency", 1, 1000), ("per_host_rate", 0, 1e6), ("timeout", 0, 3600)):
            value = getattr(self, name)
            if not low <= value <= high or value == 0:
                msg = f"{name} is {value:g}, allowed: {low or 'above 0'} to {high:g}"
                raise InputError(msg)
        if not 1 <= self.max_bytes <= MAX_IMAGE_BYTES:
            msg = f"max_bytes is {self.max_bytes}, allowed: 1 to {MAX_IMAGE_BYTES}"
            raise InputError(msg)


@dataclass(frozen=True)
class _Limit:
    """How much of a body is read."""

    most: int
    accept: AcceptBody | None
    """Says by the first bytes why not to read on. None: everything is welcome, and what is over `most` is cut off, not refused."""

    def look(self, body: bytearray) -> None:
        if self.accept is not None and (reason := self.accept(bytes(body[:_HEAD]))):
            raise RefusedError(reason)


class Downloader:
    """Fetches addresses over one pool of connections.

    Args:
        limits: what a download may cost.
        public: which addresses may be connected to; `limits.allow_private` allows all.
    """

    def __init__(self, limits: DownloadLimits, public: Callable[[IPAddress], bool] = is_public) -> None:
        self.limits = limits
        self._public = (lambda _: True) if limits.allow_private else public
        self._hosts: dict[str, Host] = {}
        self._places = asyncio.Semaphore(limits.concurrency)

    async def __aenter__(self) -> Self:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=0, socket_factory=guarded(self._public))
        self._session: aiohttp.ClientSession = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=self.limits.timeout),
            headers={"User-Agent": f"{USER_AGENT} (obeys robots.txt)", **IDENTITY_ENCODING},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def fetch(self, url: str, accept: AcceptBody, deliver: DeliverBody) -> None:
        """Download one address.

        Args:
            url: normalised.
            accept: is given the first bytes of the body; a text is the reason not to read on.
            deliver: is given the body and the address that it came from after redirects. The download keeps its place until
                this returns, so bodies that nobody has taken yet are at most as many as places.

        Raises:
            RefusedError: it cannot or must not be had; the message says why.
        """
        limit = _Limit(self.limits.max_bytes, accept)
        for _ in range(_REDIRECTS + 1):
            await self._check_robots(url)
            location = await self._attempts(url, limit, deliver)
            if location is None:
                return
            url = _joined(url, location)
        msg = f"too many redirects, more than {_REDIRECTS}"
        raise RefusedError(msg)

    async def _attempts(self, url: str, limit: _Limit, deliver: DeliverBody) -> str | None:
        """Deliver the body, or return where it is redirected to."""
        host = self._host(url)
        for attempt in range(1, _ATTEMPTS + 1):
            await host.turn()
            try:
                async with self._places:
                    found = await self._once(url, limit)
                    if isinstance(found, str):
                        return found
                    await deliver(found, url)
                    return None
            except _RetryError as error:
                if attempt == _ATTEMPTS:
                    msg = f"{error}, {_ATTEMPTS} attempts"
                    raise RefusedError(msg) from None
                wait = _BACK_OFF * 2 ** (attempt - 1) * random.uniform(1, 1.5)
                if error.wait is not None:
                    if error.wait > MAX_DELAY_SECONDS:
                        msg = f"{error}, to be asked again in {error.wait:.0f} s"
                        raise RefusedError(msg) from None
                    wait = max(error.wait, wait)
                    host.pause(error.wait)
                await asyncio.sleep(wait)
        msg = "unreachable"
        raise AssertionError(msg)

    async def _once(self, url: str, limit: _Limit) -> bytes | str:
        import aiohttp
        from yarl import URL

        try:
            async with self._session.get(URL(url, encoded=True), allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308):
                    return response.headers.get("Location", "")
                if response.status in _RETRIED_STATUSES:
                    headers = {name.lower(): value for name, value in response.headers.items()}
                    msg = f"HTTP {response.status}"
                    raise _RetryError(msg, retry_after(headers))
                if response.status != 200:
                    raise _StatusError(response.status)
                return await _body(response, limit)
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, NotPublicError):
                msg = "address not public: private, loopback, link-local or reserved"
                raise _NotPublicHostError(msg) from None
            if isinstance(error, aiohttp.ClientConnectorDNSError):
                msg = f"host not found: {error.host}"
                raise _RetryError(msg) from None
            if isinstance(error, aiohttp.ClientConnectorSSLError):
                msg = f"TLS fails: {error.os_error}"
                raise RefusedError(msg) from None
            msg = f"no connection: {error.os_error.strerror or error.os_error}"
            raise _RetryError(msg) from None
        except aiohttp.ClientConnectorCertificateError as error:
            msg = f"certificate not valid: {error.certificate_error}"
            raise RefusedError(msg) from None
        except TimeoutError:
            msg = f"timeout: not complete after {self.limits.timeout:g} s"
            raise RefusedError(msg) from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError) as error:
            msg = f"connection lost: {type(error).__name__}"
            raise _RetryError(msg) from None
        except (aiohttp.ClientError, UnicodeError) as error:
            # UnicodeError: a host whose name no resolver takes.
            msg = f"broken answer: {type(error).__name__}: {error}"
            raise RefusedError(msg) from None

    def _host(self, url: str) -> Host:
        from yarl import URL

        return self._hosts.setdefault(str(URL(url).origin()), Host(1 / self.limits.per_host_rate))

    async def _check_robots(self, url: str) -> None:
        host = self._host(url)
        async with host.robots_lock:
            if not host.robots_known:
                await self._fetch_robots(url, host)
                host.robots_known = True
        host.check(url)

    async def _fetch_robots(self, url: str, host: Host) -> None:
        """RFC 9309, section 2.3.1: no robots.txt (4xx) allows everything, a server in trouble (5xx, 429, no answer) nothing."""
        from yarl import URL

        address = str(URL(url).origin() / "robots.txt")
        text = ""

        async def deliver(body: bytes, _: str) -> None:
            nonlocal text
            text = body.decode("utf-8", errors="replace")

        try:
            for _ in range(_REDIRECTS + 1):
                location = await self._attempts(address, _Limit(_ROBOTS_BYTES, None), deliver)
                if location is None:
                    break
                address = _joined(address, location)
        except _NotPublicHostError as error:
            host.refuse(str(error))
        except _StatusError as error:
            if error.status >= 500:
                host.refuse(f"robots.txt cannot be had: {error}")
        except RefusedError as error:
            host.refuse(f"robots.txt cannot be had: {error}")
        else:
            host.obey(text)


def _joined(url: str, location: str) -> str:
    from yarl import URL

    if not location:
        msg = "redirect without an address"
        raise RefusedError(msg)
    try:
        target = str(URL(url).join(URL(location)))
    except (ValueError, IndexError) as error:
        msg = f"redirect to no address: {shown(location)}: {error}"
        raise RefusedError(msg) from None
    try:
        return normal_url(target)
    except RefusedError as error:
        msg = f"redirect refused: {error}"
        raise RefusedError(msg) from None


async def _body(response: aiohttp.ClientResponse, limit: _Limit) -> bytes:
    """Read what the limit allows, whatever Content-Length promises and however it is compressed."""
    too_large = f"too large: more than {limit.most} bytes"
    if limit.accept is not None and (response.content_length or 0) > limit.most:
        raise RefusedError(too_large)
    looked = limit.accept is None
    try:
        # What is over and is cut off arrives with the last chunk that is looked at.
        reader = BodyReader(response.headers.get("Content-Encoding"), BodyLimit(limit.most + (_CHUNK if looked else 0)))
        async for chunk in response.content.iter_chunked(_CHUNK):
            reader.feed(chunk)
            if looked and len(reader.body) >= limit.most and limit.accept is None:
                break
            if not looked and len(reader.body) >= _HEAD:
                looked = True
                limit.look(reader.body)
    except BodyTooLargeError:
        if limit.accept is not None:
            raise RefusedError(too_large) from None
    except BodyError as error:
        msg = f"broken answer: {error}"
        raise RefusedError(msg) from None
    if not looked:
        limit.look(reader.body)
    return bytes(reader.body[: limit.most])


def unlike_an_image(head: bytes) -> str | None:
    """Why a body that begins so need not be read on, whatever its Content-Type says; None if it may be an image."""
    if image_format(head) is not None:
        return None
    return f"no JPEG or PNG or WebP: it begins with {head[:12]!r}"
