"""Download of an image from the address that an images endpoint answered with."""

from __future__ import annotations

import asyncio
import ipaddress
from urllib.parse import urlsplit

from data_prep.sources.addresses import is_public
from data_prep.sources.images import MAX_BYTES

_GONE = (403, 404, 410)
"""What stores say of a signed address that has run out."""


class FetchError(Exception):
    """The image cannot be had from its address; `gone` where another try is of no use."""

    def __init__(self, message: str, *, gone: bool) -> None:
        super().__init__(message)
        self.gone = gone


async def fetch_image(url: str, *, base_url: str, timeout: float) -> bytes:
    """Bytes behind an address, at most `MAX_BYTES`. No key is sent, and no redirect followed.

    Private, loopback and reserved addresses are refused, except on the host of the endpoint itself.

    Args:
        url: as the endpoint named it.
        base_url: of the endpoint.
        timeout: seconds for connecting and between two parts of the body.

    Raises:
        FetchError: it cannot be had.
    """
    import httpx2

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FetchError(f"{url[:200]}: not an http address", gone=True)
    if parts.hostname != urlsplit(base_url).hostname:
        await _check_public(parts.hostname)
    try:
        async with httpx2.AsyncClient(timeout=timeout) as client, client.stream("GET", url) as response:
            if response.status_code != 200:
                raise FetchError(f"{url[:200]}: HTTP {response.status_code}", gone=response.status_code in _GONE)
            data = bytearray()
            async for part in response.aiter_bytes():
                data += part
                if len(data) > MAX_BYTES:
                    raise FetchError(f"{url[:200]}: more than {MAX_BYTES} bytes", gone=True)
            return bytes(data)
    except httpx2.HTTPError as error:
        raise FetchError(f"{url[:200]}: {type(error).__name__}: {error}", gone=False) from None


async def _check_public(host: str) -> None:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError as error:
        raise FetchError(f"{host}: {error}", gone=False) from None
    for *_, address in found:
        if not is_public(ipaddress.ip_address(str(address[0]).partition("%")[0])):
            raise FetchError(f"{host}: {address[0]} is no public address", gone=True)
