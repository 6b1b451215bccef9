"""Order is a pure function; every sample exactly once; equal steps."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import pytest

from emo_lightning.data.sampler import EpochBatches, Slot


def _epoch(size: int, batch: int, world: int, *, seed: int = 0, epoch: int = 0, shuffle: bool = True) -> list[list[list[Slot]]]:
    """Per rank, the list of batches."""
    ranks = []
    for rank in range(world):
        batches = EpochBatches(size, batch, seed=seed, rank=rank, world_size=world, shuffle=shuffle)
        batches.set_epoch(epoch)
        ranks.append([list(slots) for slots in batches])
        assert len(ranks[-1]) == len(batches)
    return ranks


def test_exactly_once_with_equal_steps_exhaustively() -> None:
    for size, world, batch in itertools.product(range(1, 51), range(1, 6), range(1, 5)):
        ranks = _epoch(size, batch, world)
        assert {len(steps) for steps in ranks} == {-(-size // (batch * world))}
        slots = [slot for steps in ranks for step in steps for slot in step]
        assert sorted(slot.index for slot in slots if not slot.filler) == list(range(size))
        for step in zip(*ranks, strict=True):
            real = [sum(not slot.filler for slot in share) for share in step]
            assert max(real) - min(real) <= 1
            for share, count in zip(step, real, strict=True):
                assert 1 <= len(share) <= batch
                assert len(share) == max(count, 1)  # a filler stands alone
        if batch > 1 and len(ranks[0]) > 1:
            assert not any(slot.filler for slot in slots)


def test_last_two_global_batches_share_evenly() -> None:
    sizes = [[len(step) for step in rank] for rank in _epoch(33, 4, 2)]
    assert sizes == [[4, 4, 4, 2, 2], [4, 4, 4, 2, 3]]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert _epoch(40, 3, 2, seed=5, epoch=7) == _epoch(40, 3, 2, seed=5, epoch=7)
    orders = {tuple(EpochBatches(40, 3, seed=seed).plan(epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    one, two = EpochBatches(40, 3, seed=5), EpochBatches(40, 4, seed=5, rank=1, world_size=2)
    assert (one.plan(2) == two.plan(2)).all()


def test_ranks_together_take_what_one_process_takes() -> None:
    """The same global batch (2 ranks x 2 = 1 rank x 4) holds the same samples at every step."""
    one = _epoch(37, 4, 1)[0]
    two = _epoch(37, 2, 2)
    assert one == [[*a, *b] for a, b in zip(*two, strict=True)]


def test_no_shuffle_keeps_the_order() -> None:
    assert [slot.index for step in _epoch(10, 4, 1, shuffle=False)[0] for slot in step] == list(range(10))


def test_from_step_is_the_tail_and_pickles() -> None:
    batches = EpochBatches(23, 3, seed=1)
    batches.set_epoch(4)
    whole = list(batches)
    for start in range(len(whole) + 1):
        assert list(pickle.loads(pickle.dumps(batches)).from_step(start)) == whole[start:]


def test_slots_know_their_epoch() -> None:
    batches = EpochBatches(5, 2, seed=0)
    batches.set_epoch(3)
    running = iter(batches)
    batches.set_epoch(4)
    assert {slot.epoch for step in running for slot in step} == {3}


def test_filler_slot() -> None:
    assert _epoch(1, 1, 2, shuffle=False) == [[[Slot(0, True)]], [[Slot(0, False)]]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0, "batch_size": 1}, "no samples"),
        ({"size": 3, "batch_size": 0}, "batch_size 0"),
        ({"size": 3, "batch_size": 1, "rank": 2, "world_size": 2}, "rank 2 of world_size 2"),
        ({"size": 3, "batch_size": 1, "seed": -1}, "seed -1"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpochBatches(**{"seed": 0, **arguments})
