"""A sized DataLoader that goes on in mid-epoch where its checkpoint stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from emo_lightning.data.sampler import EpochBatches, Slot


def check_counts(**found: int | None) -> None:
    """Refuse numbers of samples, batches or processes that mean nothing, by the name of their config key below `data`.

    Args:
        **found: key -> value; None means "not set". `num_workers` and `seed` may be 0, all others are at least 1.

    Raises:
        ValueError: names the key, the value and what is allowed.
    """
    for name, value in found.items():
        least = 0 if name in ("num_workers", "seed") else 1
        if value is not None and value < least:
            msg = f"data.{name}: found {value}; expected at least {least}"
            raise ValueError(msg)


class _FromStep:
    """The batch sampler that the DataLoader sees: the epoch's batches from a given step on."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches
        self.start = 0

    def __iter__(self) -> Iterator[list[Slot]]:
        return self.batches.from_step(self.start)

    def __len__(self) -> int:
        return len(self.batches)


class ResumableLoader(DataLoader[Any]):
    """Batches of a map dataset (indexed by `Slot`) in the order of an `EpochBatches`, with Lightning's loader state.

    `state_dict` counts the batches handed to the loop, not those that workers have fetched ahead; it is the same on all
    ranks, as Lightning saves rank 0's and gives it to every rank. After `load_state_dict` the next iteration begins with
    exactly the next batch.

    Lightning (2.6) calls `iter` on a loader *before* it tells it the epoch when a run resumes at the end of one. So nothing
    is fetched before the first `next`, and only then the epoch and the position are read.

    The loader draws nothing from the global random state. A dataset that augments must draw from (seed, epoch, row) itself.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batches: EpochBatches,
        *,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        **options: Any,
    ) -> None:
        """Args:
        dataset: `dataset[Slot]` gives one sample.
        batches: order, batch size and rank.
        num_workers: processes that fetch ahead; 0 fetches in this one.
        collate_fn: list of samples to batch.
        **options: further keywords of `DataLoader`, but not those that choose samples (`shuffle`, `sampler` …).
        """
        self._from_step = _FromStep(batches)
        super().__init__(
            dataset,
            batch_sampler=self._from_step,
            num_workers=num_workers,
            collate_fn=collate_fn,
            generator=torch.Generator(),
            **options,
        )
        self.batches = batches
        # Lightning looks for `set_epoch` here, and under DDP replaces what is not a DistributedSampler.
        self.__dict__["sampler"] = batches
        self._position = 0
        self._resume: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return self._run()

    def _run(self) -> Iterator[Any]:
        epoch = self.batches.epoch
        start = self._resume[1] if self._resume is not None and self._resume[0] == epoch else 0
        self._resume = None
        self._position = start
        self._from_step.start = start
        # Seeds of the workers: by the epoch, not by the global random state, which must go on as if there were no loader.
        self.generator.manual_seed((self.batches.seed * 1_000_003 + epoch) % 2**63)
        for batch in super().__iter__():
            self._position += 1
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration. Lightning does this by itself."""
        self.batches.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batches handed out in it, and what the order depends on."""
        # Until the first batch after a load, the place is the loaded one.
        epoch, position = self._resume if self._resume is not None else (self.batches.epoch, self._position)
        return {"epoch": epoch, "position": position, **self._order_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at a saved place.

        Raises:
            ValueError: the saved order is another one: size, batch size, world size, seed or shuffling differ.
        """
        for key, value in self._order_state().items():
            if state_dict.get(key) != value:
                msg = (
                    f"the checkpoint's loader state has {key} {state_dict.get(key)!r}, this run has {value!r}: a mid-epoch "
                    "position means nothing in another order; use the same value, or start from an epoch's end"
                )
                raise ValueError(msg)
        self._resume = (int(state_dict["epoch"]), int(state_dict["position"]))
        self.batches.set_epoch(self._resume[0])

    def _order_state(self) -> dict[str, Any]:
        names = ("size", "batch_size", "world_size", "seed", "shuffle")
        return {name: getattr(self.batches, name) for name in names}


def rank_loader(
    trainer: Any,
    dataset: Any,
    batch_size: int,
    *,
    seed: int,
    shuffle: bool,
    collate_fn: Callable[[list[Any]], Any],
    num_workers: int = 0,
) -> ResumableLoader:
    """This rank's share of a dataset.

    Args:
        trainer: tells rank and world size; None is one process alone.
        dataset: `dataset[Slot]` gives one sample.
        batch_size: samples per rank and step.
        seed: of the order.
        shuffle: False keeps the dataset's order.
        collate_fn: list of samples to batch.
        num_workers: processes that fetch ahead.
    """
    rank, world_size = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
    batches = EpochBatches(len(dataset), batch_size, seed=seed, rank=rank, world_size=world_size, shuffle=shuffle)
    return ResumableLoader(dataset, batches, num_workers=num_workers, collate_fn=collate_fn)
