"""The benchmarks of reading run, agree on what was read, and write their ratio."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["explain", "features", "index", "loader", "published_replies", "remote", "serve"])
def test_a_quick_run_writes_its_ratio(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--quick", "--json", str(tmp_path / "found.json")])
    importlib.import_module(f"benchmarks.{name}").main()
    assert json.loads((tmp_path / "found.json").read_text())["ratio"] > 0


def test_released_replies_give_the_values_that_were_printed(tmp_path: Path) -> None:
    """In the authors' layout: a question that they call invalid is in no value; what cannot be read, or has nothing to be held against, is named."""
    ours = importlib.import_module("benchmarks.published_replies")
    (tmp_path / "m").mkdir()
    tables = ours.make(tmp_path / "m")
    (tmp_path / "EEmo-Bench(gpt-4o-pair).json").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "EEmo-Bench(nobody-pair).json").write_text("[]")
    found = ours.compare(tmp_path, {**tables, "GPT-4o": {"pair-yes-no": 64.41}})
    assert (found["ratio"], found["values"], found["largest_difference"]) == (1, 3, 0)
    assert set(found["agreement"]["made up"].values()) == {100.0}
    assert len(found["not_read"]) == 2
    assert "EEmo-Bench(gpt-4o-pair).json" in found["not_read"][0]
    assert found["not_read"][1] == "nobody: no values are published"
    tables["made up"]["pair-yes-no"] += 0.02
    assert ours.compare(tmp_path, tables)["ratio"] == 2 / 3


def test_goals_of_runs_are_measured_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cheapest; the others take minutes, and what of them is fast is tests elsewhere, which each line names."""
    monkeypatch.setattr(sys, "argv", ["runs", "--quick", "--only", "shuffle", "--json", str(tmp_path / "found.json")])
    for name in ("WANDB_MODE", "OMP_NUM_THREADS", "EMO_CACHE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # it sets them
    runs = importlib.import_module("benchmarks.runs")
    runs.main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["ratio"], [line["goal"] for line in found["lines"]]) == (1.0, ["9", "9"])
    assert "2 of 2 lines hold" in capsys.readouterr().out
    # The ten goals and the eleven faults, each with tests that are there.
    assert {number for number, _ in runs.GOALS.values()} >= {str(number) for number in range(1, 11)}
    assert {f"R{number}" for number in range(1, 12)} <= runs.faults.FAULTS.keys()
    root = Path(__file__).parents[1]
    named = " ".join(path.read_text(encoding="utf-8") for path in root.glob("benchmarks/run_goals/*.py"))
    tests = set(re.findall(r"tests/[\w/]+\.py(?:::\w+)?", named))
    assert len(tests) > 20
    for path, _, test in (one.partition("::") for one in tests):
        assert f"def {test}(" in (root / path).read_text(encoding="utf-8") or not test, (path, test)
