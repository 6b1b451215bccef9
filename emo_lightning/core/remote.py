"""Objects behind URLs: ranges read through fsspec, asked for again where a place fails, and kept on disk in blocks or as they are.

`https://` and `hf://` need nothing more, `s3://` and `gs://` the extra `storage`, other places fsspec's package for them. A place that
fsspec does not know is a class of its own, named to it by `fsspec.register_implementation`.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from emo_lightning.core.block_cache import BLOCK_BYTES, BlockCache, cache_from_environment, range_name
from emo_lightning.core.errors import InputError
from emo_lightning.core.read_ahead import read_ahead
from emo_lightning.core.remote_clients import cause_of, client_settings, is_missing, may_pass, reason_of
from emo_lightning.core.stores import is_web

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

ATTEMPTS = 6
"""Of one range: with waits of 0.25, 0.5, 1, 2 and 4 seconds between them."""
_FIRST_WAIT = 0.25
"""Seconds; doubled each time, and drawn between the half and the whole of it, so that processes do not ask at once."""
_AHEAD = 4
"""Blocks that are asked for at once where blocks are read one after another."""
_SAYS_CONTENT = ("md5hash", "content-md5", "blob_id", "etag")
"""What a place says of an object's bytes, the one that says most of them first."""
_SAYS_VERSION = (*_SAYS_CONTENT, "digest", "last-modified", "lastmodified", "versionid")


class RemoteError(InputError):
    """A URL cannot be read or written; the message names it."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing
        """Whether the place has answered that nothing is there. Where nobody may list, object stores behind `https://` say 403 of that."""


class RemotePlace:
    """The file system of a URL, made anew in each process, and asked again while what fails may pass.

    Args:
        url: of an object or a folder.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: tuple[int, AbstractFileSystem, str] | None = None

    def ask(self, question: Callable[[AbstractFileSystem, str], T], url: str | None = None, done: str = "read") -> T:
        """The answer to a question, which is asked `ATTEMPTS` times in all.

        Args:
            question: called with the file system and the URL's path in it.
            url: for the message; None is that of the place.
            done: what is done with it, for the message.

        Raises:
            StoreError: the place is unknown, its package is not installed, or it does not answer.
        """
        wait = _FIRST_WAIT
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return question(*self._files())
            # fsspec's file systems raise what their own clients raise.
            except Exception as raised:
                error = cause_of(raised)
                passing = may_pass(error)
                if attempt == ATTEMPTS or not passing:
                    missing = is_missing(error) or (isinstance(raised, FileNotFoundError) and not passing)
                    raise RemoteError(reason_of(url or self.url, done, error, attempt), missing=missing) from raised
            time.sleep(wait * random.uniform(0.5, 1.0))
            wait *= 2
        raise AssertionError

    def _files(self) -> tuple[AbstractFileSystem, str]:
        """The file system and the path in it. One of a process before a fork belongs to that process: made anew."""
        if self._opened is None or self._opened[0] != os.getpid():
            from fsspec.core import url_to_fs

            files, path = url_to_fs(self.url, **client_settings(self.url))
            self._opened = (os.getpid(), files, path)
        return self._opened[1:]

    def __reduce__(self) -> tuple[type[RemotePlace], tuple[str]]:
        return RemotePlace, (self.url,)


class RemoteStore:
    """An object behind a URL that fsspec knows; each read is a range of its own, so threads and processes share no position.

    A place that fails, answers 5xx, or sends less than it was asked for is asked again, `ATTEMPTS` times in all.

    Args:
        url: of the object.
        cache: where its blocks are kept; None takes what the environment asks for (`cache_from_environment`).
        cached: whether blocks are kept at all.

    Raises:
        StoreError: the place is unknown, its package is not installed, there is no such object, it is a folder, or its size is not told.
    """

    def __init__(self, url: str, cache: BlockCache | None = None, *, cached: bool = True) -> None:
        self.url = url
        self._place = RemotePlace(url)
        self._cache = (cache or cache_from_environment()) if cached else None
        self._last = -2
        self._all = False
        self._held = 0, b""
        info = self._place.ask(lambda files, path: dict(files.info(path)))
        if info.get("type") == "directory":
            msg = f"{url}: is a folder; expected a file: name those in it, as {url}/*.tar, or, of an export, the folder with a slash: {url}/"
            raise RemoteError(msg)
        if info.get("size") is None:
            msg = f"{url}: cannot be read: its size is not told"
            raise RemoteError(msg)
        self._size = int(info["size"])
        self._said = {key: str(value) for key, value in sorted(info.items()) if value and key.lower() in _SAYS_VERSION}

    @property
    def size(self) -> int:
        """Length in bytes when the object was opened."""
        return self._size

    def expect(self, total: int) -> None:
        """Say how much will be read in all, of this object and others, in an order that jumps among them.

        What fits in the cache is fetched ahead; what does not is read as it is asked for, since blocks would be thrown away half used.

        Args:
            total: bytes.
        """
        if self._cache is not None and total > self._cache.limit:
            self._cache = None
        self._all = self._cache is not None

    def holds(self, start: int, end: int) -> bool:
        """Whether a range is at hand."""
        first, held = self._held
        return first <= start and end <= first + len(held)

    def hold(self, start: int, end: int, data: bytes | None = None) -> None:
        """Have a range at hand that is about to be read in parts, if it is kept as such, or no blocks are.

        Args:
            start: of the range.
            end: of it.
            data: its bytes, where somebody has asked for them already.
        """
        data = self._kept(start, end) if data is None else data
        if data is None and self._cache is None:
            data = self._fetch(start, min(end, self._size))
        if data is not None:
            self._held = start, data

    def has(self, start: int, end: int) -> bool:
        """Whether a range is kept, as such or in blocks; it is not looked into."""
        cache = self._cache
        if cache is None:
            return False
        blocks = range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES))
        return cache.has(self.name, range_name(start, end)) or all(cache.has(self.name, number) for number in blocks)

    def fetch(self, start: int, end: int, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        """Ask for a range, and keep the parts of it that are wanted.

        Args:
            start: of the range.
            end: of it.
            parts: (start, end) of each.

        Returns:
            The bytes of each part.

        Raises:
            StoreError: the place does not answer, or not by ranges.
        """
        data = self._fetch(start, end)
        found = [data[first - start : last - start] for first, last in parts]
        if self._cache is not None:
            for part, piece in zip(parts, found, strict=True):
                self._cache.write(self.name, range_name(*part), piece)
        return found

    def drop(self, start: int, end: int) -> None:
        """Keep a range no longer, neither as such, nor in blocks, nor at hand."""
        self._held = 0, b""
        if self._cache is not None:
            for part in (range_name(start, end), *range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES))):
                self._cache.drop(self.name, part)

    def read(self, offset: int, length: int) -> bytes:
        """See `ByteStore.read`.

        Raises:
            StoreError: the place does not answer, or not by ranges.
        """
        end = min(offset + length, self._size)
        if end <= offset:
            return b""
        if self.holds(offset, end):
            start, held = self._held
            return held[offset - start : end - start]
        if self._cache is None:
            return self._fetch(offset, end)
        first, last = offset // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        data = b"".join(self._block(self._cache, number) for number in range(first, last + 1))
        return data[offset - first * BLOCK_BYTES : end - first * BLOCK_BYTES]

    def version(self) -> str:
        """What the place says of this object that changes with its bytes: ETag, time of change, size.

        One on the web that says nothing of the kind is taken for one that never changes.

        Raises:
            StoreError: the place does not answer.
        """
        said = self._said
        # What has its ETag is the same, whenever it was put there.
        content = next(({key: said[key]} for name in _SAYS_CONTENT for key in said if key.lower() == name), None)
        if content is not None and not is_web(self.url):
            # What fsspec makes of all that a place says depends on whether the object was listed or asked for.
            return str(content)
        return f"{self._key()} {content or said}" if is_web(self.url) and said else self._key()

    def anew(self) -> RemoteStore:
        """The object as it is now, whatever was listed before.

        Raises:
            StoreError: as for one that is opened.
        """
        self._place.ask(lambda files, _: files.invalidate_cache())
        return RemoteStore(self.url, self._cache, cached=self._cache is not None)

    def _key(self) -> str:
        """What fsspec takes for the version; of HTTP it takes every object for one that never changes."""
        return self._place.ask(lambda files, path: str(files.ukey(path)))

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-self._size // BLOCK_BYTES)

    def keep(self, number: int) -> None:
        """See `read_ahead.CachedObject`.

        Raises:
            StoreError: the place does not answer.
        """
        if self._cache is None or self._cache.has(self.name, number):
            return
        with self._cache.alone(self.name, number, wait=False) as alone:
            if alone and not self._cache.has(self.name, number):
                self._cache.write(
                    self.name, number, self._fetch(number * BLOCK_BYTES, min((number + 1) * BLOCK_BYTES, self._size))
                )

    def _kept(self, start: int, end: int) -> bytes | None:
        """A range that was asked for as such."""
        return None if self._cache is None else self._cache.read(self.name, range_name(start, end))

    def _block(self, cache: BlockCache, number: int) -> bytes:
        kept = cache.read(self.name, number)
        if kept is not None:
            return kept
        if self._all:
            read_ahead(self)
        with cache.alone(self.name, number):
            # Another process may have asked for it meanwhile.
            kept = cache.read(self.name, number)
            return kept if kept is not None else self._new_block(cache, number)

    def _new_block(self, cache: BlockCache, number: int) -> bytes:
        # Reading on from the block before: the next ones will be asked for as well.
        ahead = _AHEAD if number == self._last + 1 and not self._all else 1
        start, end = number * BLOCK_BYTES, min((number + ahead) * BLOCK_BYTES, self._size)
        data = self._fetch(start, end)
        blocks = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]
        for n, block in enumerate(blocks):
            cache.write(self.name, number + n, block)
        self._last = number + len(blocks) - 1
        return blocks[0]

    @cached_property
    def name(self) -> str:
        """Of the object in the cache: its address and version, so that another object at the same address is another one."""
        return hashlib.sha256(f"{self.url} {self._size} {self.version()}".encode()).hexdigest()[:32]

    def _fetch(self, start: int, end: int) -> bytes:
        def once(files: AbstractFileSystem, path: str) -> bytes:
            data = _range(files, path, start, end)
            if len(data) < end - start:
                msg = f"asked for bytes {start} to {end}, got {len(data)} bytes: the answer was cut"
                raise OSError(msg)
            return data

        data = self._place.ask(once)
        if len(data) > end - start:
            msg = f"{self.url}: asked for bytes {start} to {end}, got {len(data)} bytes: the place does not answer ranges"
            raise RemoteError(msg)
        return data

    def __reduce__(self) -> tuple[type[RemoteStore], tuple[str, BlockCache | None]]:
        return RemoteStore, (self.url, self._cache)


def _range(files: AbstractFileSystem, path: str, start: int, end: int) -> bytes:
    """The bytes, and no more: where a file system reads ranges as a file (`hf://`), fsspec would have it fetch 5 MB ahead."""
    from fsspec import AbstractFileSystem

    if files.async_impl or type(files).cat_file is not AbstractFileSystem.cat_file:
        return bytes(files.cat_file(path, start=start, end=end))
    with files.open(path, "rb", cache_type="none") as file:
        file.seek(start)
        return bytes(file.read(end - start))
