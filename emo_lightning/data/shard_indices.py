"""The index of each tar: the one beside it, one kept in the user's cache folder, or a new one."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from emo_lightning.core.cache_folder import cache_folder
from emo_lightning.core.remote import RemoteError, RemoteStore
from emo_lightning.core.shard_index import (
    INDEX_SUFFIX,
    SAMPLE_PARTS,
    ShardIndex,
    Stamp,
    build_index,
    index_path,
    is_stamped,
    read_index,
    save_index,
    stamp_index,
)
from emo_lightning.core.stores import ByteStore, beside, name_of
from emo_lightning.core.tar_labels import TarLabels
from emo_lightning.core.tar_rows import TAR_IMAGE_EXTENSIONS
from emo_lightning.core.tar_scan import ShardError

_ZIP = b"PK\x03\x04"
"""What an index begins with."""

log = logging.getLogger(__name__)


class FoundIndex(NamedTuple):
    """An index that is of its tar."""

    content: ShardIndex
    where: str
    """Of the index, for messages; of the tar where no index could be kept."""
    before: ShardIndex | None = None
    """The index that stood there and is of other bytes at the same places: damage, or a tar written anew."""
    labels: TarLabels | None = None
    """What its records are made of, where it has none of ours."""


def find_index(url: str, store: ByteStore, labels: TarLabels | None = None) -> FoundIndex:
    """The index of a tar; made, which reads every byte of it, where there is none, or where the tar was changed or moved since.

    Args:
        url: of the tar.
        store: its bytes.
        labels: what stands in place of our record, in tars that have none.

    Raises:
        ShardError: no whole tar, or none of samples.
    """
    if labels is None:
        return _find(url, store, None)
    try:
        found = _find(url, store, None)
    except ShardError as error:
        unfit = str(error)
    else:
        # Whoever has our records is read by them: what is declared for the tars of others says nothing of ours.
        if found.content.rows["valid"].any():
            return found
        unfit = f"{url}: no record is one of ours"
    try:
        return _find(url, store, labels)._replace(labels=labels)
    except ShardError as error:
        msg = f"{error} (data.labels.member: {labels.member}). It was taken for a tar without records, as: {unfit}"
        raise ShardError(msg) from None


def _find(url: str, store: ByteStore, labels: TarLabels | None) -> FoundIndex:
    if isinstance(store, RemoteStore):
        return _of_remote(url, store, labels)
    path = Path(url.removeprefix("file://"))
    places = (
        [index_path(path), _kept(f"{path.resolve()}")] if labels is None else [_kept(f"{path.resolve()} {labels.identity}")]
    )
    stamp = Stamp.of(path)
    known = [(place, index) for place in places if (index := _read(place)) is not None and index.size == stamp.size]
    for place, index in known:
        if is_stamped(place, stamp):
            return FoundIndex(index, str(place))
    fresh = build_index(store, url, labels)
    for place, index in known:
        if index.content == fresh.content and _stamped(place, stamp):
            return FoundIndex(index, str(place))
        if index.content != fresh.content and index.same_places(fresh):
            return FoundIndex(fresh, str(place), before=index)
    return FoundIndex(fresh, next((str(place) for place in places if _saved(fresh, place, stamp)), url))


def indexed(url: str, store: ByteStore, *, bad_images: bool = False, labels: TarLabels | None = None) -> FoundIndex:
    """As `find_index`, where an index of other bytes at the same places is an error: nobody can tell damage from a change here.

    Args:
        url: of the tar.
        store: its bytes.
        labels: as there.
        bad_images: where nothing but images differs, take the index, by which each of them fails when it is read.

    Raises:
        ShardError: names the first member that differs; or see `find_index`.
    """
    found = find_index(url, store, labels)
    if found.before is None:
        return found
    others = ("json_c", "des_c")
    if bad_images and all((found.content.rows[part] == found.before.rows[part]).all() for part in others):
        return FoundIndex(found.before, found.where, labels=found.labels)
    raise ShardError(_difference(url, found, found.before))


def _difference(url: str, found: FoundIndex, before: ShardIndex) -> str:
    index, where = found.content, found.where
    record = "json" if found.labels is None else found.labels.member
    for part in SAMPLE_PARTS:
        rows = np.flatnonzero(index.rows[f"{part}_c"] != before.rows[f"{part}_c"])
        if len(rows):
            row = int(rows[0])
            extension = {"image": TAR_IMAGE_EXTENSIONS[index.rows[row]["format"]], "json": record, "des": "des.npy"}[part]
            crc, said = (int(one.rows[row][f"{part}_c"]) for one in (index, before))
            return crc_fault(f"{url}:{index.keys[row]}.{extension}", crc, said, where)
    return f"{url}: members that belong to no sample are not those of {where}; remove that index if the tar was written anew"


def crc_fault(member: str, found: int, said: int, index: str) -> str:
    """What is wrong with a member of other bytes than its index was made of."""
    return (
        f"{member}: CRC-32 of the bytes is {found:08x}, {index} says {said:08x}: the tar is damaged, or was written anew; "
        "restore it, or remove the index if it was meant"
    )


def _of_remote(url: str, store: RemoteStore, labels: TarLabels | None) -> FoundIndex:
    of_tar = f"{url} {store.size} {store.version()}{'' if labels is None else f' {labels.identity}'}"
    if labels is None:
        where = beside(url, name_of(url).removesuffix(".tar") + INDEX_SUFFIX)
        if (found := _far_file(where, store.size)) is not None:
            there, version = found
            # By both: who looks while an export is uploaded once more may see the new tar beside the index of the one before.
            place = _kept(f"{of_tar} {there.size} {version}")
            if (index := _read(place)) is not None and index.size == store.size:
                return FoundIndex(index, str(place))
            if (index := _far_index(there, where, store.size)) is not None:
                _saved(index, place, None)
                return FoundIndex(index, where)
    place = _kept(of_tar)
    if (index := _read(place)) is None or index.size != store.size:
        if labels is None:
            log.info("%s: has no index; its %d bytes are read once", url, store.size)
        index = build_index(store, url, labels)
        _saved(index, place, None)
    return FoundIndex(index, str(place))


def _far_file(url: str, size: int) -> tuple[RemoteStore, str] | None:
    """What is called like the index of a tar of that size, unread, and its version; None where nothing there can be one."""
    try:
        there = RemoteStore(url)
        # Some places answer a name that they do not know with the tar itself.
        return None if there.size == size else (there, there.version())
    except RemoteError:
        return None


def _far_index(there: RemoteStore, url: str, size: int) -> ShardIndex | None:
    """The index of a tar of that size; None where what is there cannot be used."""
    try:
        # Others answer it with a page.
        if there.read(0, len(_ZIP)) != _ZIP:
            return None
        index = read_index(there.read(0, there.size), url)
    except (RemoteError, ShardError):
        return None
    return index if index.size == size else None


def _kept(name: str) -> Path:
    return cache_folder() / "indices" / (hashlib.sha256(name.encode()).hexdigest()[:32] + INDEX_SUFFIX)


def _read(path: Path) -> ShardIndex | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    try:
        return read_index(data, path)
    except ShardError as error:
        log.warning("%s; made anew", error)
        return None


def _saved(index: ShardIndex, path: Path, stamp: Stamp | None) -> bool:
    """Whether an index could be kept."""
    try:
        save_index(index, path)
    except OSError:
        return False
    return stamp is None or _stamped(path, stamp)


def _stamped(path: Path, stamp: Stamp) -> bool:
    try:
        stamp_index(path, stamp)
    except OSError:
        return False
    return True
