"""One picture of the web, for code that is not asynchronous; see `download` for what is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import cache

from emo_lightning.core.errors import InputError
from emo_lightning.core.web.addresses import IPAddress, RefusedError, is_public, normal_url
from emo_lightning.core.web.download import Downloader, DownloadLimits, unlike_an_image


class FetchError(InputError):
    """The picture cannot or must not be had; names the address and says why."""


def fetch_image(url: str) -> bytes:
    """The bytes of a picture.

    Args:
        url: http or https.

    Raises:
        FetchError: it cannot or must not be had.
    """
    return _fetcher().fetch(url)


async def fetched(downloader: Downloader, url: str) -> bytes:
    """The bytes of a picture, for code that has an event loop; see `fetch_image`.

    Args:
        downloader: entered.
        url: http or https.

    Raises:
        FetchError: it cannot or must not be had.
    """
    found = b""

    async def deliver(body: bytes, _: str) -> None:
        nonlocal found
        found = body

    try:
        await downloader.fetch(normal_url(url), unlike_an_image, deliver)
    except RefusedError as error:
        msg = f"{url}: {error}"
        raise FetchError(msg) from None
    return found


class Fetcher:
    """A downloader with a thread of its own, so that it also serves where an event loop is running (a notebook).

    One serves a whole process: hosts are not asked more often than they allow, and their robots.txt is read once.

    Args:
        limits: what a download may cost.
        public: which addresses of machines may be connected to.
    """

    def __init__(self, limits: DownloadLimits | None = None, public: Callable[[IPAddress], bool] = is_public) -> None:
        self._limits, self._public = limits or DownloadLimits(), public
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True).start()
        self._downloader: Downloader | None = None

    def fetch(self, url: str) -> bytes:
        """See `fetch_image`."""
        return asyncio.run_coroutine_threadsafe(self._fetch(url), self._loop).result()

    async def _fetch(self, url: str) -> bytes:
        if self._downloader is None:
            self._downloader = Downloader(self._limits, self._public)
            await self._downloader.__aenter__()
        return await fetched(self._downloader, url)

    def close(self) -> None:
        """End its connections and its thread."""
        if self._downloader is not None:
            asyncio.run_coroutine_threadsafe(self._downloader.__aexit__(None, None, None), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)


@cache
def _fetcher() -> Fetcher:
    return Fetcher()
