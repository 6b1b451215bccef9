"""Where the bytes of a shard are: local files read directly, every other URL through fsspec (`remote`)."""

from __future__ import annotations

import os
from typing import Protocol


class ByteStore(Protocol):
    """One object that can be read at any offset, from several threads or forked processes at once."""

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer only where the object ends."""
        ...


class LocalStore:
    """A local file. `pread` keeps no position, so one descriptor serves forked workers as well."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._descriptor).st_size

    @property
    def size(self) -> int:
        """Length in bytes when the file was opened."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """See `ByteStore.read`."""
        parts: list[bytes] = []
        while length > 0:  # one pread returns at most 2 GiB, and may return less
            part = os.pread(self._descriptor, length, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __reduce__(self) -> tuple[type[LocalStore], tuple[str]]:
        # A copied descriptor number would be closed twice, the second time perhaps as somebody else's file.
        return LocalStore, (self._path,)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


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
