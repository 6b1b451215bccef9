"""What a request says of pictures, as pictures: `data:` URIs, addresses of the web, base64, and the bytes of files."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from emo_lightning.core.errors import InputError
from emo_lightning.core.images import image_size
from emo_lightning.core.text import shown
from emo_lightning.core.web.download import Downloader, DownloadLimits
from emo_lightning.core.web.fetch import fetched
from emo_lightning.inference.pictures import as_picture, is_address
from emo_lightning.serve.failures import ApiError

if TYPE_CHECKING:
    from PIL.Image import Image

    from emo_lightning.serve.places import Held

T = TypeVar("T")

_READERS = 4
"""Threads that read JSON and decode pictures: one of 100 megapixels takes half a gigabyte while it is decoded."""
_WEB = DownloadLimits(concurrency=16, timeout=15.0)


@dataclass(frozen=True)
class Given:
    """One picture as a request gives it.

    Args:
        content: bytes of a file, or an address.
        param: the key of the request that it stands under.
    """

    content: bytes | str
    param: str


def given(text: str, param: str) -> Given:
    """What a text stands for: a `data:` URI, an address, or base64.

    Args:
        text: of the request.
        param: the key that it stands under.

    Raises:
        ApiError: 400, none of them.
    """
    if is_address(text):
        return Given(text, param)
    head, comma, coded = text.partition(",") if text.startswith("data:") else ("", "", text)
    try:
        if comma and not head.lower().endswith(";base64"):
            msg = "a data: URI that is not of base64"
            raise ValueError(msg)
        return Given(base64.b64decode(coded, validate=True), param)
    except (binascii.Error, ValueError) as error:
        msg = f"{param}: {shown(text[:40])}: {error}; expected data:image/jpeg;base64,…, an address (http, https), or base64"
        raise ApiError(400, msg, "invalid_image", param) from None


async def together(works: Sequence[Awaitable[T]]) -> list[T]:
    """All results, in this order; where one fails, the others are given up before its error goes on."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class PictureOpener:
    """Opens what requests give, a few at a time; belongs to an event loop."""

    def __init__(self) -> None:
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="reader")
        self._web: Downloader | None = None

    async def aside(self, work: Callable[[], T]) -> T:
        """Do something that takes a while, in a thread that reads requests."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def open(self, found: Sequence[Given], held: Held) -> list[Image]:
        """Upright RGB pictures, in this order.

        Args:
            found: of one request.
            held: its places.

        Raises:
            ApiError: 400, one is none, or cannot be had; 503, they are too large together.
        """
        return await together([self._open(one, held) for one in found])

    async def _open(self, one: Given, held: Held) -> Image:
        try:
            data = one.content if isinstance(one.content, bytes) else await self._fetch(one.content)
            # Of the header alone, which decoding holds it to.
            width, height = await self.aside(lambda: image_size(data, one.param))
            held.take_pixels(width * height)
            return await self.aside(lambda: as_picture(data, one.param))
        except InputError as error:
            raise ApiError(400, str(error), "invalid_image", one.param) from None

    async def _fetch(self, address: str) -> bytes:
        if self._web is None:
            # Within the loop whose connections it holds.
            self._web = Downloader(_WEB)
            await self._web.__aenter__()
        return await fetched(self._web, address)

    async def close(self) -> None:
        """End threads and connections."""
        if self._web is not None:
            await self._web.__aexit__(None, None, None)
        self._readers.shutdown(wait=False, cancel_futures=True)
