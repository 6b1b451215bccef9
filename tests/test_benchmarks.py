"""Benchmarks take `--quick` and `--json`, run, agree on what was done, and write their ratio to a peer that they name."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import random
import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
OTHERS = {"command", "sft_given", "sft_cell", "sft_cell_peers", "sft_counts", "shoot_report"}
"""Files that measure nothing by themselves."""
MEASURE = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem not in OTHERS)


@pytest.mark.parametrize("name", MEASURE)
def test_all_take_the_same_options_and_say_what_they_do(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two of them set it before torch is imported.
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"benchmarks.{name}").main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--quick" in shown
    assert "--json FILE" in shown
    # Nothing of it is an argument by its place, which a misspelt option would become.
    assert "positional arguments" not in shown
    assert f"`{name}.py`" in (BENCHMARKS / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MEASURE)
def test_what_is_written_names_the_peer(name: str) -> None:
    """All of them write by one function, which asks for it."""
    source = (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")
    assert "write_json(" in source
    assert "ArgumentParser(" not in source


def test_a_ratio_of_nothing_is_none(tmp_path: Path) -> None:
    command = importlib.import_module("benchmarks.command")
    command.write_json(tmp_path / "found.json", "a peer", 2.5, {"samples": 3})
    assert json.loads((tmp_path / "found.json").read_text()) == {"ratio": 2.5, "against": "a peer", "samples": 3}
    with pytest.raises(ValueError, match="the ratio to a peer is nan"):
        command.write_json(tmp_path / "found.json", "a peer", float("nan"), {})


@pytest.mark.parametrize("name", ["sft_peers", "sft_3b", "dedup"])
def test_a_peer_that_is_not_there_is_named_before_anything_is_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = importlib.import_module("benchmarks.command")
    # As where nothing was installed.
    monkeypatch.setattr(command, "PEERS", tmp_path / "none")
    monkeypatch.setattr(sys, "path", [one for one in sys.path if not one.endswith(".peers")])
    if importlib.util.find_spec("trl" if name != "dedup" else "imagededup"):
        pytest.skip("the peer is installed beside the project itself")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(sys, "argv", [name, "--quick", "--json", str(tmp_path / "found.json")])
    with pytest.raises(SystemExit, match=r"(?s)is not installed.*uv pip install --target benchmarks/\.peers --no-deps -r"):
        importlib.import_module(f"benchmarks.{name}").main()
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "found.json").exists()


@pytest.mark.parametrize(
    "name",
    [
        "explain",
        "features",
        "index",
        "loader",
        "published_replies",
        "rate_grid",
        "remote",
        "serve",
        "status",
        "table5",
        "throughput",
    ],
)
def test_a_quick_run_writes_its_ratio(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--quick", "--json", str(tmp_path / "found.json")])
    importlib.import_module(f"benchmarks.{name}").main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ratio"] > 0
    assert found["against"]


def test_released_replies_give_the_values_that_were_printed(tmp_path: Path) -> None:
    """In the authors' layout: a question that they call invalid is in no value; what cannot be read, or has nothing to be held against, is named."""
    ours = importlib.import_module("benchmarks.published_replies")
    (tmp_path / "m").mkdir()
    tables = ours.make(tmp_path / "m")
    (tmp_path / "EEmo-Bench(gpt-4o-pair).json").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "EEmo-Bench(nobody-pair).json").write_text("[]")
    ratio, found = ours.compare(tmp_path, {**tables, "GPT-4o": {"pair-yes-no": 64.41}})
    assert (ratio, found["values"], found["largest_difference"]) == (1, 3, 0)
    assert set(found["agreement"]["made up"].values()) == {100.0}
    assert len(found["not_read"]) == 2
    assert "EEmo-Bench(gpt-4o-pair).json" in found["not_read"][0]
    assert found["not_read"][1] == "nobody: no values are published"
    tables["made up"]["pair-yes-no"] += 0.02
    assert ours.compare(tmp_path, tables)[0] == 2 / 3


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


@pytest.mark.parametrize("steps", [4, 5, 8, 9, 16])
def test_every_kill_is_planned_where_a_training_comes_to(steps: int) -> None:
    """A step is killed while it is done, so that the last has the number of steps before it; a save comes after it."""
    kills = importlib.import_module("benchmarks.run_goals.kills")
    for case in kills.FORCED:
        for seed in range(20):
            for kill in kills.kills_of(case, random.Random(seed), steps):
                assert 1 <= kill["step"] <= steps - (kill["event"] == "step"), (case, kill)


@pytest.mark.slow
def test_a_chain_whose_kill_never_hits_fails_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = importlib.import_module("benchmarks.run_goals.kills")
    trainings = importlib.import_module("benchmarks.run_goals.trainings")
    setup = trainings.Setup("auto-1", epochs=1)
    hits = [{"event": "step", "step": 1}, {"event": "start", "step": 0}]
    monkeypatch.setattr(kills, "AIMS", 2)
    monkeypatch.setattr(kills, "kills_of", lambda *_: hits)
    assert kills.chain(tmp_path, setup, "hits", random.Random(0)) == ("", 2, 1)
    # The first hits, the second is planned beyond the end.
    misses = [hits[0], {"event": "step", "step": 1000}]
    monkeypatch.setattr(kills, "kills_of", lambda *_: misses)
    found = kills.chain(tmp_path, setup, "misses", random.Random(0))
    assert found == ("the kill missed: step from step 1000 on of rank 0 in start 2, exit codes [0]; aimed 2 times", 0, 2)
