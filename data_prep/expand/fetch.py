"""Download of an image from the address that an images endpoint answered with."""

from __future__ import annotations

from urllib.parse import urlsplit

from data_prep.sources.addresses import is_public
from data_prep.sources.download import NotPublicError, guarded
from data_prep.sources.images import MAX_BYTES

_GONE = (403, 404, 410)
"""What stores say of a signed address that has run out."""
_CHUNK = 2**16


class FetchError(Exception):
    """A signal to `images.Generator`: the image cannot be had from its address; `gone` where another try is of no use."""

    def __init__(self, message: str, *, gone: bool) -> None:
        super().__init__(message)
        self.gone = gone


async def fetch_image(url: str, *, base_url: str, timeout: float) -> bytes:
    """Bytes behind an address, at most `MAX_BYTES`. No key is sent, no redirect followed, and no proxy of the environment used.

    Private, loopback and reserved addresses are refused, except on the host of the endpoint itself.

    Args:
        url: as the endpoint named it.
        base_url: of the endpoint.
        timeout: seconds for connecting and between two parts of the body.

    Raises:
        FetchError: it cannot be had.
    """
    import aiohttp
    from yarl import URL

    shown = url[:200]
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        msg = f"{shown}: not an http address"
        raise FetchError(msg, gone=True)
    ours = parts.hostname == urlsplit(base_url).hostname
    connector = aiohttp.TCPConnector(socket_factory=None if ours else guarded(is_public))
    limits = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=limits) as session,
            # As it is: another spelling of a signed address would not be what was signed.
            session.get(URL(url, encoded=True), allow_redirects=False) as response,
        ):
            if response.status != 200:
                msg = f"{shown}: HTTP {response.status}"
                raise FetchError(msg, gone=response.status in _GONE)
            data = bytearray()
            async for part in response.content.iter_chunked(_CHUNK):
                data += part
                if len(data) > MAX_BYTES:
                    msg = f"{shown}: more than {MAX_BYTES} bytes"
                    raise FetchError(msg, gone=True)
            return bytes(data)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, NotPublicError):
            msg = f"{shown}: {parts.hostname} is no public address"
            raise FetchError(msg, gone=True) from None
        msg = f"{shown}: {type(error).__name__}: {error}"
        raise FetchError(msg, gone=False) from None
