"""Where the bytes of a shard are: local files read directly, every other URL through fsspec (`remote`)."""

from __future__ import annotations

from emo_lightning.core.stores import ByteStore, LocalStore, is_remote


def open_store(url: str) -> ByteStore:
    """Open a path or URL for reading.

    Raises:
        OSError: a local file that is not there, or not readable.
        StoreError: any other URL that cannot be read.
    """
    if not is_remote(url):
        return LocalStore(url.removeprefix("file://"))
    from emo_lightning.core.remote import RemoteStore

    return RemoteStore(url)
