"""A sized DataLoader that goes on in mid-epoch where its checkpoint stopped."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, Literal, TypeVar, cast

import torch
from torch.utils.data import DataLoader, Dataset

from emo_lightning.core.errors import InputError
from emo_lightning.data.older_places import of_older_release
from emo_lightning.data.sampler import EpochPlan, PlanIdentity, Slot
from emo_lightning.data.workers import end_with_parent, started_safely

SampleT_co = TypeVar("SampleT_co", covariant=True)
SampleT = TypeVar("SampleT")
BatchT_co = TypeVar("BatchT_co", covariant=True)


_END = object()
_LOOKAHEAD = 256
"""Samples that a process hears of beforehand: of photographs some tens of megabytes."""


class SlotDataset(Dataset[SampleT_co]):
    """A map dataset of known length, indexed by the sampler's `Slot`."""

    def __len__(self) -> int:
        """Samples in it."""
        raise NotImplementedError

    def __getitem__(self, slot: Slot) -> SampleT_co:
        """One sample; a `filler` is marked as such in what is given."""
        raise NotImplementedError

    @property
    def is_far(self) -> bool:
        """Whether samples lie behind a network, so that it helps to know beforehand which ones are asked for next."""
        return False

    def expect(self, numbers: Sequence[int]) -> None:
        """Hear which samples will be asked of this process from now on, in order: those of a batch, and of the next ones."""

    def __getitems__(self, slots: Sequence[Slot]) -> Sequence[SampleT_co]:
        """The samples of a batch: PyTorch asks for them at once."""
        if isinstance(slots, Lookahead):
            self.expect(slots.numbers)
        return [self[slot] for slot in slots]


LoaderState = PlanIdentity
"""A place in training (`epoch`, and `step`: optimiser steps done in it), and what the plan of the epoch depends on. It says nothing of ranks:
the same place on any number of them."""


def check_counts(**found: int | Literal["auto"] | None) -> None:
    """Refuse numbers of samples, batches or processes that mean nothing, by the name of their config key below `data`.

    Args:
        **found: key -> value; None means "not set", `auto` that the program decides. `num_workers` and `seed` may be 0, all others are
            at least 1.

    Raises:
        InputError: names the key, the value and what is allowed.
    """
    for name, value in found.items():
        least = 0 if name in ("num_workers", "seed") else 1
        if value is not None and value != "auto" and value < least:
            msg = f"data.{name}: found {value}; expected at least {least}"
            raise InputError(msg)


class Lookahead(list[Slot]):
    """A batch for a process that hears what it will be asked next.

    Args:
        slots: of the batch.
        numbers: of its samples, and then of those of the next batches for the same process.
    """

    def __init__(self, slots: Sequence[Slot] = (), numbers: Sequence[int] = ()) -> None:
        super().__init__(slots)
        self.numbers = numbers


def with_lookahead(batches: Iterable[Sequence[Slot]], processes: int) -> Iterator[Lookahead]:
    """The same batches for processes that take them in turn.

    Args:
        batches: of an epoch.
        processes: that take them.
    """
    more = iter(batches)
    waiting = deque(islice(more, 1))
    # Batches in rows of tokens differ a little in the number of their samples.
    known = processes * -(-_LOOKAHEAD // len(waiting[0])) if waiting else 0
    while waiting:
        waiting.extend(islice(more, known + 1 - len(waiting)))
        yield Lookahead(waiting[0], [slot.index for batch in islice(waiting, 0, None, processes) for slot in batch])
        waiting.popleft()


class _StepBatches:
    """The batch sampler that the DataLoader sees: the epoch's batches from a given step on.

    Args:
        batches: plan of the epochs.
        processes: that hear what they will be asked next; None if nobody needs to.
    """

    def __init__(self, batches: EpochPlan, processes: int | None) -> None:
        self.batches, self.processes = batches, processes
        self.start = 0

    def __iter__(self) -> Iterator[list[Slot]]:
        batches = self.batches.from_step(self.start)
        # PyTorch hands on whatever it gets.
        return cast(Iterator[list[Slot]], batches) if self.processes is None else with_lookahead(batches, self.processes)

    def __len__(self) -> int:
        return len(self.batches)


class ResumableLoader(DataLoader[object], Generic[BatchT_co]):
    """Batches of a map dataset (indexed by `Slot`) in the order of an `EpochPlan`, with Lightning's loader state.

    `state_dict` counts the optimiser steps whose batches were handed to the loop, not those that workers have fetched ahead; it is the same
    on all ranks, as Lightning saves rank 0's and gives it to every rank, and on any number of them. After `load_state_dict` the next
    iteration begins with exactly the next step; of one that was under way, all of it is done again.

    Lightning (2.6) calls `iter` on a loader *before* it tells it the epoch when a run resumes at the end of one. So nothing
    is fetched before the first `next`, and only then the epoch and the position are read.

    The loader draws nothing from the global random state. A dataset that augments must draw from (seed, epoch, row) itself.
    """

    def __init__(
        self,
        dataset: Dataset[SampleT],
        batches: EpochPlan,
        *,
        collate_fn: Callable[[list[SampleT]], BatchT_co],
        num_workers: int = 0,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
        pin_memory: bool = False,
        seen: Callable[[BatchT_co], None] | None = None,
    ) -> None:
        """Make a loader; nothing is fetched yet.

        Args:
            dataset: `dataset[Slot]` gives one sample.
            batches: plan of the epochs for this rank.
            collate_fn: list of samples to batch.
            num_workers: processes that fetch ahead; 0 fetches in this one.
            persistent_workers: keep these processes from one epoch to the next.
            prefetch_factor: batches that each of them fetches ahead; None is PyTorch's own.
            pin_memory: give tensors in memory that a GPU copies from by itself.
            seen: called with each batch as it is handed out, in this process.
        """
        self._seen = seen
        far = isinstance(dataset, SlotDataset) and dataset.is_far
        self._from_step = _StepBatches(batches, max(1, num_workers) if far else None)
        super().__init__(
            dataset,
            batch_sampler=self._from_step,
            num_workers=num_workers,
            collate_fn=collate_fn,
            generator=torch.Generator(),
            persistent_workers=persistent_workers,
            prefetch_factor=prefetch_factor,
            pin_memory=pin_memory,
        )
        self.batches = batches
        # Lightning looks for `set_epoch` here, and under DDP replaces what is not a DistributedSampler.
        self.__dict__["sampler"] = batches
        self.waited = 0.0
        """Seconds in which the loop waited for batches."""
        self._position = 0
        self._resume: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[BatchT_co]:  # type: ignore[override]  # a plain iterator: Lightning asks for no more
        return self._run()

    def _run(self) -> Iterator[BatchT_co]:
        epoch = self.batches.epoch
        start = self._resume[1] if self._resume is not None and self._resume[0] == epoch else 0
        self._resume = None
        self._position = start
        self._from_step.start = start
        # Seeds of the workers: by the epoch, not by the global random state, which must go on as if there were no loader.
        self.generator.manual_seed((self.batches.seed * 1_000_003 + epoch) % 2**63)
        # The signal of a parent's end is that of the thread which started the worker.
        self.worker_init_fn = end_with_parent if threading.current_thread() is threading.main_thread() else None
        with started_safely():
            batches = super().__iter__()
        while True:
            began = time.perf_counter()
            batch = next(batches, _END)
            self.waited += time.perf_counter() - began
            if batch is _END:
                return
            self._position += 1
            # What `collate_fn` gave.
            found = cast(BatchT_co, batch)
            if self._seen is not None:
                self._seen(found)
            yield found

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration. Lightning does this by itself."""
        self.batches.set_epoch(epoch)

    def state_dict(self) -> LoaderState:
        """Epoch and optimiser steps handed out in it, and what the order depends on."""
        # Until the first batch after a load, the place is the loaded one.
        epoch, position = self._resume if self._resume is not None else (self.batches.epoch, self._position)
        return {"epoch": epoch, "step": position // self.batches.accumulate, **self.batches.identity()}

    def load_state_dict(self, state_dict: LoaderState) -> None:
        """Go on at a saved place.

        Raises:
            InputError: the saved plan is another one: the samples, those of a step or the seed differ.
        """
        state = of_older_release(state_dict, self.batches) if "position" in state_dict else state_dict
        for key, value in self.batches.identity().items():
            if state.get(key) != value:
                msg = (
                    f"the checkpoint's loader state has {key} {state.get(key)!r}, this run has {value!r}: a place in an epoch means "
                    "nothing in another order; use the same value"
                )
                raise InputError(msg)
        self._resume = (int(state["epoch"]), int(state["step"]) * self.batches.accumulate)
        self.batches.set_epoch(self._resume[0])
