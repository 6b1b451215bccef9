"""Where the bytes of a shard are: local files read directly, every other URL through fsspec.

`s3://`, `gs://`, `https://` and the rest need fsspec's package for that place (`pip install s3fs`). A place that fsspec does not
know is a class of its own, named to it by `fsspec.register_implementation`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from emo_lightning.core.errors import InputError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


class StoreError(InputError):
    """A URL cannot be read; the message names it."""


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


class RemoteStore:
    """An object behind a URL that fsspec knows; each read is a range of its own, so threads and processes share no position.

    Args:
        url: of the object.

    Raises:
        StoreError: the place is unknown, its package is not installed, there is no such object, or its size is not told.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._opened: tuple[int, AbstractFileSystem, str] | None = None
        try:
            files, path = self._files()
            size = files.info(path)["size"]
        # fsspec's file systems raise what their own clients raise.
        except Exception as error:
            raise StoreError(_reason(url, error)) from error
        if size is None:
            msg = f"{url}: cannot be read: its size is not told"
            raise StoreError(msg)
        self._size = int(size)

    @property
    def size(self) -> int:
        """Length in bytes when the object was opened."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """See `ByteStore.read`.

        Raises:
            StoreError: the place does not answer, or not by ranges.
        """
        end = min(offset + length, self._size)
        if end <= offset:
            return b""
        try:
            files, path = self._files()
            data = bytes(files.cat_file(path, start=offset, end=end))
        except Exception as error:
            raise StoreError(_reason(self._url, error)) from error
        if len(data) > end - offset:
            msg = f"{self._url}: asked for bytes {offset} to {end}, got {len(data)} bytes: the place does not answer ranges"
            raise StoreError(msg)
        return data

    def version(self) -> str:
        """What the place says of this object that changes with its bytes, as far as fsspec knows (ETag, time of change, size).

        Raises:
            StoreError: the place does not answer.
        """
        try:
            files, path = self._files()
            return str(files.ukey(path))
        except Exception as error:
            raise StoreError(_reason(self._url, error)) from error

    def _files(self) -> tuple[AbstractFileSystem, str]:
        """The file system and the path in it. One of a process before a fork belongs to that process: made anew."""
        if self._opened is None or self._opened[0] != os.getpid():
            from fsspec.core import url_to_fs

            files, path = url_to_fs(self._url)
            self._opened = (os.getpid(), files, path)
        return self._opened[1:]

    def __reduce__(self) -> tuple[type[RemoteStore], tuple[str]]:
        return RemoteStore, (self._url,)


def _reason(url: str, error: Exception) -> str:
    reason = "no such file" if isinstance(error, FileNotFoundError) else str(error) or type(error).__name__
    return f"{url}: cannot be read: {reason}"


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
    return RemoteStore(url)
