"""A sweep on this machine runs real experiments: resumed, stopped, counted, and ending in one table and one plot."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from emo_lightning.cli import main
from emo_lightning.core.tables.table import Spread, cell_text
from emo_lightning.data.mapped_parts import write_part
from emo_lightning.experiment.files import ROOT
from emo_lightning.experiment.resolve import load_experiment
from emo_lightning.sweep.config import load_sweep
from emo_lightning.sweep.local import SweepOutcome
from emo_lightning.sweep.records import Run, read_run
from emo_lightning.sweep.results import results_table, settings_of, summary
from tests.patience import PATIENCE
from tests.sweep.conftest import results, write_sweep


def test_a_grid_over_seeds_ends_in_a_table_a_plot_and_commands(swept: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    assert main(["sweep", "s.yaml", "--local", "--jobs", "2", "--des.model.optim.lr", "1.0e-3"]) == 0
    out = capfd.readouterr().out
    found = results(swept)
    assert (found["complete"], found["failed"], found["planned"]) == (4, 0, 4)
    assert [s["rank"] for s in found["settings"]] == [1, 2]
    assert found["settings"][0]["mean"] >= found["settings"][1]["mean"]
    assert all(len(s["runs"]) == 2 and s["std"] is not None for s in found["settings"])
    with Image.open(swept / "runs/s/results.png") as plot:
        assert plot.size[0] > 800
    page = (swept / "runs/s/results.md").read_text()
    assert "| # | accuracy ± std | fusion | runs | seconds |" in page
    rows = list(csv.DictReader((swept / "runs/s/results.csv").read_text().splitlines()))
    assert [float(row["accuracy ± std"]) for row in rows] == [s["mean"] for s in found["settings"]]
    assert "\\toprule" in (swept / "runs/s/results.tex").read_text()
    for run in found["runs"]:
        assert run["command"] in page
        assert run["command"] in out
    # Fixed and swept values reach the run, also through the variables that other keys refer to.
    configs = [yaml.safe_load((swept / "runs/s" / run["name"] / "des/config.yaml").read_text()) for run in found["runs"]]
    for run, config in zip(found["runs"], configs, strict=True):
        assert config["model"]["optim"]["lr"] == 1e-3
        assert config["model"]["head"]["fusion"] == run["values"]["des.model.head.fusion"]
        assert config["seed_everything"] == config["model"]["seed"] == run["values"]["vars.seed"]
    # The command that is shown makes the same run: there is nothing left for it to do.
    assert main(shlex.split(found["runs"][0]["command"])[1:]) == 0
    assert "(complete, skipped)" in capfd.readouterr().out


def test_finished_runs_are_kept_and_a_killed_one_goes_on(swept: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """SIGTERM, as from a scheduler, while the second run is under way."""
    write_sweep(swept, parameters={"des.trainer.max_epochs": {"values": [1, 60]}})
    process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(main(["sweep", "s.yaml", "--local"])))
    process.start()
    slow = next_run(swept, "max_epochs=60")
    # The first checkpoint is written within its epoch, which the kill may still cut short.
    saved: set[int] = set()

    def later() -> bool:
        saved.update(p.stat().st_mtime_ns for p in slow.glob("des/checkpoints/last.ckpt"))
        return len(saved) > 2

    wait_for(later, process)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(90)
    assert process.exitcode == 143
    assert "1 complete, 0 failed, 1 interrupted" in capfd.readouterr().out
    record = read_run(slow)
    assert record is not None
    assert (record.status, record.seconds > 0) == ("running", True)
    # Nothing of it is left running: its directory can be taken at once, and it goes on from its checkpoint.
    (quick,) = swept.glob("runs/s/max_epochs=1-*")
    before = (quick / "sweep.json").stat().st_mtime_ns
    assert main(["sweep", "s.yaml", "--local"]) == 0
    assert "complete, not run again" in capfd.readouterr().out
    assert (quick / "sweep.json").stat().st_mtime_ns == before
    with open(slow / "des/logs/version_1/metrics.csv", encoding="utf-8", newline="") as lines:
        epochs = [int(row["epoch"]) for row in csv.DictReader(lines)]
    assert epochs[0] > 0
    assert epochs[-1] == 59
    after = read_run(slow)
    assert after is not None
    assert (after.status, after.seconds > record.seconds) == ("complete", True)


def next_run(folder: Path, start: str) -> Path:
    """The run's directory, once it is there."""
    wait_for(lambda: list(folder.glob(f"runs/s/{start}-*/des/config.yaml")))
    return next(folder.glob(f"runs/s/{start}-*"))


def wait_for(condition: Callable[[], object], process: BaseProcess | None = None) -> None:
    """Until it holds."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        assert process is None or process.is_alive()
        time.sleep(0.1)


def test_failures_are_counted_shown_and_stop_the_sweep(swept: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_sweep(swept, parameters={"des.model.head.num_heads": {"values": [1, 3, 5, 7]}})
    assert main(["sweep", "s.yaml", "--local", "--max-failures", "2"]) == 1
    found = results(swept)
    assert (found["complete"], found["failed"], found["planned"], len(found["runs"])) == (1, 2, 4, 3)
    assert found["summary"] == "1 complete, 2 failed, 1 not started; stopped: 2 runs in a row failed (--max-failures)"
    out = capfd.readouterr().out
    assert out.count("num_heads is 3; expected a divisor of des_dim 8") == 1
    assert found["summary"] in out
    page = (swept / "runs/s/results.md").read_text()
    assert "num_heads is 5; expected a divisor" in page.split("## Without a result")[1]


def test_another_experiment_under_the_same_name(swept: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_sweep(swept, run_cap=1)
    assert main(["sweep", "s.yaml", "--local"]) == 0
    tree = yaml.safe_load((swept / "small.yaml").read_text())
    tree["stages"]["des"]["data"]["batch_size"] = 8
    (swept / "small.yaml").write_text(yaml.safe_dump(tree))
    assert main(["sweep", "s.yaml", "--local"]) == 2
    assert "was made when small.yaml was another; choose another --name" in capfd.readouterr().err


def test_other_features_under_the_same_name(swept: Path, features: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A finished run is finished on what its inputs hold, not on what they are called."""
    own = swept / "own"
    shutil.copytree(features, own)
    write_sweep(swept, parameters={"vars.features": {"value": str(own)}, "vars.seed": {"values": [0]}})
    assert main(["sweep", "s.yaml", "--local"]) == 0
    assert main(["sweep", "s.yaml", "--local"]) == 0
    assert "(complete, not run again)" in capfd.readouterr().out
    (part,) = own.glob("val/part-*.safetensors")
    tensors = load_file(part)
    with safe_open(part, "pt") as file:
        header = file.metadata()
    tensors["emotion"] = (tensors["emotion"] + 1) % 8
    (kind,) = [key for key, text in header.items() if text.startswith("{")]
    write_part(part, kind, json.loads(header[kind]), tensors)
    assert main(["sweep", "s.yaml", "--local"]) == 2
    assert "was made from other content of data.val" in capfd.readouterr().err
    # What is gone is made again.
    (run,) = (swept / "runs/s").glob("*/des")
    shutil.rmtree(run)
    assert main(["sweep", "s.yaml", "--local"]) == 0
    assert (run / "stage.json").exists()


def test_a_value_that_no_run_can_take_stops_before_the_first(swept: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_sweep(swept, method="random")
    assert main(["sweep", "s.yaml", "--local"]) == 2
    assert "has no end of its own; set run_cap in the file, or --count N" in capfd.readouterr().err
    write_sweep(swept, parameters={"des.model.head.fusion": {"values": ["none", "bth"]}})
    assert main(["sweep", "s.yaml", "--local"]) == 2
    assert "found bth; allowed: both, self, queries, none\n" in capfd.readouterr().err
    assert not list(swept.glob("runs/s/*/des"))


def test_features_are_looked_at_before_the_first_run(swept: Path, features: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The paper's 1, 2, 4, 8 layers over features of four."""
    key = "des.model.head.num_layers"
    write_sweep(swept, parameters={key: {"values": [1, 2, 4, 8]}})
    assert main(["sweep", "s.yaml", "--local"]) == 2
    error = capfd.readouterr().err
    assert f"{key} 8: stage 'des': model.head.num_layers is 8, but the features in {features}/train hold 4" in error
    assert f"--{key} '[1, 2, 4]'" in error
    assert main(["sweep", "s.yaml", "--local", "--vars.features", "nowhere"]) == 2
    error = capfd.readouterr().err
    assert "nowhere/train: no finished feature cache" in error
    assert "leave out" not in error
    assert not list(swept.glob("runs/*/*"))
    assert main(["sweep", "s.yaml", "--local", f"--{key}", "[1, 4]"]) == 0
    assert [s["values"] for s in results(swept)["settings"]] in ([{key: 1}, {key: 4}], [{key: 4}, {key: 1}])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["s.yaml", "--local", "--jbos", "2"], "--jbos: no such option; did you mean jobs?"),
        (["s.yaml", "--local", "--jobs", "0"], "--jobs 0: expected at least 1"),
        (["s.yaml", "--local", "--project", "p"], "--project is for W&B; this is --local"),
        (["s.yaml", "--jobs", "2"], "--jobs is for --local; this is W&B"),
        (["s.yaml", "t.yaml", "--local"], "expected one sweep file, found 2"),
        (["--local", "s.yaml", "--count"], "--count needs a value"),
    ],
)
def test_options(words: list[str], said: str, swept: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", *words]) == 2
    assert said in capfd.readouterr().err


def run_of(name: str, metric: float | None, **values: object) -> Run:
    """A run that has ended."""
    return Run(name, values, f"emo run {name}", "complete" if metric is not None else "failed", metric)


def test_settings_are_ordered_by_their_mean_over_seeds(swept: Path) -> None:
    path = write_sweep(
        swept, parameters={"des.model.head.fusion": {"values": ["none", "both"]}, "vars.seed": {"values": [0, 1]}}
    )
    runs = [
        run_of(f"{fusion}{seed}", metric, **{"des.model.head.fusion": fusion, "vars.seed": seed})
        for fusion, seed, metric in [
            ("none", 0, 90.0),
            ("none", 1, 10.0),
            ("both", 0, 60.0),
            ("both", 1, 62.0),
            ("self", 0, None),
        ]
    ]
    best, second = settings_of(load_sweep(path), runs)
    assert (best.values, best.mean, [r.name for r in best.runs]) == (
        {"des.model.head.fusion": "both"},
        61.0,
        ["both1", "both0"],
    )
    assert best.std == pytest.approx(2**0.5)
    assert [r.name for r in second.runs] == ["none0", "none1"]
    low = load_sweep(write_sweep(swept, metric={"name": "des/val/loss"}))
    assert [s.mean for s in settings_of(low, runs)] == [50.0, 61.0]
    assert summary(SweepOutcome(runs, 9)) == "4 complete, 1 failed, 4 not started"


@pytest.mark.parametrize(("metrics", "shown"), [((0.5, 12.0), "0.50"), ((0.0123, 1.0), "0.01230"), ((0.0, 3.0), "0.00")])
def test_small_metrics_keep_their_digits(swept: Path, metrics: tuple[float, float], shown: str) -> None:
    sweep = load_sweep(write_sweep(swept, metric={"name": "des/val/loss"}))
    names = ("none", "both")
    runs = [run_of(n, m, **{"des.model.head.fusion": n, "vars.seed": 0}) for n, m in zip(names, metrics, strict=True)]
    table = results_table(sweep, settings_of(sweep, runs))
    assert table.cell("1", "des/val/loss") == Spread(metrics[0])
    assert table.cell("1", "des.model.head.fusion") == "none"
    assert cell_text(table.cell("1", "des/val/loss"), table.digits) == shown


def test_a_metric_that_is_no_number_is_a_failure() -> None:
    run = run_of("a", 1.0)
    run.finish(0, {"des/val/loss": float("nan")}, "des/val/loss", "")
    assert (run.status, run.metric) == ("failed", None)
    assert "des/val/loss is not finite: nan" in str(run.error)
    # As JSON has it.
    assert run.metrics == {"des/val/loss": None}
    run.finish(0, {}, "des/val/loss", "")
    assert "des/val/loss is not among its metrics" in str(run.error)


def test_overrides_reach_interpolated_keys() -> None:
    """Every variable that a shipped sweep varies changes the resolved stages, and so do those that choose by name."""
    program = ROOT / "experiments/ablate_backbone.yaml"
    chosen = [
        ("vars.lora", "r8"),
        ("vars.targets", "attention"),
        ("vars.parts", "all"),
        ("vars.replay", "half"),
        ("vars.seed", "5"),
    ]
    stages = {stage.name: stage.config for stage in load_experiment(program, chosen).stages}
    assert list(stages) == ["round1", "round2", "features", "des", "probe"]
    for name in ("round1", "round2"):
        backbone = stages[name]["model"]["backbone"]
        assert (backbone["lora"]["rank"], backbone["lora"]["alpha"]) == (8, 16)
        assert "self_attn" in backbone["lora"]["targets"]
        assert (backbone["train_vision"], backbone["train_merger"], backbone["train_language"]) == (True, True, True)
    assert stages["round2"]["data"]["objectives"] == {"emotion": 0.5, "attributes": 0.5}
    assert {stages[name]["seed_everything"] for name in ("round1", "round2", "des", "probe")} == {5}
    assert stages["features"]["model"]["backbone"]["path"] == "runs/ablate-backbone/round2/adapter"


@pytest.mark.slow
def test_bayes_runs_and_goes_on(swept: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    write_sweep(
        swept,
        method="bayes",
        parameters={"des.model.optim.lr": {"min": 1e-4, "max": 1e-1, "distribution": "log_uniform_values"}},
    )
    assert main(["sweep", "s.yaml", "--local", "--count", "3"]) == 0
    first = {run["name"] for run in results(swept)["runs"]}
    capfd.readouterr()
    assert main(["sweep", "s.yaml", "--local", "--count", "5"]) == 0
    assert capfd.readouterr().out.count("(complete, not run again)") == 3
    assert len(list(swept.glob("runs/s/*/des"))) == 5
    found = results(swept)
    assert (found["complete"], found["planned"], found["summary"]) == (5, 5, "5 complete, 0 failed")
    assert first < {run["name"] for run in found["runs"]}
    # What is there is shown, also where nothing is left to do or fewer are asked for.
    for count, planned in ((5, 5), (2, 5)):
        assert main(["sweep", "s.yaml", "--local", "--count", str(count)]) == 0
        out = capfd.readouterr().out
        assert all(run["command"] in out for run in found["runs"])
        assert (results(swept)["complete"], results(swept)["planned"]) == (5, planned)
    # One that has reached the target ends the search.
    tree = yaml.safe_load((swept / "s.yaml").read_text())
    write_sweep(swept, **tree | {"metric": tree["metric"] | {"target": 0.0}})
    assert main(["sweep", "s.yaml", "--local", "--count", "9"]) == 0
    assert results(swept)["summary"] == "5 complete, 0 failed, 4 not started; stopped: metric.target 0.0 is reached"
    # A run outside the bounds that the file has since been given is not learned from.
    write_sweep(
        swept,
        method="bayes",
        parameters={"des.model.optim.lr": {"min": 1e-9, "max": 1e-8, "distribution": "log_uniform_values"}},
    )
    assert main(["sweep", "s.yaml", "--local", "--count", "1"]) == 0
    assert len(list(swept.glob("runs/s/*/des"))) == 6
    assert (results(swept)["complete"], results(swept)["planned"]) == (1, 1)


@pytest.mark.slow
def test_shipped_sweeps_run(
    features: Path, tiny_qwen: Path, world_tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run of each program: the head, the source of features (the model's own answer), and fine-tuning with no round at all."""
    monkeypatch.chdir(tmp_path)
    sets = {f"vars.{split}": f"{world_tars}/*-{split}-*.tar" for split in ("train", "val", "test")}
    short = {"trainer.accelerator": "cpu", "vars.epochs": 1, "probe.trainer.max_epochs": 1, "vars.num_workers": 0}
    tuned = sets | {"features.data.num_workers": 0, "features.model.max_new_tokens": 3, "vars.dtype": "float32"}
    fixed: dict[str, dict[str, Any]] = {
        "pooling": {"vars.features": features},
        "source": tuned | {"vars.backbone": tiny_qwen},
        "rounds": tuned
        | {
            "vars.backbone": tiny_qwen,
            "round1.data.num_workers": 0,
            "round2.data.num_workers": 0,
            "trainer.logger": "false",
            "round1.trainer.callbacks": "[]",
            "round2.trainer.callbacks": "[]",
        },
    }
    changes = {"source": {"vars.source": {"values": ["generated", "prompt"]}}}
    for name, values in fixed.items():
        tree = yaml.safe_load((ROOT / f"experiments/sweeps/{name}.yaml").read_text())
        tree["parameters"] |= changes.get(name, {})
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        words = [word for key, value in (short | values).items() for word in (f"--{key}", str(value))]
        assert main(["sweep", f"{name}.yaml", "--local", "--count", "1", *words]) == 0, name
        found = json.loads((tmp_path / "runs" / tree["name"] / "results.json").read_text())
        assert found["settings"][0]["mean"] >= 0
        assert any(key.startswith("probe/test/") for key in found["runs"][0]["metrics"])
