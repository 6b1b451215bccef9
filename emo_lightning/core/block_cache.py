"""Blocks of remote shards on the local disk: each is asked for once, and the least recently read ones go where there are too many."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emo_lightning.core.cache_folder import cache_folder
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import write_bytes
from emo_lightning.core.terminal import say

BLOCK = 4 << 20
"""Bytes: some tens of images, so that shuffled reads ask for few ranges, and reading in order for long ones."""
_TAIL = 4
"""Bytes of the checksum behind each block."""
_PLACE = "EMO_SHARD_CACHE"
LIMIT = "EMO_SHARD_CACHE_GB"
"""Variable of the environment: gigabytes that are kept of what lies behind URLs."""
_DEFAULT_GB = 20.0
_LOOK_EVERY = 64
"""Blocks that are written before their sum is looked at again: other processes write as well."""


@dataclass
class BlockCache:
    """A folder of blocks, shared by all processes of this machine.

    A block is written under another name and renamed, and ends with its crc32: one that was cut or changed is as if it were not there.
    A disk that is full, or a folder that cannot be written to, keeps nothing and stops nobody.

    Args:
        folder: made where it is missing.
        limit: bytes of all blocks together.
    """

    folder: Path
    limit: int
    _written: int = 0

    def read(self, name: str, number: int) -> bytes | None:
        """The block, or None where it is not there, or not whole."""
        path = self._path(name, number)
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
    def alone(self, name: str, number: int) -> Iterator[None]:
        """While a block is asked for: other processes that want it wait, and find it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / ".lock", "ab")  # noqa: SIM115 - closed below
        except OSError:
            yield
            return
        with lock:
            # A byte of the file for each block, as far as names go; two that share one wait for each other.
            with contextlib.suppress(OSError):
                fcntl.lockf(lock, fcntl.LOCK_EX, 1, zlib.crc32(f"{name} {number}".encode()))
            yield

    def write(self, name: str, number: int, block: bytes) -> None:
        """Keep a block, and make room for it."""
        path = self._path(name, number)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._written % _LOOK_EVERY == 0:
                self._make_room(len(block) * _LOOK_EVERY)
            write_bytes(path, block + zlib.crc32(block).to_bytes(_TAIL, "little"), writer=os.getpid())
        except OSError as error:
            if self._written >= 0:
                say(f"note: {self.folder}: blocks of remote shards are not kept: {error.strerror or error}")
                self._written = -1
            return
        self._written = max(self._written, 0) + 1

    def _make_room(self, more: int) -> None:
        """Take away the blocks that were read longest ago, until so many bytes more fit."""
        found = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in found)
        for seen, size, path in sorted(found):
            if total + min(more, self.limit // 2) <= self.limit:
                break
            # One that is being written has another name, and is left alone while it is new.
            if path.suffix and time.time() - seen < 3600:
                continue
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size

    def _path(self, name: str, number: int) -> Path:
        return self.folder / name / f"{number:08d}"


def cache_from_environment() -> BlockCache | None:
    """The cache that `EMO_SHARD_CACHE` (a folder, or `off`) and `EMO_SHARD_CACHE_GB` ask for.

    Without them 20 GB in the user's own cache folder.

    Raises:
        InputError: the limit is no number above zero.
    """
    place = os.environ.get(_PLACE, "")
    if place.lower() == "off":
        return None
    return BlockCache(Path(place) if place else cache_folder() / "shards", limit_from_environment())


def limit_from_environment() -> int:
    """Bytes that `EMO_SHARD_CACHE_GB` allows.

    Raises:
        InputError: it is no number above zero.
    """
    text = os.environ.get(LIMIT, "")
    try:
        gigabytes = float(text) if text else _DEFAULT_GB
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < float("inf"):
        msg = f"{LIMIT}: found {text!r}; expected gigabytes above 0, or {_PLACE}=off"
        raise InputError(msg)
    return int(gigabytes * 1e9)
