"""Samples of tars behind URLs: each is one range of bytes, and those that will be asked for next are fetched ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.ranges_ahead import Range, RangesAhead
from emo_lightning.core.remote import RemoteStore
from emo_lightning.core.shard_index import SAMPLE_PARTS
from emo_lightning.core.stores import ByteStore

_TOGETHER = 16 << 20
"""Bytes of a sample, with what stands between its parts, that are asked for at once."""


class FarRows:
    """What one process reads of an index.

    Args:
        rows: of the index.
        far: numbers of the shards behind URLs.
        store: number of a shard -> its bytes.
    """

    def __init__(self, rows: NDArray[np.void], far: frozenset[int], store: Callable[[int], ByteStore]) -> None:
        self._rows, self._far, self._store = rows, far, store
        self._ahead = RangesAhead(self._far_store)

    def expect(self, numbers: Iterable[int], *, pictures: bool) -> None:
        """Say which rows will be read from now on, in this order.

        Args:
            numbers: of the rows.
            pictures: whether more of them will be read than their records.
        """
        entries = (self._rows[number] for number in numbers)
        ranges = (_whole(entry) if pictures else _of_part(entry, "json") for entry in entries)
        self._ahead.want(one for one in ranges if one is not None and one.number in self._far)

    def make_ready(self, entry: np.void, part: str, store: RemoteStore) -> None:
        """Have the store hold what was fetched ahead of a sample, of which a part is about to be read.

        Raises:
            StoreError: the place does not answer.
        """
        whole, own = _whole(entry), _of_part(entry, part)
        if store.holds(own.start, own.end):
            return
        for one in (whole, own):
            if one is not None and (found := self._ahead.take(one)) is not None:
                store.hold(one.start, one.end, found)
                return
        if whole is not None:
            store.hold(whole.start, whole.end)

    def anew(self, entry: np.void, part: str, store: RemoteStore) -> bytes:
        """A part of a sample from its place, where what was kept here of it is wrong.

        Raises:
            StoreError: the place does not answer.
        """
        whole, own = _whole(entry), _of_part(entry, part)
        for one in (whole, own):
            if one is not None:
                store.drop(one.start, one.end)
        return store.fetch(own.start, own.end, [(own.start, own.end)])[0]

    def _far_store(self, number: int) -> RemoteStore:
        store = self._store(number)
        assert isinstance(store, RemoteStore)
        return store


def _of_part(entry: np.void, part: str) -> Range:
    start = int(entry[f"{part}_o"])
    return Range(int(entry["shard"]), start, start + int(entry[f"{part}_l"]))


def _whole(entry: np.void) -> Range | None:
    """All parts of a sample; None where they stand far apart."""
    parts = [_of_part(entry, part) for part in SAMPLE_PARTS if entry[f"{part}_l"]]
    start, end = min(one.start for one in parts), max(one.end for one in parts)
    return Range(int(entry["shard"]), start, end) if end - start <= _TOGETHER else None
