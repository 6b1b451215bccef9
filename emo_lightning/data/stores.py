"""Where the bytes of a shard are: one small protocol, and a registry by URL scheme.

Local files are built in. A remote store is a class with `size` and `read`, registered once:

    register_store("s3", lambda url: MyS3Object(url))
"""

from __future__ import annotations

import os
from collections.abc import Callable
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


_OPENERS: dict[str, Callable[[str], ByteStore]] = {}


def register_store(scheme: str, opener: Callable[[str], ByteStore]) -> None:
    """Let `open_store` read `scheme://…` by `opener(url)`; `opener` raises OSError where there is nothing to read."""
    _OPENERS[scheme] = opener


register_store("file", lambda url: LocalStore(url.removeprefix("file://")))


def scheme_of(url: str) -> str | None:
    """`s3` of `s3://bucket/a.tar`; None for a plain path."""
    scheme, separator, _ = url.partition("://")
    return scheme if separator else None


def open_store(url: str) -> ByteStore:
    """Open a path or URL for reading.

    Raises:
        OSError: nothing there, or not readable.
        ValueError: no store is registered for the URL's scheme.
    """
    scheme = scheme_of(url)
    if scheme is None:
        return LocalStore(url)
    if scheme not in _OPENERS:
        known = ", ".join(f"{name}://" for name in sorted(_OPENERS))
        msg = f"{url}: no store for scheme {scheme!r}; allowed: a local path, {known} (see register_store)"
        raise ValueError(msg)
    return _OPENERS[scheme](url)
