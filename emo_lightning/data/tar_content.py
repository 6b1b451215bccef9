"""What the members of tars hold, so that a tar which was written anew under its old name is not taken for the old one.

Names, lengths and CRC-32 of all members, in order, as the index beside each tar has them (`shard_indices`). Where a tar lies, how it is
called and when its members were written is no part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from emo_lightning.core.fingerprints import HASHES, content_sha256
from emo_lightning.core.remote import RemoteStore
from emo_lightning.core.shard_index import members_hash
from emo_lightning.core.tar_scan import ShardError
from emo_lightning.data.shard_indices import find_index
from emo_lightning.data.shard_list import list_shards
from emo_lightning.data.stores import open_store


def data_hash(paths: str | Path | Sequence[str | Path]) -> str:
    """SHA-256 over all tars and files of records, in their order, hexadecimal.

    Args:
        paths: as `TarIndex.open` takes them, or `.jsonl` files.

    Raises:
        ShardError: nothing there, or no whole tar.
        OSError: a file cannot be read.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    digest = hashlib.sha256(b"data 1\n")
    for path in given:
        if str(path).endswith(".jsonl"):
            digest.update(f"{content_sha256(path)}\n".encode())
            continue
        for shard in list_shards(path):
            digest.update(f"{shard_hash(shard.url)}\n".encode())
    return digest.hexdigest()


def shard_hash(url: str) -> str:
    """SHA-256 over a tar's members, wherever it lies. Of one behind a URL its index says it; what is read is held to that index.

    Raises:
        ShardError: no whole tar.
        OSError: it cannot be read.
    """
    store = open_store(url)
    try:
        return find_index(url, store).content.content
    except ShardError:
        # A tar of others, perhaps (`data.labels`); whoever opens it says what is wrong.
        if isinstance(store, RemoteStore):
            return hashlib.sha256(f"{store.size} {store.version()}".encode()).hexdigest()
        return HASHES.of(url.removeprefix("file://"), "members", lambda: members_hash(store, url))
