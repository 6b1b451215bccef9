"""Download of an image from the address that an images endpoint answered with."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from data_prep.sources.images import MAX_BYTES
from emo_lightning.core.web.addresses import is_public
from emo_lightning.core.web.bodies import IDENTITY_ENCODING, BodyError, BodyLimit, read_body
from emo_lightning.core.web.download import NotPublicError, guarded

if TYPE_CHECKING:
    from yarl import URL

_GONE = (403, 404, 410)
"""What stores say of a signed address that has run out."""
_CHUNK = 2**16
_PORTS = {"http": 80, "https": 443}


class ImageFetchError(Exception):
    """A signal to `images.Generator`: the image cannot be had from its address; `gone` where another try is of no use."""

    def __init__(self, message: str, *, gone: bool) -> None:
        super().__init__(message)
        self.gone = gone


def _place(parts: SplitResult) -> tuple[str | None, int | None]:
    """Host and port; an address is the endpoint's own only where both are."""
    return parts.hostname, parts.port or _PORTS.get(parts.scheme)


def http_address(url: str) -> URL | None:
    """What is asked for an image that lies at an address; None where it is none of http or https."""
    from yarl import URL

    try:
        parts = urlsplit(url)
        place = parts.scheme in _PORTS and parts.hostname and _place(parts)
        # As it is: another spelling of a signed address would not be what was signed.
        address = URL(url, encoded=True)
        return address if place and address.host and url.isprintable() and " " not in url else None
    # A bracket that is not closed, a port that is no number, a host that is none.
    except (ValueError, IndexError):
        return None


async def fetch_image(url: str, *, base_url: str, timeout: float) -> bytes:
    """Bytes behind an address, at most `MAX_BYTES`. No key is sent, no redirect followed, and no proxy of the environment used.

    Private, loopback and reserved addresses are refused, except on the host and port of the endpoint itself.

    Args:
        url: as the endpoint named it.
        base_url: of the endpoint.
        timeout: seconds for all of it, from connecting to the last byte.

    Raises:
        FetchError: it cannot be had.
    """
    import aiohttp

    # What stands behind `?` is often a signature, and opens the file to whoever reads it.
    shown = url.partition("?")[0][:200]
    address = http_address(url)
    if address is None:
        msg = f"{shown}: not an http address"
        raise ImageFetchError(msg, gone=True)
    parts = urlsplit(url)
    ours = _place(parts) == _place(urlsplit(base_url))
    connector = aiohttp.TCPConnector(socket_factory=None if ours else guarded(is_public))
    limits = aiohttp.ClientTimeout(total=timeout)
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector, timeout=limits, headers=IDENTITY_ENCODING, auto_decompress=False
            ) as session,
            session.get(address, allow_redirects=False) as response,
        ):
            if response.status != 200:
                msg = f"{shown}: HTTP {response.status}"
                raise ImageFetchError(msg, gone=response.status in _GONE)
            chunks = response.content.iter_chunked(_CHUNK)
            return await read_body(chunks, response.headers.get("Content-Encoding"), BodyLimit(MAX_BYTES))
    except BodyError as error:
        msg = f"{shown}: {error}"
        raise ImageFetchError(msg, gone=True) from None
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, NotPublicError):
            msg = f"{shown}: {parts.hostname} is no public address"
            raise ImageFetchError(msg, gone=True) from None
        said = f"not complete after {timeout:g} s" if isinstance(error, TimeoutError) else str(error).replace(url, shown)
        msg = f"{shown}: {type(error).__name__}: {said}"
        raise ImageFetchError(msg, gone=False) from None
