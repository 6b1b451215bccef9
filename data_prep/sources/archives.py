"""Tar archives that others made, read once from front to end: what they may cost is known from their size on disk."""

from __future__ import annotations

import gzip
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from data_prep.sources.base import RefusedError
from data_prep.sources.images import MAX_BYTES

_MOST_TIMES = 8
"""How many times its own bytes an archive may hold: photographs do not become smaller, headers and padding do."""
_FREE = 16 * 2**20
"""Bytes that any archive may hold."""
_BYTES_A_MEMBER = 128
"""Of the archive: a header alone is about that many when it is packed, and its picture has some of its own."""
_MEMBERS_FREE = 1000
_MAX_HEADER = 2**20
"""Bytes of a long name or of an extended header, which tarfile takes into memory whole."""
_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_SPARSE = (tarfile.GNUTYPE_SPARSE,)


class BrokenArchiveError(Exception):
    """It cannot be read on; the message says why."""


class _Counted:
    """The bytes of an archive, unpacked, as long as they are not too many."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, most: int) -> None:
        self._file = file
        self._left = most
        self._most = most

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            msg = f"it holds more than {self._most:,} bytes, which its own size does not explain"
            raise BrokenArchiveError(msg)
        return data


class _Member(tarfile.TarInfo):
    """A member whose headers are looked at before they are read."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _SPARSE or (self.type in _HEADERS and not 0 <= self.size <= _MAX_HEADER):
            msg = f"a header of type {self.type!r} with {self.size:,} bytes"
            raise BrokenArchiveError(msg)
        # tarfile's own way to read what a member is by its type.
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    # What tarfile and gzip are known to raise on damaged data; a chain of extended headers is a recursion.
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, struct.error, IndexError, KeyError) as error:
        raise BrokenArchiveError(str(error)) from None
    except RecursionError:
        msg = "too many headers before one member"
        raise BrokenArchiveError(msg) from None


class Archive:
    """A `.tar` or `.tar.gz`, whatever its name.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def members(self) -> Iterator[tarfile.TarInfo]:
        """All that is in it, one after the other; `read` has the one that was given last.

        Raises:
            BrokenArchiveError: damaged, or it claims more than it may cost.
        """
        with _errors(), open(self.path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            size = file.seek(0, 2)
            file.seek(0)
            data = _Counted(gzip.GzipFile(fileobj=file) if packed else file, _MOST_TIMES * size + _FREE)
            left = size // _BYTES_A_MEMBER + _MEMBERS_FREE
            with tarfile.open(fileobj=data, mode="r|", tarinfo=_Member) as self._tar:  # type: ignore[call-overload]
                while (member := self._tar.next()) is not None:
                    # tarfile keeps them all.
                    self._tar.members.clear()
                    left -= 1
                    if left < 0:
                        msg = f"more members than {size:,} bytes explain"
                        raise BrokenArchiveError(msg)
                    yield member

    def read(self, member: tarfile.TarInfo) -> bytes:
        """Bytes of an image.

        Raises:
            RefusedError: no regular file, or too large.
            BrokenArchiveError: see `members`.
        """
        if not member.isreg():
            msg = "not a regular file"
            raise RefusedError(msg)
        if not 0 <= member.size <= MAX_BYTES:
            msg = f"too large: {member.size} bytes, at most {MAX_BYTES} are read"
            raise RefusedError(msg)
        with _errors():
            data = self._tar.extractfile(member)
            assert data is not None
            content: bytes = data.read()
        return content
