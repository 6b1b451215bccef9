"""Trainings without a model: which samples each optimiser step holds, through kills and changes of the number of ranks.

The plans and loaders are the real ones; what is left out is the Trainer, whose counters `tests/experiment/test_elastic.py` looks at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from emo_lightning.core.errors import InputError
from emo_lightning.data.loader import LoaderState, ResumableLoader
from emo_lightning.data.packing import PackedRows
from emo_lightning.data.sampler import EpochBatches, EpochPlan, Slot
from emo_lightning.data.step_cut import ComparisonScope, StepCut, cut_anew
from tests.ranks import run_each

Step = list[int]
"""Samples of an optimiser step, in the order of its micro-batches and ranks; fillers are none."""
SEED = 5
LONGEST = 90
"""Tokens of a sample."""


class Slots(Dataset[Slot]):
    """Gives the slot itself."""

    def __getitem__(self, slot: Slot) -> Slot:
        return slot


@dataclass(frozen=True)
class Made:
    """What is trained on."""

    size: int
    """Samples."""
    epochs: int = 3
    tokens: int | None = None
    """Of a row; None pads."""

    def plan(self, cut: StepCut, rank: int) -> EpochPlan:
        """Of one rank."""
        if self.tokens is None:
            return EpochBatches(self.size, cut.rows, seed=SEED, rank=rank, world_size=cut.ranks, accumulate=cut.accumulate)
        lengths = partial(lengths_of, self.size)
        together = cut.ranks * cut.accumulate
        return PackedRows(
            lengths, self.tokens, epochs=self.epochs, seed=SEED, rank=rank, world_size=cut.ranks, together=together
        )

    def loaders(self, cut: StepCut) -> list[ResumableLoader[list[Slot]]]:
        """Of all ranks."""
        return [ResumableLoader(Slots(), self.plan(cut, rank), collate_fn=list) for rank in range(cut.ranks)]


def lengths_of(size: int, epoch: int) -> NDArray[np.int64]:
    """Tokens of each sample, other ones in each epoch."""
    return np.random.default_rng([size, epoch]).integers(20, LONGEST + 1, size)


def steps_of(made: Made, cut: StepCut, epoch: int, state: LoaderState | None = None) -> Iterator[tuple[Step, LoaderState]]:
    """The optimiser steps of an epoch, each with the state that a checkpoint after it has; from a state on, if there is one."""
    loaders = made.loaders(cut)
    for loader in loaders:
        if state is not None:
            loader.load_state_dict(state)
        loader.set_epoch(epoch)
    step: Step = []
    for number, batches in enumerate(zip(*loaders, strict=True), 1):
        step += [slot.index for batch in batches for slot in batch if not slot.filler]
        if number % cut.accumulate == 0:
            states = [loader.state_dict() for loader in loaders]
            assert all(one == states[0] for one in states), "every rank says the same"
            yield step, states[0]
            step = []
    assert not step, "an epoch is whole steps"


def whole(made: Made, cut: StepCut) -> list[tuple[int, Step]]:
    """(epoch, step) of a training that nothing interrupts."""
    return [(epoch, step) for epoch in range(made.epochs) for step, _ in steps_of(made, cut, epoch)]


def switching(
    made: Made, cut: StepCut, compares: ComparisonScope, most_rows: int, draw: np.random.Generator
) -> tuple[list[tuple[int, Step]], list[StepCut]]:
    """The same, killed every few steps, each time to go on with another number of ranks; and how steps were cut meanwhile."""
    done: list[tuple[int, Step]] = []
    cuts, epoch, state = [cut], 0, None
    while epoch < made.epochs:
        left = int(draw.integers(1, 5))
        for step, after in steps_of(made, cuts[-1], epoch, state):
            done.append((epoch, step))
            state = after
            left -= 1
            if not left:
                break
        else:
            epoch, state = epoch + 1, None
            continue
        ranks = [n for n in range(1, 9) if _fits(cuts[-1], n, compares, most_rows)]
        cuts.append(cut_anew(cuts[-1], int(draw.choice(ranks)), compares, most_rows))
    return done, cuts


def _fits(cut: StepCut, ranks: int, compares: ComparisonScope, most_rows: int) -> bool:
    try:
        cut_anew(cut, ranks, compares, most_rows)
    except InputError:
        return False
    return True


def random_switches(number: int) -> tuple[bool, int]:
    """Draw a training and its kills by a number: whether every step holds the same samples in the same order, and how often it switched."""
    draw = np.random.default_rng(number)
    packed = bool(number % 2)
    made = Made(int(draw.integers(1, 70)), epochs=2, tokens=int(draw.integers(LONGEST, 400)) if packed else None)
    compares: ComparisonScope = "nothing" if packed else ("nothing", "rank", "ranks")[number // 2 % 3]
    rows = 1 if packed else int(draw.integers(1, 7))
    cut = StepCut(int(draw.integers(1, 5)), int(draw.integers(1, 4)), rows)
    done, cuts = switching(made, cut, compares, rows, draw)
    once = all(
        sorted(sample for at, step in done if at == epoch for sample in step) == list(range(made.size))
        for epoch in range(made.epochs)
    )
    same = all(one.whole == cut.whole for one in cuts)
    return once and same and done == whole(made, cut), sum(a.ranks != b.ranks for a, b in pairwise(cuts))


def cells() -> Iterator[tuple[Made, StepCut]]:
    """240 trainings: samples × ranks × micro-batches × samples of a micro-batch, or tokens of a row."""
    for size in (1, 7, 24, 61):
        for ranks in (1, 2, 3, 4):
            for accumulate in (1, 2, 3):
                for rows in (1, 3, 8):
                    yield Made(size), StepCut(ranks, accumulate, rows)
                for tokens in (LONGEST, 256):
                    yield Made(size, tokens=tokens), StepCut(ranks, accumulate, 1)


def exactly_once(made: Made, cut: StepCut) -> bool:
    """Whether every epoch has each sample once over all ranks, in as many batches on each, with fillers flagged and alone."""
    plans = [made.plan(cut, rank) for rank in range(cut.ranks)]
    epochs = []
    for epoch in range(made.epochs):
        for plan in plans:
            plan.set_epoch(epoch)
        epochs.append([list(plan.from_step(0)) for plan in plans])
    return _each_once(made, cut, epochs)


def _each_once(made: Made, cut: StepCut, epochs: Sequence[Sequence[Sequence[Sequence[Slot]]]]) -> bool:
    """Of the batches of each rank of each epoch."""
    for batches in epochs:
        slots = [slot for each in batches for batch in each for slot in batch]
        if (
            {len(each) for each in batches} != {len(batches[0])}
            or len(batches[0]) % cut.accumulate
            or sorted(slot.index for slot in slots if not slot.filler) != list(range(made.size))
            or any(not batch or (len(batch) > 1 and any(s.filler for s in batch)) for each in batches for batch in each)
        ):
            return False
    return len(epochs) == made.epochs


def some_cells() -> Iterator[tuple[Made, StepCut, int]]:
    """Twelve of `cells`, of all sizes, numbers of ranks and ways to batch, and with how many workers."""
    for number, (made, cut) in enumerate(islice(cells(), 12, None, 19)):
        yield made, cut, number % 3


def exactly_once_by_processes(made: Made, cut: StepCut, workers: int, folder: Path) -> bool:
    """As `exactly_once`, where each rank is a process with a loader and its workers.

    Args:
        made: what is trained on.
        cut: how steps are shared.
        workers: processes of each rank that read ahead.
        folder: for what the ranks have seen.
    """

    def rank_reads() -> None:
        rank = int(os.environ["RANK"])
        many: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": 2} if workers else {}
        loader = ResumableLoader(Slots(), made.plan(cut, rank), collate_fn=list, num_workers=workers, **many)
        epochs = []
        for epoch in range(made.epochs):
            loader.set_epoch(epoch)
            epochs.append([[(slot.index, slot.filler) for slot in batch] for batch in loader])
        (folder / f"{rank}.json").write_text(json.dumps(epochs), encoding="ascii")

    run_each(rank_reads, [{"RANK": rank} for rank in range(cut.ranks)])
    seen = [json.loads((folder / f"{rank}.json").read_text(encoding="ascii")) for rank in range(cut.ranks)]
    epochs = [
        [[[Slot(*slot) for slot in batch] for batch in of_rank[epoch]] for of_rank in seen] for epoch in range(made.epochs)
    ]
    return _each_once(made, cut, epochs)
