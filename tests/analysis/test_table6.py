from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from emo_lightning.analysis.table6 import METRICS, table6
from emo_lightning.core.records import SchemaError
from emo_lightning.core.tables.table import cell_text
from emo_lightning.report.tables.table6 import table6_tables


def probe(folder: Path, value: float, *sets: str) -> Path:
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({f"{s}/{m}": value for s in sets for m in METRICS}))
    return folder


def test_mean_and_std_over_seeds(tmp_path: Path) -> None:
    runs = [probe(tmp_path / f"s{n}", value, "test", "heldout") for n, value in enumerate((60.0, 62.0, 67.0))]
    result = table6({"base": runs, "ours": [probe(tmp_path / "one", 70.0, "test")]})
    summary = result["arms"]["base"]["heldout"]["f1"]
    assert (summary["mean"], summary["std"]) == (63.0, statistics.stdev([60, 62, 67]))
    assert result["arms"]["ours"]["test"]["f1"]["std"] is None
    assert "heldout" not in result["arms"]["ours"]
    assert result["seeds"] == {"base": 3, "ours": 1}
    test, heldout = table6_tables(result)
    assert (test.key, heldout.key) == ("table6-test", "table6-heldout")
    assert cell_text(test.cell("base", "accuracy")) == "63.00 ± 3.61"
    assert [len(table.rows) for table in (test, heldout)] == [2, 1]


def test_a_run_without_metrics(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        table6({"base": [tmp_path]})
    with pytest.raises(SchemaError, match="names no probe run"):
        table6({"base": []})
    (tmp_path / "metrics.json").write_text('{"test/accuracy": "high"}')
    with pytest.raises(SchemaError, match="'test/accuracy': found 'high'"):
        table6({"base": [tmp_path]})
    # Half of the seeds with held-out figures would be a mean over other seeds than the test figures.
    with pytest.raises(SchemaError, match="heldout/accuracy"):
        table6({"base": [probe(tmp_path / "a", 1.0, "test", "heldout"), probe(tmp_path / "b", 1.0, "test")]})
