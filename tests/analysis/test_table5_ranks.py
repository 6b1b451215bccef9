"""Table 5 over real gloo ranks with uneven shares: the figures of one process."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from emo_lightning.analysis.table5 import Table5
from emo_lightning.analysis.table5_differences import paired
from emo_lightning.analysis.table5_rows import SCORING_MODES
from tests.metrics.test_bootstrap import sample

SHARES = {1: [(0, 41)], 2: [(0, 30), (30, 41)], 3: [(0, 3), (3, 41), (41, 41)]}
"""World size -> rows of each rank; the last rank of three has none."""


def score(first: int, last: int) -> dict[str, Any]:
    """Two arms over a range of rows, in two batches."""
    records, good = sample(41, 0.7)
    _, bad = sample(41, 0.4, seed=1)
    del bad["img5"], bad["img40"]
    tables = {"good": Table5(resamples=200), "bad": Table5(resamples=200)}
    middle = (first + last) // 2
    for part in (records[first:middle], records[middle:last]):
        for table, said in zip(tables.values(), (good, bad), strict=True):
            table.update([said.get(r.id) for r in part], part)
    found = {name: table.with_replicates() for name, table in tables.items()}
    return {"columns": {name: column for name, (column, _) in found.items()}, "paired": paired(found, "good")}


def rank_main(rank: int, world_size: int, folder: Path) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    (folder / f"{rank}.json").write_text(json.dumps(score(*SHARES[world_size][rank]), allow_nan=False))
    dist.destroy_process_group()
    os._exit(0)


def flat(value: object, at: str = "") -> dict[str, float | str | None]:
    """Every leaf by its path."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{at}/{key}").items()}
    if isinstance(value, list):
        return {k: v for n, inner in enumerate(value) for k, v in flat(inner, f"{at}/{n}").items()}
    assert value is None or isinstance(value, float | int | str)
    return {at: value}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_give_the_figures_of_one_process(world_size: int, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=rank_main, args=(r, world_size, tmp_path)) for r in range(world_size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0] * world_size
    expected = flat(json.loads(json.dumps(score(0, 41))))
    assert len(expected) > 400
    assert all(f"/columns/bad/{mode}/emotion_acc" in expected for mode in SCORING_MODES)
    for rank in range(world_size):
        got = flat(json.loads((tmp_path / f"{rank}.json").read_text()))
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            assert got[key] == (pytest.approx(value, rel=1e-11, abs=1e-11) if isinstance(value, float) else value), key
