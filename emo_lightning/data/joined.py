"""The indices of several tars as one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.at_once import each_at_once
from emo_lightning.core.model_folders import warn_once
from emo_lightning.core.remote import RemoteError
from emo_lightning.core.shard_index import INDEX_ROW, ShardIndex
from emo_lightning.core.stores import ByteStore, is_remote
from emo_lightning.core.tar_labels import TarLabels, labelled_id
from emo_lightning.core.tar_scan import ShardError
from emo_lightning.data.shard_indices import indexed
from emo_lightning.data.shard_list import Shard, check_entry, list_shards
from emo_lightning.data.stand_ins import too_long, with_unreadable
from emo_lightning.data.stores import open_store

NUMBERED_ROW = np.dtype([("shard", "<i4"), ("stand_in", "?"), *((name, INDEX_ROW[name]) for name in INDEX_ROW.names or ())])
"""`INDEX_ROW`, the shard that it stands in, and whether something stands in the place of its picture (`stand_ins`)."""


class OpenedShard(NamedTuple):
    """A shard whose index is known."""

    url: str
    size: int
    index_file: str
    """Where its index is, for messages."""
    labels: TarLabels | None = None
    """What its records are made of, where it has none of ours."""


class Joined(NamedTuple):
    """Samples of several tars, in the tars' order."""

    shards: list[OpenedShard]
    keys: list[str]
    """With the folder inside the tar."""
    texts: list[str]
    """Splits and groups, by the numbers in `rows`."""
    rows: NDArray[np.void]
    """(N,) of `NUMBERED_ROW`."""

    @property
    def nameless(self) -> NDArray[np.bool_]:
        """Which samples have no picture of any size (`stand_ins`), (N,): their bytes, of which others make an id, may come twice."""
        return _nameless(self.rows)

    def is_nameless(self, row: int) -> bool:
        """Whether one sample is `nameless`."""
        return bool(_nameless(self.rows[row]))

    def id(self, row: int) -> str:
        """The id that the record of a row has, by the name of its members."""
        key = self.keys[row].rpartition("/")[2]
        if self.shards[self.rows[row]["shard"]].labels is None:
            return key
        return labelled_id(key, self.rows[row]["sha256"].decode())

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The given rows, in the given order."""
        return self._replace(keys=[self.keys[row] for row in rows], rows=self.rows[rows])


def _nameless(rows: NDArray[np.void] | np.void) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = rows["stand_in"] & (rows["width"] == 0)
    return found


def join_shards(
    paths: str | Path | Sequence[str | Path],
    *,
    verify: bool,
    bad_images: bool = False,
    stand_ins: bool = False,
    labels: TarLabels | None = None,
) -> tuple[Joined, int]:
    """See `TarIndex.open`.

    Returns:
        The table, and how many members belong to no sample.
    """
    shards: list[OpenedShard] = []
    keys: list[str] = []
    texts: list[str] = []
    rows: list[NDArray[np.void]] = []
    ignored: Counter[str] = Counter()

    def opened(shard: Shard) -> tuple[OpenedShard, ShardIndex]:
        store = open_shard(shard.url)
        found = indexed(shard.url, store, bad_images=bad_images, labels=labels)
        check_entry(shard, store, len(found.content.keys), verify=verify)
        content = found.content
        if stand_ins and found.labels is not None:
            content = with_unreadable(content, store, found.labels)
        return OpenedShard(shard.url, store.size, found.where, found.labels), content

    listed = list_shards(paths, verify=verify)
    # Each of those behind URLs is waited for, some of them at a time.
    each = each_at_once if sum(is_remote(shard.url) for shard in listed) > 1 else map
    for shard, index in each(opened, listed):
        numbered = np.empty(len(index.rows), dtype=NUMBERED_ROW)
        numbered["shard"] = len(shards)
        for name in INDEX_ROW.names or ():
            numbered[name] = index.rows[name]
        sizes = np.stack([numbered["width"], numbered["height"]], axis=1).astype(np.int64)
        numbered["stand_in"] = numbered["valid"] & ((sizes == 0).any(axis=1) | too_long(sizes)) if stand_ins else False
        for name in ("split", "group"):
            numbered[name][numbered[name] >= 0] += len(texts)
        shards.append(shard)
        keys += index.keys
        texts += index.texts
        rows.append(numbered)
        ignored.update(index.ignored)
    if ignored:
        kinds = ", ".join(f"{count} {ending}" for ending, count in ignored.most_common(5))
        warn_once(f"{shards[0].url}{' …' * (len(shards) > 1)}: not read, as neither record, image nor DES: members {kinds}")
    table = Joined(shards, keys, texts, np.concatenate(rows))
    _check_names(table)
    return table, ignored.total()


def open_shard(url: str) -> ByteStore:
    """Its bytes.

    Raises:
        ShardError: they cannot be read.
    """
    try:
        return open_store(url)
    except OSError as error:
        msg = f"{url}: cannot be read: {error.strerror or error}"
        raise ShardError(msg) from error
    except RemoteError as error:
        raise ShardError(str(error)) from error


def _check_names(table: Joined) -> None:
    """Refuse an id that comes twice: answers, features and scores are kept by it, without the folder inside the tar."""
    rows: Sequence[int] = range(len(table.keys))
    if any(shard.labels for shard in table.shards):
        # Those without a size may be the same bytes (none, an error's page) under the same key; nothing is kept by their ids.
        rows = np.flatnonzero(~table.nameless).tolist()
        ids = list(map(table.id, rows))
    else:
        # As `id` gives them, of many at once.
        ids = [key.rpartition("/")[2] for key in table.keys]
    if len(set(ids)) == len(ids):
        return
    home: dict[str, int] = {}
    for row, name in zip(rows, ids, strict=True):
        if name in home:
            other, own = (table.shards[table.rows[one]["shard"]].url for one in (home[name], row))
            msg = (
                f"{own}: key {table.keys[row]!r} stands in {other}:{table.keys[home[name]]} already; names must be unique, "
                "whatever their folder"
            )
            raise ShardError(msg)
        home[name] = row
