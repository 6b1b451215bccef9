"""Bytes that can be read at any offset: those of a local file (of an object behind a URL: `emo_lightning.core.remote`)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Protocol

from emo_lightning.core.errors import InputError

LOCAL_OUTPUT = "expected a path of this machine: what is written here goes to no URL"
"""What a message says of a place to write to."""
NO_PLACE = "found an empty path (what a variable gives that is not set); expected a file or a folder"
"""What a message says of one."""


def scheme_of(url: str) -> str | None:
    """`s3` of `s3://bucket/a.tar`; None for a plain path."""
    scheme, separator, _ = url.partition("://")
    return scheme if separator else None


def is_remote(url: object) -> bool:
    """Whether it is a URL of something that does not lie on a disk of this machine."""
    return scheme_of(str(url)) not in (None, "file")


def local_path(place: str | Path) -> Path:
    """The path of a place on this machine, whose `file://` says no more than that; where URLs are taken, too.

    Raises:
        InputError: it is empty, as a variable is that is not set: as a path that would be the folder where the command was started.
    """
    if not (text := str(place).removeprefix("file://")):
        raise InputError(NO_PLACE)
    return Path(text)


def is_web(url: str) -> bool:
    """Whether it is an address of the web, in which `?` begins a question, such as a signature."""
    return scheme_of(url) in ("http", "https")


def split_query(url: str) -> tuple[str, str]:
    """`https://a/b.tar` and `?c=d#e` of `https://a/b.tar?c=d#e`; of what is no address of the web, all and nothing."""
    at = re.search("[?#]", url) if is_web(url) else None
    return (url, "") if at is None else (url[: at.start()], url[at.start() :])


def name_of(url: str) -> str:
    """Of a file: the last part of its path."""
    return split_query(url)[0].rpartition("/")[2]


def beside(url: str, name: str) -> str:
    """Path or URL of a file in the folder of another one; what an address of the web asks for goes along."""
    address, query = split_query(url)
    folder, slash, _ = address.rpartition("/")
    return f"{folder}{slash}{name}{query}"


def within(url: str, name: str) -> str:
    """URL of a file in a folder; what an address of the web asks for goes along."""
    address, query = split_query(url)
    return f"{address.rstrip('/')}/{name}{query}"


def check_local_output(place: str, key: str) -> None:
    """Refuse a URL where something is to be written: a path of that name would be a folder of this machine.

    Args:
        place: a file or a folder.
        key: that names it.

    Raises:
        InputError: it is a URL.
    """
    if scheme_of(place) is not None:
        msg = f"{key}: found {place[:80]!r}; {LOCAL_OUTPUT}"
        raise InputError(msg)


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
