"""Where the bytes of a shard are: local files read directly, every other URL through fsspec (`remote`)."""

from __future__ import annotations

from emo_lightning.core.stores import ByteStore, LocalStore


def scheme_of(url: str) -> str | None:
    """`s3` of `s3://bucket/a.tar`; None for a plain path."""
    scheme, separator, _ = url.partition("://")
    return scheme if separator else None


def open_store(url: str) -> ByteStore:
    """Open a path or URL for reading.

    Raises:
        OSError: a local file that is not there, or not readable.
        StoreError: any other URL that cannot be read.
    """
    if scheme_of(url) in (None, "file"):
        return LocalStore(url.removeprefix("file://"))
    from emo_lightning.data.remote import RemoteStore

    return RemoteStore(url)
