"""Images of a store as batches for a model on this machine; the next batch is decoded while the model works."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from data_prep.ledger import Item
from data_prep.store import Store

if TYPE_CHECKING:
    from PIL import Image

_THREADS = 4


def open_image(store: Store, item: Item) -> Image.Image:
    """An image, RGB.

    Raises:
        StoreError: it is missing, or not the one that was imported.
    """
    return decode(store.image(item.sha256, item.extension))


def decode(data: bytes) -> Image.Image:
    """An encoded image, RGB."""
    import PIL.Image

    with PIL.Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def decoded(store: Store, items: Sequence[Item], batch_size: int) -> Iterator[tuple[list[Item], list[Image.Image]]]:
    """Batches of items with their images, RGB, in order; at most two batches of images are in memory."""
    with ThreadPoolExecutor(_THREADS) as threads:

        def start(at: int) -> list[Future[Image.Image]]:
            return [threads.submit(open_image, store, item) for item in items[at : at + batch_size]]

        ahead = start(0)
        for at in range(0, len(items), batch_size):
            images = [future.result() for future in ahead]
            ahead = start(at + batch_size)
            yield list(items[at : at + batch_size]), images


def device_of(name: str) -> str:
    """`auto` → `cuda` where there is one, else `cpu`; any other name stays."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
