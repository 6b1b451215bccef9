"""Which bytes a file or a folder holds, so that results of one are never taken for those of another."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from emo_lightning.core.errors import UserError
from emo_lightning.core.files import read_object, write_json

_SETTLED = 2_000_000_000
"""Nanoseconds. What was written within the last two seconds may be written again at the same length and time of change, as clocks of
file systems tick slowly: its hash is not kept."""
_SAVE_EVERY = 1 << 30
"""Bytes read between two writings of the sidecar."""


class HashMemory:
    """Hashes of files by path, size, both times of change and inode, so that a large one is read once; on disk in a sidecar, if asked.

    The time that a program sets (`mtime`) may be put back after a change, and is by copies and archives; the system's own (`ctime`) may not.
    It is a memory and nothing more: without it, or where a file has been moved, everything is read again, with the same result.
    """

    def __init__(self) -> None:
        self._sidecar: Path | None = None
        self._known: dict[str, tuple[list[int], str]] = {}
        self._unsaved = 0

    def keep_in(self, sidecar: Path) -> None:
        """Use a file from now on: what it says is known, and what is found is written there.

        A sidecar that cannot be read is as good as none.
        """
        if sidecar == self._sidecar:
            return
        self._sidecar = sidecar
        try:
            found = read_object(sidecar)
        except UserError:
            return
        for key, entry in found.items():
            match entry:
                # Those of earlier versions lack the system's time: such files are read again.
                case [int(size), int(set_to), int(changed), int(inode), str(digest)]:
                    self._known.setdefault(key, ([size, set_to, changed, inode], digest))

    def keep_beside(self, sidecar: Path) -> None:
        """As `keep_in`, where nothing else was asked for."""
        if self._sidecar is None:
            self.keep_in(sidecar)

    def of(self, path: str | Path, what: str, read: Callable[[], str]) -> str:
        """The hash of a local file.

        Args:
            path: the file.
            what: which hash; the same file may have several.
            read: reads the file and gives its hash.

        Raises:
            OSError: there is no such file.
        """
        key = f"{what} {Path(path).resolve()}"
        stamp = _stamp(path)
        known = self._known.get(key)
        if known is not None and known[0] == stamp:
            return known[1]
        digest = read()
        if _stamp(path) == stamp and time.time_ns() - max(stamp[1], stamp[2]) > _SETTLED:
            self._known[key] = stamp, digest
            self._unsaved += stamp[0] + 1
            if self._unsaved > _SAVE_EVERY:
                self.save()
        return digest

    def save(self) -> None:
        """Write the sidecar, if there is one and something new."""
        if self._sidecar is not None and self._unsaved:
            self._unsaved = 0
            try:
                write_json(self._sidecar, {key: [*stamp, digest] for key, (stamp, digest) in self._known.items()})
            except OSError:
                # A full or read-only disk: what was to be remembered is read again.
                self._sidecar = None


def _stamp(path: str | Path) -> list[int]:
    status = Path(path).stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


HASHES = HashMemory()
"""Of this process, and by fork of those that it starts."""


def content_sha256(path: str | Path) -> str:
    """`file_sha256`, read once as long as the file is not changed.

    Raises:
        OSError: it cannot be read.
    """
    return HASHES.of(path, "sha256", lambda: file_sha256(path))


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listing(files: Iterable[Path], separator: str = " ") -> bytes:
    """One line a file, of its name and its SHA-256: what a folder's fingerprint is taken of.

    Args:
        files: in the order of the lines.
        separator: between name and hash; it is part of the keys of caches that exist, so no caller may change its own.
    """
    return "".join(f"{file.name}{separator}{content_sha256(file)}\n" for file in files).encode()
