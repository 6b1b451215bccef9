"""Which sample goes where: the plan of an epoch, a pure function of (seed, epoch, samples a step); ranks and micro-batches share a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from emo_lightning.core.errors import InputError


class Slot(NamedTuple):
    """A place in a batch."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    """The dataset's row."""
    filler: bool
    """It only fills the place, and must not count in any loss or metric."""
    epoch: int = 0
    """For what a dataset draws anew in each epoch."""


class Slots(Sequence[Slot]):
    """The slots of a batch, kept as one array: what takes a whole batch at once reads `rows`, and no Python runs for each sample."""

    def __init__(self, rows: NDArray[np.int64], epoch: int, *, filler: bool = False) -> None:
        self.rows, self.epoch, self.filler = rows, epoch, filler

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Slot: ...

    @overload
    def __getitem__(self, place: slice) -> Slots: ...

    def __getitem__(self, place: int | slice) -> Slot | Slots:
        if isinstance(place, slice):
            return Slots(self.rows[place], self.epoch, filler=self.filler)
        return Slot(int(self.rows[place]), self.filler, self.epoch)

    def __iter__(self) -> Iterator[Slot]:
        return map(Slot, self.rows.tolist(), repeat(self.filler), repeat(self.epoch))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list has none


def places(slots: Sequence[Slot]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows and fillers of the B slots of a batch, (B,) each."""
    if isinstance(slots, Slots):
        return slots.rows, np.full(len(slots), slots.filler)
    return np.array([slot.index for slot in slots]), np.array([slot.filler for slot in slots])


PlanIdentity = dict[str, int | bool | str]
"""What the order of an epoch depends on, beside the epoch."""


class EpochPlan(Protocol):
    """Batches of one rank in each epoch, as `ResumableLoader` takes them."""

    epoch: int
    seed: int

    @property
    def accumulate(self) -> int:
        """Batches of a rank that make one optimiser step."""
        ...

    def __len__(self) -> int:
        """Batches per epoch, the same on every rank and in every epoch."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the plan of `epoch`; takes effect at the next `iter`."""
        ...

    def from_step(self, start: int) -> Iterator[Sequence[Slot]]:
        """This rank's batches of the present epoch from batch `start` on."""
        ...

    def identity(self) -> PlanIdentity:
        """What a place in an epoch means something for."""
        ...


class EpochBatches(DistributedSampler[Slots]):
    """Batches of one rank: over all ranks every sample exactly once per epoch, and equally many steps on each.

    An optimiser step takes the next `global_batch` samples of the epoch, however many ranks and micro-batches share them. Where `size` is
    no multiple of it, the samples of the last two steps are shared evenly between these two; only where a step has fewer samples than
    micro-batches does one of them get a filler.

    It is a `DistributedSampler` so that Lightning leaves it in place under DDP.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        accumulate: int = 1,
    ) -> None:
        """Plan the epochs; nothing is drawn yet.

        Args:
            size: samples in the dataset.
            batch_size: samples per rank and micro-batch.
            seed: of the order; the epoch is mixed in.
            rank: of this process, 0 … world_size - 1.
            world_size: number of processes.
            shuffle: False keeps the dataset's order.
            accumulate: micro-batches of an optimiser step.

        Raises:
            InputError: nothing to sample, or a batch size or seed out of range.
            ValueError: a rank or a number of micro-batches out of range.
        """
        if size < 1:
            msg = f"size {size}: there are no samples to make batches of (empty dataset or selection?)"
            raise InputError(msg)
        if batch_size < 1:
            msg = f"batch_size {batch_size}: expected at least 1"
            raise InputError(msg)
        if seed < 0:
            msg = f"seed {seed}: expected 0 or more"
            raise InputError(msg)
        if not 0 <= rank < world_size:
            msg = f"rank {rank} of world_size {world_size}: expected 0 <= rank < world_size"
            raise ValueError(msg)
        if accumulate < 1:
            msg = f"accumulate {accumulate}: expected at least 1"
            raise ValueError(msg)
        super().__init__(range(size), num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.size = size
        self.batch_size = batch_size
        self.world_size, self.accumulate = world_size, accumulate
        self.global_batch = batch_size * world_size * accumulate
        """Samples of an optimiser step."""
        self.steps = -(-size // self.global_batch)
        """Optimiser steps per epoch."""

    def __len__(self) -> int:
        """Micro-batches per epoch, the same on every rank; as many in each optimiser step."""
        return self.steps * self.accumulate

    def set_epoch(self, epoch: int) -> None:
        """Choose the plan of `epoch`; takes effect at the next `iter`."""
        self.epoch = epoch

    def identity(self) -> PlanIdentity:
        """See `EpochPlan.identity`."""
        return {
            "size": self.size,
            # Of a set that is one step, whatever more would go into it.
            "global_batch": min(self.global_batch, self.size),
            "seed": self.seed,
            "shuffle": self.shuffle,
        }

    def plan(self, epoch: int) -> NDArray[np.int64]:
        """All rows in the order of `epoch`, shape (size,); the same on every rank."""
        if not self.shuffle:
            return np.arange(self.size)
        return np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.size)

    def bounds(self, step: int) -> tuple[int, int]:
        """Half-open range of positions in the plan that all ranks together take in an optimiser step."""
        whole = self.global_batch
        uneven = 0 if self.size % whole == 0 else min(2, self.steps)
        full = self.steps - uneven
        if step < full:
            return step * whole, (step + 1) * whole
        rest = self.size - full * whole
        return tuple(full * whole + rest * (step - full + k) // uneven for k in (0, 1))  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Slots]:
        return self.from_step(0)

    def from_step(self, start: int) -> Iterator[Slots]:
        """This rank's batches of the present epoch from its micro-batch `start` on."""
        # Bound now, not at the first `next`: workers fetch ahead, and the epoch may be set for the next pass meanwhile.
        return self._batches(self.plan(self.epoch), self.epoch, start)

    def _batches(self, plan: NDArray[np.int64], epoch: int, start: int) -> Iterator[Slots]:
        cells = self.accumulate * self.world_size
        for batch in range(start, len(self)):
            step, part = divmod(batch, self.accumulate)
            first, last = self.bounds(step)
            cell = part * self.world_size + self.rank
            low, high = (first + (last - first) * (cell + k) // cells for k in (0, 1))
            if low == high:
                yield Slots(plan[[cell % self.size]], epoch, filler=True)
            else:
                yield Slots(plan[low:high], epoch)
