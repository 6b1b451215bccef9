"""The benchmark of fine-tuning: a cell is the product's own training, and its counts are those that decide speed on a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.sft_3b import in_a_process, line, ratio_of
from benchmarks.sft_cell import Cell, Place, measure

CELL = Cell("ours", pixels=64, tokens=640, dtype="float32", rank=4, warmup=1, steps=1)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_one_call_of_attention_a_layer_and_no_padding(tiny_qwen: Path, world_tars: Path, tmp_path: Path, tuning: str) -> None:
    place = Place(tiny_qwen, str(world_tars / "*-train-*.tar"), tmp_path, 100.0)
    row = measure(replace(CELL, tuning=tuning, checkpointing="every_2"), place)  # type: ignore[arg-type]  # one of its names
    counts = row["counts"]
    assert isinstance(counts, dict)
    assert counts["calls"] == {"vision": 1.0, "language": 1.0}
    assert row["padding"] == 0.0
    assert isinstance(row["fill"], float)
    # Of six hundred and forty places: few samples do not fill one.
    assert 0.3 < row["fill"] < 1.0
    assert "| 0.0% | 1 + 1 |" in line(CELL, row, None)


def fails() -> dict[str, object]:
    msg = "no room\nfor it"
    raise MemoryError(msg)


def test_what_fails_is_named_and_counts_nowhere() -> None:
    row = in_a_process(fails)
    assert row == {"error": "MemoryError: no room"}
    assert "MemoryError: no room" in line(CELL, row, None)
    peer, full = replace(CELL, side="trl"), replace(CELL, tuning="full")
    rows = {CELL: {"tokens_per_s": 300.0}, peer: {"tokens_per_s": 100.0}, full: row, replace(full, side="trl"): row}
    assert ratio_of(rows) == pytest.approx(3.0)
