"""What a sweep orders its runs by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emo_lightning.core.errors import InputError
from emo_lightning.core.tables.table import Spread, Table, columns
from emo_lightning.report.page import Page, write_page
from emo_lightning.sweep.metrics import run_metrics
from emo_lightning.sweep.parameters import SweepError
from emo_lightning.sweep.records import Run, read_run


def test_a_stage_that_writes_a_page_alone_is_read_by_the_keys_of_its_tables(tmp_path: Path) -> None:
    stage = tmp_path / "ours"
    stage.mkdir()
    (stage / "stage.json").write_text("{}")
    table = Table("ece", "Error", columns("arm", ("ece", "ECE ↓")), [["base", Spread(4.5, 4.0, 5.0)], ["tuned", None]])
    write_page(stage, Page("Ours", tables=[table]))
    assert run_metrics(tmp_path) == {"ours/ece/base/ece": 4.5}
    (stage / "ours.json").write_text(json.dumps({"ece": 4.5}))
    assert run_metrics(tmp_path) == {"ours/ece": 4.5}, "its own JSON says the same, and more"


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "stage.json").write_text("{}")
    (tmp_path / "ours" / "page.json").write_text('{"tables": [{"key": "t", "columns": ["a"], "rows": [[1, 2]]}]}')
    with pytest.raises(InputError, match=r"ours/page\.json: is no page with tables"):
        run_metrics(tmp_path)


def test_a_record_of_a_run_that_is_too_long_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"name":[' + "[]," * 400_000 + "0]}")
    with pytest.raises(SweepError, match=r"sweep\.json: longer than 1,048,576 bytes"):
        read_run(tmp_path)


def test_a_record_made_before_is_read(tmp_path: Path) -> None:
    """It called the metrics of a run `figures`."""
    Run("r", {"a.b": 1}, "emo run", metrics={"probe/test/accuracy": 61.5}).save(tmp_path)
    record = tmp_path / "r/sweep.json"
    record.write_text(record.read_text().replace('"metrics"', '"figures"'))
    run = read_run(tmp_path / "r")
    assert run is not None
    assert run.metrics == {"probe/test/accuracy": 61.5}
