"""Copies of what lies behind URLs, on the disk of this machine: which of them a live process uses, and which go where they are too many.

All of them share one limit (`EMO_SHARD_CACHE_GB`): the blocks of remote shards (`block_cache`), copied folders (`mirrors`) and the parts
that a vision cache has copied. Those that were used longest ago go first. A block is one file, and whoever lacks it asks for it again. A
folder is mapped piece by piece for as long as a process works: the process holds a lock on it, which ends with the process, however that
ends, and nobody removes a folder that is locked.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from emo_lightning.core.cache_folder import cache_folder
from emo_lightning.core.disk import gigabytes
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import is_temporary

SHARD_CACHE_VARIABLE = "EMO_SHARD_CACHE"
"""Variable of the environment: the folder of the blocks, or `off`."""
CACHE_LIMIT_VARIABLE = "EMO_SHARD_CACHE_GB"
"""Variable of the environment: gigabytes that are kept of what lies behind URLs."""
MIRRORS = "mirrors"
"""Folder of the copied folders, in the user's cache folder."""
COPIED_PARTS = "copies"
"""Folder of the parts that a vision cache has copied, in that of its key: what was computed here stands beside it, and is nobody's copy."""
_DEFAULT_GB = 20.0
_NEW_SECONDS = 3600
"""In which a block under a temporary name is being written."""

_OBJECT = re.compile(r"[0-9a-f]{32}")
"""Name of the folder of a remote object's blocks (`RemoteStore.name`)."""
_BLOCK = re.compile(r"\d{8,}|[0-9a-f]+-[0-9a-f]+")
"""Name of a block or of a range (`BlockCache`)."""

_HELD: dict[tuple[int, Path], int] = {}
"""Process id and folder of copies -> the lock that the process has on it until its end; a fork has none of its own."""


class Copy(NamedTuple):
    """A block, or a folder of copies."""

    seen: float
    """When it was used last, in seconds since 1970."""
    size: int
    """Bytes."""
    path: Path


def limit_from_environment() -> int:
    """Bytes that `EMO_SHARD_CACHE_GB` allows.

    Raises:
        InputError: it is no number above zero.
    """
    text = os.environ.get(CACHE_LIMIT_VARIABLE, "")
    try:
        number = float(text) if text else _DEFAULT_GB
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        msg = f"{CACHE_LIMIT_VARIABLE}: found {text!r}; expected gigabytes above 0, or {SHARD_CACHE_VARIABLE}=off"
        raise InputError(msg)
    return int(number * 1e9)


def blocks_folder() -> Path | None:
    """Where blocks are kept (`EMO_SHARD_CACHE`); None where none are."""
    place = os.environ.get(SHARD_CACHE_VARIABLE, "")
    if place.lower() == "off":
        return None
    return Path(place) if place else cache_folder() / "shards"


def blocks_in(folder: Path) -> list[Copy]:
    """The blocks of a folder, which may be one of the user's with files of their own; there may be hundreds of thousands."""
    found = []
    for one in folder.glob("*"):
        if not _OBJECT.fullmatch(one.name):
            continue
        with suppress(OSError), os.scandir(one) as entries:
            for entry in entries:
                with suppress(OSError):
                    if _is_block(entry.name) and entry.is_file(follow_symlinks=False):
                        status = entry.stat()
                        found.append(Copy(status.st_mtime, status.st_size, Path(entry.path)))
    return found


def _is_block(name: str) -> bool:
    """Whether a file is a block, or one that is being written."""
    own, dot, _ = name.partition(".")
    return _BLOCK.fullmatch(own) is not None and (not dot or is_temporary(name))


def copied_folders() -> list[Copy]:
    """The folders of copies in the user's cache folder."""
    root, found = cache_folder(), []
    mirrors = [one for one in (root / MIRRORS).glob("*") if _OBJECT.fullmatch(one.name)]
    parts = [one / COPIED_PARTS for one in (root / "vision").glob("*") if _OBJECT.fullmatch(one.name)]
    for folder in (*mirrors, *parts):
        with suppress(OSError):
            found.append(Copy(folder.stat().st_mtime, size_of(folder), folder))
    return found


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder; 0 where there is none."""
    with suppress(FileNotFoundError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0


def hold(folder: Path, name: str) -> None:
    """Keep others from removing a folder of copies until this process has ended.

    Args:
        folder: which need not be there yet.
        name: what it is a copy of, for whoever finds it in use.
    """
    own = os.getpid(), folder
    if own not in _HELD:
        with suppress(OSError):
            _HELD[own] = _locked(folder, name)


@contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
    """As `hold`, for the block."""
    lock = None
    # A disk without locks: nobody removes what is on it.
    with suppress(OSError):
        lock = _locked(folder, name)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def copying(folder: Path) -> Iterator[None]:
    """One process copies into a folder; all others wait for it, and nobody removes it."""
    with open(_lock_file(folder, "copy"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def used_by_others(folder: Path) -> bool:
    """Whether another process than this one holds a folder; to be asked while `copying`."""
    with open(_lock_file(folder, "use"), "ab") as file:
        # One lock of this process would keep out another one of it.
        lock = _HELD.get((os.getpid(), folder), file.fileno())
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            # Where it cannot be widened, it may be lost.
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_SH)
    return False


def evict(copies: Iterable[Copy], excess: int) -> tuple[int, list[Copy]]:
    """Remove what was used longest ago.

    Args:
        copies: of which some may go.
        excess: bytes that have to.

    Returns:
        Bytes that are still too many, and the folders that were passed over, as a process uses them.
    """
    used: list[Copy] = []
    for copy in sorted(copies):
        if excess <= 0:
            break
        if not copy.path.is_dir():
            if copy.path.suffix and time.time() - copy.seen < _NEW_SECONDS:
                continue
            with suppress(OSError):
                copy.path.unlink()
            excess -= copy.size
        elif _removed(copy.path):
            excess -= copy.size
        else:
            used.append(copy)
    return excess, used


def check_allowed(wanted: int, url: str) -> None:
    """Refuse copies of one place that are more than may be kept of all.

    Args:
        wanted: bytes that will lie here of it.
        url: of the place.

    Raises:
        InputError: they are.
    """
    limit = limit_from_environment()
    if wanted > limit:
        msg = (
            f"{url}: {wanted / 1e9:,.1f} GB, more than {CACHE_LIMIT_VARIABLE} ({limit / 1e9:g}) lets be kept here; raise it, or copy the "
            "folder yourself"
        )
        raise InputError(msg)


def make_room(wanted: int, own: Path) -> tuple[int, list[Copy]]:
    """Remove copies until those of one folder fit beside the rest.

    Args:
        wanted: bytes that the folder will have.
        own: the folder, which is left alone.

    Returns:
        As `evict`.
    """
    blocks = blocks_folder() or cache_folder() / "shards"
    others = [copy for copy in copied_folders() if copy.path != own] + blocks_in(blocks)
    return evict(others, wanted + sum(copy.size for copy in others) - limit_from_environment())


def no_room(wanted: int, url: str, used: Sequence[Copy]) -> InputError:
    """The error where copies fit beside none of those that are in use."""
    msg = (
        f"{url}: {gigabytes(wanted)} find no room within {CACHE_LIMIT_VARIABLE} ({limit_from_environment() / 1e9:g}) beside the copies that "
        f"are in use: {named(used)}; raise it, or wait for the programs that use them"
    )
    return InputError(msg)


def named(copies: Sequence[Copy]) -> str:
    """What they are copies of, and their sizes."""
    return ", ".join(f"{_name(copy.path)} ({gigabytes(copy.size)})" for copy in copies)


def _name(folder: Path) -> str:
    with suppress(OSError):
        return _lock_file(folder, "use").read_text(encoding="utf-8", errors="replace") or str(folder)
    return str(folder)


def _removed(folder: Path) -> bool:
    """Remove a folder, unless a process uses it, or is copying into it."""
    try:
        with open(_lock_file(folder, "copy"), "ab") as copy, open(_lock_file(folder, "use"), "ab") as use:
            for lock in (copy, use):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        # Or a disk without locks, of which nobody can tell.
        return False
    return True


def _locked(folder: Path, name: str) -> int:
    """A shared lock, as an open file; once it is there, nobody is removing the folder.

    Raises:
        OSError: a disk without locks, or one that cannot be written to.
    """
    lock = os.open(_lock_file(folder, "use"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if os.fstat(lock).st_size == 0:
            os.pwrite(lock, name.encode(), 0)
        # When it was used last.
        with suppress(FileNotFoundError):
            os.utime(folder)
    except OSError:
        os.close(lock)
        raise
    return lock


def _lock_file(folder: Path, what: str) -> Path:
    """Beside the folders, not in them: whoever waits for it must find the same file when the folder is gone and made anew."""
    place = cache_folder() / "locks"
    place.mkdir(parents=True, exist_ok=True)
    return place / f"{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:32]}.{what}"
