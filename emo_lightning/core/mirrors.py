"""Whole files of a folder behind a URL, copied once to this machine: those of caches, which are mapped and not read.

Copies stand in the user's cache folder (`cache_folder`), one folder for each URL, under the limit of all copies (`copies`).
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from emo_lightning.core.at_once import each_at_once
from emo_lightning.core.cache_folder import cache_folder
from emo_lightning.core.copies import MIRRORS, check_allowed, copying, held, hold, make_room, no_room, used_by_others
from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.files import read_object, replacing, write_json
from emo_lightning.core.remote import RemoteError, RemoteStore
from emo_lightning.core.remote_folder import RemoteFolder
from emo_lightning.core.stores import is_remote

_PIECE = 4 << 20
"""Bytes that are asked for at once; several pieces are, as a place gives each connection a part of the link alone."""
_COPIES = 3
"""Of one object, as long as it is replaced meanwhile."""
_VERSIONS = "versions.json"
"""Name of a file -> what its place said of it when it was copied."""


def local_folder(path: str | Path, patterns: Sequence[str]) -> Path:
    """A folder on this machine: the one that is named, or a copy of the one behind a URL, which stays until this process has ended.

    Args:
        path: folder, or URL of one.
        patterns: of the names of the files that are wanted.

    Raises:
        StoreError: the place does not answer, or has no such files.
        InputError: they are more than may be kept, or have changed there while another process uses the copy.
    """
    if not is_remote(path):
        return Path(path)
    remote = RemoteFolder(str(path))
    folder = _mirror(remote)
    with copying(folder):
        changeable = not used_by_others(folder)
        hold(folder, remote.url)
        _copy(remote, folder, patterns, changeable=changeable)
    return folder


@contextmanager
def read_folder(path: str | Path, patterns: Sequence[str]) -> Iterator[Path]:
    """As `local_folder`, of a copy that stays for the block alone."""
    if not is_remote(path):
        yield Path(path)
        return
    remote = RemoteFolder(str(path))
    folder = _mirror(remote)
    with ExitStack() as block:
        with copying(folder):
            changeable = not used_by_others(folder)
            block.enter_context(held(folder, remote.url))
            _copy(remote, folder, patterns, changeable=changeable)
        yield folder


def _mirror(remote: RemoteFolder) -> Path:
    return cache_folder() / MIRRORS / hashlib.sha256(remote.url.encode()).hexdigest()[:32]


def _copy(remote: RemoteFolder, folder: Path, patterns: Sequence[str], *, changeable: bool) -> None:
    """Bring a folder to what its place has now.

    Args:
        remote: the place.
        folder: of the copies, which this process holds.
        patterns: of the names of the files that are wanted.
        changeable: no other process reads what is there.
    """
    names = [name for name in remote.names("*") if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if not names:
        msg = f"{remote.url}: holds none of {', '.join(patterns)}"
        raise RemoteError(msg, missing=True)
    stores = {name: RemoteStore(remote.of(name), cached=False) for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: f"{store.size} {store.version()}" for name, store in stores.items()}
    known = _versions(folder)
    other = sorted(name for name, said in known.items() if versions.get(name) != said and (folder / name).exists())
    if other and not changeable:
        msg = (
            f"{remote.url}: {other[0]} is another file than when {folder} was copied from there, which another process uses; wait for its end, "
            "or put what is new behind another URL"
        )
        raise InputError(msg)
    wanted = sum(store.size for store in stores.values())
    check_allowed(wanted, remote.url)
    excess, used = make_room(wanted, folder)
    if excess > 0:
        raise no_room(wanted, remote.url, used)
    for name in {file.name for file in folder.iterdir()} - {*names, _VERSIONS}:
        # Gone there, or half a copy.
        (folder / name).unlink()
    for name, store in stores.items():
        copy = folder / name
        if known.get(name) != versions[name] or not copy.is_file() or copy.stat().st_size != store.size:
            copy_here(store, copy)
            known[name] = versions[name]
            write_json(folder / _VERSIONS, known)


def copy_here(store: RemoteStore, target: Path) -> None:
    """Copy an object to a file of this machine, which is whole or not there; one that is replaced meanwhile is copied anew.

    Raises:
        StoreError: the place does not answer, or has another object each time when it has been copied.
    """
    with replacing(target, shared=True) as temporary:
        for _ in range(_COPIES):
            # Looked at anew before it as behind it: of what was listed, places may say other things than of what is asked for.
            now, fault = store.anew(), None
            version = now.version()
            try:
                _copy_pieces(now, temporary)
            except RemoteError as error:
                # A shorter object does not have the last pieces.
                fault = error
            then = now.anew()
            if (then.size, then.version()) == (now.size, version):
                if fault is not None:
                    raise fault
                return
        msg = f"{store.url}: is written anew while it is copied ({_COPIES} times); run again when it no longer changes"
        raise RemoteError(msg)


def _copy_pieces(store: RemoteStore, target: Path) -> None:
    target.write_bytes(b"")

    def copy(start: int) -> None:
        piece = store.read(start, _PIECE)
        with open(target, "r+b") as file:
            file.seek(start)
            file.write(piece)

    for _ in each_at_once(copy, range(0, store.size, _PIECE)):
        pass


def _versions(folder: Path) -> dict[str, object]:
    try:
        return read_object(folder / _VERSIONS)
    except UserError:
        return {}
