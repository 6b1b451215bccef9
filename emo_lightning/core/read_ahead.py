"""Blocks of remote objects that nobody has asked for yet, fetched by one thread of each process while others decode."""

from __future__ import annotations

import os
import random
import threading
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from emo_lightning.core.errors import UserError


class CachedObject(Protocol):
    """An object whose blocks are kept."""

    @property
    def name(self) -> str:
        """Of the object, with its version."""
        ...

    @property
    def blocks(self) -> int:
        """How many there are."""
        ...

    def keep(self, number: int) -> None:
        """Fetch a block, unless it is there, or another process is fetching it."""
        ...


class _Process:
    """What the thread of this process does; a fork begins anew."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.known: set[str] = set()
        self.left: deque[tuple[CachedObject, Iterator[int]]] = deque()
        self.works = False


_process = _Process()


def read_ahead(store: CachedObject) -> None:
    """Fetch all blocks of an object in the background, beside those of other objects; asked again, do nothing."""
    global _process
    if _process.pid != os.getpid():
        _process = _Process()
    mine = _process
    with mine.lock:
        if store.name in mine.known:
            return
        mine.known.add(store.name)
        # Workers that begin at other places seldom want the same block.
        first = random.randrange(store.blocks)
        mine.left.append((store, iter([*range(first, store.blocks), *range(first)])))
        if mine.works:
            return
        mine.works = True
    threading.Thread(target=_work, args=(mine,), name="read-ahead", daemon=True).start()


def _work(mine: _Process) -> None:
    """One block of each object in turn."""
    while True:
        with mine.lock:
            if not mine.left:
                mine.works = False
                return
            store, numbers = mine.left.popleft()
        number = next(numbers, None)
        if number is None:
            continue
        try:
            store.keep(number)
        except UserError:
            # Whoever reads that block learns why.
            continue
        with mine.lock:
            mine.left.append((store, numbers))
