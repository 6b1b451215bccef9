"""Goal 2: every sample exactly once. Goal 9: how well an order is shuffled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks.run_goals.lines import Given, Line, Tested, tested
from emo_lightning.data.packing import PackedRows
from emo_lightning.data.sampler import EpochBatches
from tests.elastic import cells, exactly_once, exactly_once_by_processes, lengths_of, some_cells


def measure(given: Given) -> Iterator[Line | Tested]:
    """Goal 2."""
    found = [exactly_once(*cell) for cell in cells()]
    yield Line(
        "exactly once: samples × ranks × micro-batches × (samples of a batch or tokens of a row), 3 epochs, fillers flagged",
        f"{sum(found)}/{len(found)} cells",
        all(found) and len(found) == 240,
        "tests/data/test_elastic.py::test_240_cells_have_each_sample_once",
    )
    found = []
    for number, cell in enumerate(some_cells()):
        folder = given.work / f"once-{number}"
        folder.mkdir()
        found.append(exactly_once_by_processes(*cell, folder))
    yield Line(
        "the same by real processes, each rank with none, one or two workers",
        f"{sum(found)}/{len(found)} cells",
        all(found) and len(found) == 12,
        "tests/data/test_elastic.py::test_12_cells_have_each_sample_once_by_real_processes",
    )
    yield tested(
        "real tars, workers and processes: each sample once, order independent of workers",
        "tests/data/test_loader.py",
        "tests/data/test_workers.py",
        "tests/data/test_features.py::test_loader_delivers_every_sample_once",
    )


def shuffled(given: Given) -> Iterator[Line]:
    """Goal 9: of the order in which samples are seen, padded and packed."""
    size = given.count(50_000, 5_000)
    batches = EpochBatches(size, 16, seed=given.seed)
    rows = PackedRows(partial(lengths_of, size), 512, epochs=3, seed=given.seed)
    orders = {
        "batches": [np.array(batches.plan(epoch)) for epoch in range(3)],
        "rows of tokens": [np.array([sample for row in rows.plan(epoch) for sample in row]) for epoch in range(3)],
    }
    for what, epochs in orders.items():
        largest = max(
            *(abs(correlation(np.arange(size), order)) for order in epochs), *(abs(neighbours(order)) for order in epochs)
        )
        between = max(abs(correlation(places(a), places(b))) for a, b in pairwise(epochs))
        entropy = min(mixing(order) for order in epochs)
        bound = 4 / math.sqrt(size)
        yield Line(
            f"shuffle quality, {what} of {size:,} samples",
            f"correlations ≤ {max(largest, between):.4f} (4 σ: {bound:.4f}), entropy {entropy:.4f} of an i.i.d. shuffle",
            max(largest, between) <= bound and entropy >= 0.99,
            "tests/data/test_packing.py::test_a_row_is_a_random_draw",
        )


def correlation(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Of two orders."""
    return float(np.corrcoef(a, b)[0, 1])


def neighbours(order: NDArray[np.int64]) -> float:
    """Of each sample with the next one."""
    return correlation(order[:-1], order[1:])


def places(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each sample stands."""
    found = np.empty_like(order)
    found[order] = np.arange(len(order))
    return found


def mixing(order: NDArray[np.int64], parts: int = 16) -> float:
    """Entropy of the part of the data set that each stretch of the order takes from, as a share of that of an even draw."""
    size = len(order)
    where = np.arange(size) * parts // size
    counts = np.zeros((parts, parts))
    np.add.at(counts, (where, order * parts // size), 1)
    shares = counts / counts.sum(1, keepdims=True)
    return float(np.mean(-(shares * np.log(shares, where=shares > 0, out=np.zeros_like(shares))).sum(1)) / math.log(parts))
