"""Parts of remote shards on the local disk: each is asked for once, and the least recently read ones go where there are too many.

A part is a block of fixed length, by its number, or any range of bytes, by a name (`range_name`): one sample, where it is known beforehand
which ones are needed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from emo_lightning.core.copies import (
    CACHE_LIMIT_VARIABLE,
    blocks_folder,
    blocks_in,
    copied_folders,
    evict,
    limit_from_environment,
    named,
)
from emo_lightning.core.files import write_bytes
from emo_lightning.core.terminal import say

BLOCK_BYTES = 4 << 20
"""Bytes: some tens of images, so that shuffled reads ask for few ranges, and reading in order for long ones."""
_TAIL = 4
"""Bytes of the checksum behind each block."""
_LOOK_EVERY = 64 * BLOCK_BYTES
"""Bytes that are written before their sum is looked at again: other processes write as well."""


_THREADS = [threading.Lock() for _ in range(1024)]
"""Of this process, each for some of the blocks."""


_FILES: dict[Path, int] = {}
"""Open for as long as the process lives: who closes one gives up all locks on it."""


def _lock_file(folder: Path) -> int:
    if folder not in _FILES:
        folder.mkdir(parents=True, exist_ok=True)
        _FILES[folder] = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    return _FILES[folder]


def _begin_anew() -> None:
    _THREADS[:] = [threading.Lock() for _ in _THREADS]


# A thread that holds one does not live in a fork.
os.register_at_fork(after_in_child=_begin_anew)


@dataclass
class BlockCache:
    """A folder of blocks, shared by all processes of this machine.

    A block is written under another name and renamed, and ends with its crc32: one that was cut or changed is as if it were not there.
    A disk that is full, or a folder that cannot be written to, keeps nothing and stops nobody.

    Args:
        folder: made where it is missing.
        limit: bytes of all blocks together.
        with_copies: whether the limit is that of all copies of what lies behind URLs (`copies`).
    """

    folder: Path
    limit: int
    with_copies: bool = field(default=False, compare=False)
    _unseen: int = _LOOK_EVERY
    """Bytes since the sum was looked at."""
    _fails: bool = False
    _crowded: bool = False
    """Copies that are in use leave blocks no room."""

    def read(self, name: str, part: int | str) -> bytes | None:
        """The block, or None where it is not there, or not whole."""
        path = self._path(name, part)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        block, tail = data[:-_TAIL], data[-_TAIL:]
        if len(data) <= _TAIL or zlib.crc32(block).to_bytes(_TAIL, "little") != tail:
            return None
        with contextlib.suppress(OSError):
            # What was read last goes last. The time of the last read itself is not kept on many disks.
            os.utime(path)
        return block

    @contextlib.contextmanager
    def alone(self, name: str, number: int, *, wait: bool = True) -> Iterator[bool]:
        """While a block is asked for: other processes that want it wait, and find it.

        Args:
            name: of the object.
            number: of the block.
            wait: for another process that is at it.

        Yields:
            Whether this process is the only one, as far as the disk can tell.
        """
        # A byte of the file for each block, as far as names go; two that share one wait for each other.
        byte = zlib.crc32(f"{name} {number}".encode())
        # The system's lock is the process's: its threads have one of their own.
        thread = _THREADS[byte % len(_THREADS)]
        if not thread.acquire(blocking=wait):
            yield False
            return
        try:
            alone, file = True, None
            try:
                file = _lock_file(self.folder)
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
            except BlockingIOError:
                alone, file = False, None
            except OSError:
                # A folder that cannot be written to, a disk without locks: two processes may ask for the same block.
                file = None
            try:
                yield alone
            finally:
                if file is not None:
                    fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)
        finally:
            thread.release()

    def drop(self, name: str, part: int | str) -> None:
        """Keep a block no longer, if it is kept."""
        with contextlib.suppress(OSError):
            self._path(name, part).unlink()

    def has(self, name: str, part: int | str) -> bool:
        """Whether a block is there; it is not looked into."""
        return self._path(name, part).exists()

    def write(self, name: str, part: int | str, block: bytes) -> None:
        """Keep a block, and make room for it."""
        path = self._path(name, part)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._unseen >= _LOOK_EVERY:
                self._unseen = 0
                self._make_room(_LOOK_EVERY)
            if self._crowded:
                self._unseen += len(block)
                return
            write_bytes(
                path, block + zlib.crc32(block).to_bytes(_TAIL, "little"), writer=f"{os.getpid()}-{threading.get_ident()}"
            )
        except OSError as error:
            if not self._fails:
                say(f"note: {self.folder}: blocks of remote shards are not kept: {error.strerror or error}")
            self._fails = True
            return
        self._fails = False
        self._unseen += len(block)

    def _make_room(self, more: int) -> None:
        """Take away what was used longest ago, until so many bytes more fit."""
        kept = blocks_in(self.folder) + (copied_folders() if self.with_copies else [])
        room = self.limit - min(more, self.limit // 2)
        excess, used = evict(kept, sum(copy.size for copy in kept) - room)
        crowded = excess > 0 and bool(used)
        if crowded and not self._crowded:
            say(
                f"note: {self.folder}: blocks of remote shards are not kept: {CACHE_LIMIT_VARIABLE} ({self.limit / 1e9:g}) is taken up by copies "
                f"that are in use: {named(used)}"
            )
        self._crowded = crowded

    def _path(self, name: str, part: int | str) -> Path:
        return self.folder / name / (part if isinstance(part, str) else f"{part:08d}")


def range_name(start: int, end: int) -> str:
    """Of a part that is no block: bytes `start` to `end`."""
    return f"{start:x}-{end:x}"


def cache_from_environment() -> BlockCache | None:
    """The cache that `EMO_SHARD_CACHE` (a folder, or `off`) and `EMO_SHARD_CACHE_GB` ask for.

    Without them 20 GB, of all copies together, in the user's own cache folder.

    Raises:
        InputError: the limit is no number above zero.
    """
    folder = blocks_folder()
    return None if folder is None else BlockCache(folder, limit_from_environment(), with_copies=True)
