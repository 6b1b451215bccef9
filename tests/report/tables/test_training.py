"""The lines of what was trained, and how fast."""

from __future__ import annotations

from pathlib import Path

import pytest

from emo_lightning.report.run_folder import StageFolder
from emo_lightning.report.tables.training import answered_rows, answered_table, speed_row, speed_table, training_row

FOUND = {"devices": 2, "steps": 30, "trained_parameters": 7, "seed": 1, "images": {"train": 40, "val": 8}}


def stage(data: object, accumulate: object) -> StageFolder:
    settings = {"data": data, "trainer": {"accumulate_grad_batches": accumulate}}
    return StageFolder("a", Path("a"), settings=settings)


def test_a_batch_is_counted_in_images_or_tokens() -> None:
    def batch(data: dict[str, int | None], accumulate: int | None = 3) -> object:
        return training_row(stage(data, accumulate), FOUND)[5]

    assert batch({"batch_size": 4}) == 24
    assert batch({"batch_size": 4}, None) == 8
    assert batch({"max_tokens": 4096}) == "24,576 tokens"
    assert batch({"batch_size": 8, "max_tokens": None, "global_tokens": None}) == 48
    assert batch({"max_tokens": 4096, "global_tokens": 65536}, None) == "65,536 tokens"
    assert batch({}) is None
    assert training_row(stage(["a"], "b"), FOUND)[5] is None, "settings of a stranger"
    cut = {"devices": 1, "step": {"ranks": 1, "accumulate": 6, "rows": 4}}
    assert training_row(stage({"batch_size": 4}, 3), FOUND | cut)[5] == 24, "as on the two devices that it was begun with"


def test_what_rewards_gained_is_shown_set_by_set() -> None:
    assert answered_rows("round3", FOUND) == []
    answered = {
        "val": {"accuracy": 0.5, "gain": 0.1, "zero_shot_gain": 0.25, "over_constant": 0.375, "labels": 0.9},
        "other": {"accuracy": 0.25, "gain": 0.0, "over_constant": 0.125, "labels": 0.9},
    }
    rows = answered_rows("round3", {**FOUND, "answered": answered})
    assert rows == [["round3, val", 50, pytest.approx(10), 25, 37.5], ["round3, other", 25, 0, None, 12.5]]
    assert [column.key for column in answered_table(rows, []).columns][2:4] == ["gain", "zero_shot_gain"]


def test_speed_is_shown_where_it_was_logged() -> None:
    assert speed_row("head", FOUND) is None
    perf = {"tokens_per_s": 1234.4, "images_per_s": 5.5, "fill": 0.98, "data_wait": 0.012}
    row = speed_row("round1", {**FOUND, "perf": perf})
    assert row == ["round1", 1234, 5.5, None, 98.0, 1.2, None]
    assert len(speed_table([row], []).columns) == len(row)
