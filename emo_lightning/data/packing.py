"""Which samples share a row: the plan of an epoch in tokens, a pure function of (seed, epoch, lengths, rows a step).

Samples are shuffled, and rows take them in that order; only the last two or three places of a row go to samples from further behind that
fill it. So a row is nearly full, and it is a random draw: rows of long samples alone and rows of short ones alone, which fitting by
length would make, are steps that pull in different directions (what is asked goes with length).
"""

from __future__ import annotations

import hashlib
import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from emo_lightning.core.errors import InputError
from emo_lightning.data.sampler import PlanIdentity, Slot

Lengths = Callable[[int], NDArray[np.int64]]
"""Epoch -> tokens of every sample in it, (N,): what is asked about an image may change from one epoch to the next."""

_AHEAD = 512
"""Samples behind the next one among which the last places of a row are given away."""
_MOST = 5_000_000
"""Samples that are fitted before the first step, over all epochs; where there are more, a hundredth is added to the rows of the first."""


def pack_rows(lengths: NDArray[np.int64], order: NDArray[np.int64], most: int) -> list[list[int]]:
    """Rows of samples, of at most `most` tokens each.

    Args:
        lengths: tokens of every sample, (N,), none above `most`.
        order: the samples as they were shuffled.
        most: tokens in a row.

    Returns:
        The samples of each row; every sample of `order` once.
    """
    sizes = lengths.tolist()
    waiting = _Waiting([(sizes[sample], place) for place, sample in enumerate(order.tolist())])
    rows: list[list[int]] = []
    while waiting:
        room = most
        row: list[int] = []
        # In their order, while the two longest would still go into it afterwards.
        while waiting and (not row or room >= 2 * waiting.longest):
            size, place = waiting.take_next()
            row.append(place)
            room -= size
        while found := waiting.filling(room):
            for size, place in found:
                waiting.take(size, place)
                row.append(place)
                room -= size
        rows.append(sorted(order[row].tolist(), key=lambda sample: -sizes[sample]))
    return rows


class _Waiting:
    """Samples in the order in which they wait, and the next ones of them by length as well.

    Args:
        samples: (tokens, place in the order).
    """

    def __init__(self, samples: list[tuple[int, int]]) -> None:
        self._samples = samples
        self._taken = bytearray(len(samples))
        self._first = 0
        self._seen = 0
        self._near: list[tuple[int, int]] = []
        self._look_on()

    def __bool__(self) -> bool:
        return bool(self._near)

    @property
    def longest(self) -> int:
        """Tokens of the longest near."""
        return self._near[-1][0]

    def take_next(self) -> tuple[int, int]:
        """The one that has waited longest."""
        while self._taken[self._first]:
            self._first += 1
        found = self._samples[self._first]
        self.take(*found)
        return found

    def take(self, size: int, place: int) -> None:
        """One of those near."""
        self._near.pop(bisect_left(self._near, (size, place)))
        self._taken[place] = 1
        self._look_on()

    def filling(self, room: int) -> list[tuple[int, int]]:
        """The one or two of those near that leave the least of the room over; none where none fits."""
        near = self._near
        low, high = 0, bisect_left(near, (room + 1, -1)) - 1
        if high < 0:
            return []
        best = near[high][0]
        found = [high]
        while low < high:
            both = near[low][0] + near[high][0]
            if both > room:
                high -= 1
                continue
            if both > best:
                best, found = both, [low, high]
            low += 1
        # Of several of one length the one that has waited longest.
        first = bisect_left(near, (near[found[-1]][0], -1))
        found[-1] = first + 1 if len(found) == 2 and first == found[0] else first
        return [near[at] for at in found]

    def _look_on(self) -> None:
        while self._seen < len(self._samples) and len(self._near) < _AHEAD:
            insort(self._near, self._samples[self._seen])
            self._seen += 1


def fit_in_order(lengths: NDArray[np.int64], most: int) -> list[list[int]]:
    """Rows of samples that follow each other; see `pack_rows`."""
    rows: list[list[int]] = []
    room = 0
    for sample, size in enumerate(lengths.tolist()):
        if not rows or size > room:
            rows.append([])
            room = most
        rows[-1].append(sample)
        room -= size
    return rows


class PackedRows(DistributedSampler[list[Slot]]):
    """Rows of one rank, a row a micro-batch: over all ranks every sample exactly once per epoch, and equally many rows on each.

    The rows of an optimiser step are the same whatever the number of ranks: step s takes rows s · `together` and on, the ranks in turn.
    All epochs have the same number of rows, that of the longest; where another needs fewer, rows are halved.

    It is a `DistributedSampler` so that Lightning leaves it in place under DDP.
    """

    def __init__(
        self,
        lengths: Lengths,
        max_tokens: int,
        *,
        epochs: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        together: int | None = None,
        batches: int | None = None,
        shuffle: bool = True,
    ) -> None:
        """Plan the epochs.

        Args:
            lengths: of the samples in each epoch.
            max_tokens: in a row.
            epochs: that will be trained; one more is planned too, and refused where it needs more rows than all of these.
            seed: of the order; the epoch is mixed in.
            rank: of this process, 0 … world_size - 1.
            world_size: number of processes.
            together: rows of one optimiser step, on all ranks; a multiple of `world_size`, which is the default.
            batches: that a rank will train on at most, in all epochs; None if only `epochs` is a limit.
            shuffle: False keeps the dataset's order.

        Raises:
            InputError: there are no samples, or one is longer than a row.
            ValueError: a rank out of range, or `together` is no multiple of `world_size`.
        """
        together = together or world_size
        if not 0 <= rank < world_size or together % world_size:
            msg = f"rank {rank} of world_size {world_size}, {together} rows together: expected a rank below, and a multiple"
            raise ValueError(msg)
        self.lengths, self.max_tokens, self.epochs = lengths, max_tokens, max(1, epochs)
        first = lengths(0)
        self.size = len(first)
        self._lengths_of_first = hashlib.sha256(first.astype("<i8").tobytes()).hexdigest()
        if self.size < 1:
            msg = "there are no samples to make rows of (empty dataset or selection?)"
            raise InputError(msg)
        super().__init__(range(self.size), num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.world_size, self.together = world_size, together
        self._fitted = lru_cache(maxsize=2)(self._fit)
        if batches is not None:
            # No epoch will have fewer rows than the first one needs.
            self.epochs = min(self.epochs, max(1, -(-batches * world_size // len(self._fitted(0)))))
        looked_at = min(self.epochs, max(1, _MOST // self.size))
        needed = max(len(self._fitted(epoch)) for epoch in range(looked_at))
        if looked_at < self.epochs:
            needed += -(-needed // 100)
        self.rows = -(-needed // together) * together
        """In an epoch, on all ranks."""

    @property
    def accumulate(self) -> int:
        """See `EpochPlan.accumulate`."""
        return self.together // self.world_size

    def __len__(self) -> int:
        """Rows per epoch and rank."""
        return self.rows // self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the plan of `epoch`; takes effect at the next `iter`."""
        self.epoch = epoch

    def identity(self) -> PlanIdentity:
        """See `EpochPlan.identity`."""
        return {
            "size": self.size,
            "max_tokens": self.max_tokens,
            "rows": self.rows,
            "together": self.together,
            "seed": self.seed,
            "lengths": self._lengths_of_first,
        }

    def plan(self, epoch: int) -> list[list[int]]:
        """The rows of an epoch, those of all ranks in turn; an empty one where there are fewer samples than rows.

        Raises:
            InputError: it is beyond the epochs that were planned, and needs more rows.
        """
        rows = self._fitted(epoch)
        if len(rows) > self.rows:
            msg = f"epoch {epoch} needs {len(rows)} rows of {self.max_tokens} tokens; {self.epochs} epochs were planned, with {self.rows}"
            raise InputError(msg)
        rows = _halved(rows, self.rows)
        if not self.shuffle:
            return rows
        order = np.random.Generator(np.random.PCG64([self.seed, epoch, 1])).permutation(len(rows))
        return [rows[row] for row in order]

    def __iter__(self) -> Iterator[list[Slot]]:
        return self.from_step(0)

    def from_step(self, start: int) -> Iterator[list[Slot]]:
        """This rank's rows of the present epoch from its row `start` on."""
        # Bound now, not at the first `next`: workers fetch ahead, and the epoch may be set for the next pass meanwhile.
        return self._mine(self.plan(self.epoch), self.epoch, start)

    def _mine(self, plan: list[list[int]], epoch: int, start: int) -> Iterator[list[Slot]]:
        for row in plan[self.rank + start * self.world_size :: self.world_size]:
            if row:
                yield [Slot(sample, False, epoch) for sample in row]
            else:
                yield [Slot(self.rank % self.size, True, epoch)]

    def _fit(self, epoch: int) -> list[list[int]]:
        lengths = self.lengths(epoch)
        if (longest := int(lengths.max())) > self.max_tokens:
            msg = (
                f"data.max_tokens: found {self.max_tokens}; the longest of {self.size} samples has {longest} tokens: allowed is that or "
                "more (or lower the backbone's max_pixels)"
            )
            raise InputError(msg)
        if not self.shuffle:
            return fit_in_order(lengths, self.max_tokens)
        order = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.size)
        return pack_rows(lengths, order, self.max_tokens)


def _halved(rows: list[list[int]], wanted: int) -> list[list[int]]:
    """As many rows as are wanted: those with the most samples are cut in two; empty ones where no row has two."""
    found = [list(row) for row in rows]
    heap = [(-len(row), number) for number, row in enumerate(found)]
    heapq.heapify(heap)
    while len(found) < wanted:
        count, number = heapq.heappop(heap)
        # Every other one: a row's samples stand by their lengths.
        found.append(found[number][1::2])
        found[number] = found[number][::2]
        for half in (number, len(found) - 1):
            heapq.heappush(heap, (-len(found[half]), half))
        if count == -1:  # none has two: the rest stays empty
            found += [[] for _ in range(wanted - len(found))]
    return found
