"""What waits for a model: batches, order, giving up, failing alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError

import pytest

from emo_lightning.serve.batcher import Batcher
from tests.patience import PATIENCE

LONG = 3600.0
"""Seconds that no test waits: a batch begins because it is full, or because the batcher is closed."""


class Held:
    """Work that notes its batches, and waits where it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, pieces: Sequence[int]) -> list[int]:
        self.batches.append(list(pieces))
        self.begun.set()
        assert self.go_on.wait(PATIENCE)
        if 13 in pieces:
            msg = "thirteen"
            raise ArithmeticError(msg)
        return [10 * piece for piece in pieces]


def test_a_batch_is_full_or_what_came_while_the_model_was_busy() -> None:
    work, worked = Held(), []
    batcher = Batcher(work, 3, LONG, lambda count, seconds: worked.append(count))
    first = [batcher.put(n) for n in range(3)]
    assert work.begun.wait(PATIENCE)
    later = [batcher.put(n) for n in range(3, 8)]
    assert batcher.waiting == 5
    work.go_on.set()
    assert [future.result(PATIENCE) for future in first] == [0, 10, 20]
    batcher.close()
    assert [future.result(PATIENCE) for future in later] == [30, 40, 50, 60, 70]
    assert work.batches == [[0, 1, 2], [3, 4, 5], [6, 7]], "in the order in which they came"
    assert (worked, batcher.waiting, batcher.dropped, batcher.alive) == ([3, 3, 2], 0, 0, False)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.put(1)


def test_what_is_given_up_before_its_turn_is_never_worked_on() -> None:
    work = Held()
    batcher = Batcher(work, 1, 0.0)
    running = batcher.put(1)
    assert work.begun.wait(PATIENCE)
    given_up, kept = batcher.put(2), batcher.put(3)
    assert given_up.cancel()
    assert not running.cancel(), "its turn has come"
    assert (batcher.waiting, batcher.dropped) == (1, 1)
    work.go_on.set()
    batcher.close()
    assert (running.result(), kept.result()) == (10, 30)
    with pytest.raises(CancelledError):
        given_up.result()
    assert work.batches == [[1], [3]]


def test_one_that_fails_fails_alone() -> None:
    work = Held()
    work.go_on.set()
    batcher = Batcher(work, 3, LONG)
    good, bad, other = batcher.put(1), batcher.put(13), batcher.put(2)
    assert (good.result(PATIENCE), other.result(PATIENCE)) == (10, 20)
    with pytest.raises(ArithmeticError, match="thirteen"):
        bad.result(PATIENCE)
    after = [batcher.put(n) for n in (4, 5, 6)]
    assert [future.result(PATIENCE) for future in after] == [40, 50, 60]
    batcher.close()
