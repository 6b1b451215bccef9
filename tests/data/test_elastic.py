"""A step holds the same samples however it is shared, and a place in an epoch is one on any number of ranks."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from emo_lightning.core.errors import InputError
from emo_lightning.data.loader import ResumableLoader
from emo_lightning.data.sampler import EpochBatches
from emo_lightning.data.step_cut import ComparisonScope, StepCut, cut_anew
from tests.elastic import (
    LONGEST,
    Made,
    Slots,
    cells,
    exactly_once,
    exactly_once_by_processes,
    random_switches,
    some_cells,
    steps_of,
    whole,
)


def test_200_random_switches() -> None:
    """Of padded and packed trainings, with losses that compare samples and others: the same ordered steps, each sample once an epoch."""
    found = [random_switches(number) for number in range(200)]
    assert [number for number, (same, _) in enumerate(found) if not same] == []
    assert sum(switches for _, switches in found) > 200


def test_240_cells_have_each_sample_once() -> None:
    assert len(list(cells())) == 240
    assert [cell for cell in cells() if not exactly_once(*cell)] == []


def test_12_cells_have_each_sample_once_by_real_processes(tmp_path: Path) -> None:
    some = list(some_cells())
    assert len(some) == 12
    assert {cut.ranks for _, cut, _ in some} == {1, 2, 3, 4}
    for number, (made, cut, workers) in enumerate(some):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert exactly_once_by_processes(made, cut, workers, folder), (made, cut, workers)


def test_a_step_is_shared_evenly_and_in_order() -> None:
    """Micro-batches and ranks are places in one order, so that any number of them holds the same samples, at the end of an epoch too."""
    for size, (ranks, accumulate, rows) in itertools.product((5, 23, 24, 40), [(1, 1, 12), (2, 3, 2), (3, 4, 1), (6, 1, 2)]):
        assert whole(Made(size), StepCut(ranks, accumulate, rows)) == whole(Made(size), StepCut(1, 1, 12))


@pytest.mark.parametrize(
    ("compares", "ranks", "cut"),
    [
        ("nothing", 1, (1, 4, 8)),
        ("nothing", 2, (2, 2, 8)),
        ("nothing", 8, (8, 1, 4)),
        ("nothing", 16, (16, 1, 2)),
        ("rank", 1, (1, 4, 8)),
        ("rank", 4, (4, 1, 8)),
        ("ranks", 1, (1, 2, 16)),
        ("ranks", 16, (16, 2, 1)),
        ("all", 3, (3, 2, 8)),
    ],
)
def test_how_a_step_is_cut_anew(compares: ComparisonScope, ranks: int, cut: tuple[int, int, int]) -> None:
    """Of two ranks with two micro-batches of eight samples: no micro-batch is larger than was asked for but where the loss compares its samples."""
    assert cut_anew(StepCut(2, 2, 8), ranks, compares, 8) == cut
    assert cut_anew(StepCut(*cut), 2, compares, 8) == (2, 2, 8)


@pytest.mark.parametrize(
    ("compares", "ranks", "message"),
    [
        ("nothing", 3, r"trainer\.devices: 3 processes .* begun with 2: 32 samples .* allowed: 1, 2, 4, 8, 16, 32 processes"),
        ("rank", 8, r"4 micro-batches of 8 samples, which the loss compares, .* by 8; allowed: 1, 2, 4 processes"),
        (
            "ranks",
            32,
            r"micro-batches of 16 samples, which the loss compares over all ranks, .* allowed: 1, 2, 4, 8, 16 processes",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(compares: ComparisonScope, ranks: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cut_anew(StepCut(2, 2, 8), ranks, compares, 8)


def test_a_place_within_a_step_is_its_beginning() -> None:
    """The gradients of its first micro-batches are in no checkpoint."""
    loader = ResumableLoader(Slots(), EpochBatches(30, 2, seed=1, accumulate=3), collate_fn=list)
    batches = iter(loader)
    whole_epoch = [next(batches) for _ in range(5)]
    assert loader.state_dict() == {"epoch": 0, "step": 1, "size": 30, "global_batch": 6, "seed": 1, "shuffle": True}
    again = ResumableLoader(Slots(), EpochBatches(30, 2, seed=1, accumulate=3), collate_fn=list)
    again.load_state_dict(loader.state_dict())
    assert [next(iter(again)) for _ in range(1)] == whole_epoch[3:4]


def state_of_version_0_2(made: Made, ranks: int, rows: int, position: int) -> dict[str, Any]:
    """As it stood in its checkpoints; `rows` of a micro-batch, or of a step where they are rows of tokens."""
    plan = {"epoch": 1, "position": position, "world_size": ranks, "size": made.size, "seed": 5}
    if made.tokens is None:
        return {**plan, "batch_size": rows, "shuffle": True}
    identity = made.plan(StepCut(ranks, rows // ranks, 1), 0).identity()
    return {**identity, **plan}


@pytest.mark.parametrize("cut", [StepCut(2, 1, 6), StepCut(1, 2, 6), StepCut(4, 3, 1)])
@pytest.mark.parametrize(("size", "tokens"), [(47, None), (48, None), (47, 2 * LONGEST)])
def test_places_of_version_0_2(cut: StepCut, size: int, tokens: int | None) -> None:
    """Written by two ranks without accumulation; and at every place of theirs the same samples are left."""
    made = Made(size, tokens=tokens)
    before = StepCut(2, 1, 6) if tokens is None else StepCut(2, 3, 1)
    if tokens is not None:
        cut = StepCut(cut.ranks, 6 // cut.ranks, 1) if 6 % cut.ranks == 0 else StepCut(3, 2, 1)
    steps = [step for step, _ in steps_of(made, before, 1)]
    for done in range(len(steps) + 1):
        old = state_of_version_0_2(made, 2, before.whole if tokens else before.rows, done * before.accumulate)
        assert [step for step, _ in steps_of(made, cut, 1, old)] == steps[done:]


def test_a_place_of_version_0_2_that_is_none_now() -> None:
    """It cut the end of an epoch by micro-batches, and not by steps."""
    made, old = Made(47), state_of_version_0_2(Made(47), 1, 6, 7)
    with pytest.raises(InputError, match=r"of version 0\.2 and stands within an optimiser step"):
        next(steps_of(made, StepCut(1, 2, 6), 1, old))
    other = {**state_of_version_0_2(Made(47), 1, 5, 2)}
    with pytest.raises(InputError, match="loader state has global_batch 5, this run has 12"):
        next(steps_of(made, StepCut(1, 2, 6), 1, other))
