"""Whole files of a folder behind a URL, copied once to this machine: those of caches, which are mapped and not read.

Copies stand in the user's cache folder (`cache_folder`), one folder for each URL, and share the limit of the blocks of remote shards
(`EMO_SHARD_CACHE_GB`): those that were used longest ago go first.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from emo_lightning.core.at_once import each_at_once
from emo_lightning.core.block_cache import CACHE_LIMIT_VARIABLE, limit_from_environment
from emo_lightning.core.cache_folder import cache_folder
from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.files import read_object, replacing, this_writer, write_json
from emo_lightning.core.remote import RemoteError, RemoteStore
from emo_lightning.core.remote_folder import RemoteFolder
from emo_lightning.core.stores import is_remote

_PIECE = 4 << 20
"""Bytes that are asked for at once; several pieces are, as a place gives each connection a part of the link alone."""
_VERSIONS = "versions.json"
"""Name of a file -> what its place said of it when it was copied."""


def local_folder(path: str | Path, patterns: Sequence[str]) -> Path:
    """A folder on this machine: the one that is named, or a copy of the one behind a URL.

    Args:
        path: folder, or URL of one.
        patterns: of the names of the files that are wanted.

    Raises:
        StoreError: the place does not answer, or has no such files.
        InputError: they are more than may be kept.
    """
    if not is_remote(path):
        return Path(path)
    remote = RemoteFolder(str(path))
    names = [name for name in remote.names("*") if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if not names:
        msg = f"{path}: holds none of {', '.join(patterns)}"
        raise RemoteError(msg, missing=True)
    stores = {name: RemoteStore(remote.of(name), cached=False) for name in names}
    folder = cache_folder() / "mirrors" / hashlib.sha256(remote.url.encode()).hexdigest()[:32]
    with mirror_lock(folder):
        _make_room(folder, sum(store.size for store in stores.values()), remote.url)
        known = _versions(folder)
        for name in {file.name for file in folder.iterdir()} - {*names, _VERSIONS, _LOCK}:
            # Gone there, or half a copy.
            (folder / name).unlink()
        for name, store in stores.items():
            version = f"{store.size} {store.version()}"
            if known.get(name) != version or not (folder / name).is_file() or (folder / name).stat().st_size != store.size:
                copy_here(store, folder / name)
                known[name] = version
                write_json(folder / _VERSIONS, known)
    return folder


_LOCK = ".lock"


@contextmanager
def mirror_lock(folder: Path) -> Iterator[None]:
    """One process copies into a folder, all others of this machine wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # When it was used last.
        os.utime(folder)
        yield


def copy_here(store: RemoteStore, target: Path) -> None:
    """Copy an object to a file of this machine, which is whole or not there.

    Raises:
        StoreError: the place does not answer.
    """
    with replacing(target, writer=this_writer()) as temporary:
        temporary.touch()

        def copy(start: int) -> None:
            piece = store.read(start, _PIECE)
            with open(temporary, "r+b") as file:
                file.seek(start)
                file.write(piece)

        for _ in each_at_once(copy, range(0, store.size, _PIECE)):
            pass


def _versions(folder: Path) -> dict[str, object]:
    try:
        return read_object(folder / _VERSIONS)
    except UserError:
        return {}


def allowed_copies(wanted: int, url: str) -> int:
    """Bytes that may be kept here of what lies behind URLs.

    Args:
        wanted: bytes that are about to be copied.
        url: of them.

    Raises:
        InputError: they are more than that.
    """
    limit = limit_from_environment()
    if wanted > limit:
        allowed = f"{CACHE_LIMIT_VARIABLE} ({limit / 1e9:g})"
        msg = f"{url}: {wanted / 1e9:,.1f} GB, more than {allowed} lets be kept here; raise it, or copy the folder yourself"
        raise InputError(msg)
    return limit


def _make_room(folder: Path, wanted: int, url: str) -> None:
    limit = allowed_copies(wanted, url)
    others = []
    for other in folder.parent.iterdir():
        with suppress(OSError):
            if other != folder:
                others.append((other.stat().st_mtime, sum(file.stat().st_size for file in other.iterdir()), other))
    total = wanted + sum(size for _, size, _ in others)
    for _, size, other in sorted(others):
        if total <= limit:
            break
        shutil.rmtree(other, ignore_errors=True)
        total -= size
