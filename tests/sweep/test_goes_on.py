"""A sweep that goes on: which runs it knows again, what its results hold, and how it ends where one is refused."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from emo_lightning.cli import main
from emo_lightning.data.mapped_parts import write_part
from emo_lightning.experiment.resolve import load_experiment
from emo_lightning.sweep.config import load_sweep
from emo_lightning.sweep.local import LocalSettings, SweepOutcome, run_local
from emo_lightning.sweep.records import run_name
from emo_lightning.sweep.values import as_text
from tests.patience import gone, wait_until
from tests.sweep.conftest import PROGRAM, results, write_sweep

ONE_SWEEP = ["sweep", "s.yaml", "--local"]
TWO_SEEDS: dict[str, object] = {"vars.seed": {"values": [0, 1]}}


def made(folder: Path) -> dict[str, int]:
    """Folder of each run of a sweep, and when its stage was last started."""
    return {path.parent.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/des/stage.json")}


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Of a sweep's runs, by name."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/sweep.json"))}


def change(split: Path) -> None:
    """Other labels in a feature cache."""
    (part,) = split.glob("part-*.safetensors")
    tensors = load_file(part)
    with safe_open(part, "pt") as file:
        header = file.metadata()
    (kind,) = [key for key, text in header.items() if text.startswith("{")]
    write_part(part, kind, json.loads(header[kind]), tensors | {"emotion": (tensors["emotion"] + 1) % 8})


@pytest.fixture
def own_features(swept: Path, features: Path) -> Path:
    """A copy of the features in the working directory, which the experiment names as a whole path."""
    shutil.copytree(features, swept / "features")
    tree = PROGRAM | {"vars": {"features": str(swept / "features"), "seed": 0}}
    (swept / "small.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return swept / "features"


def noted_as_before(folder: Path) -> None:
    """The records of a sweep as versions before wrote them: with a digest of where the runs and their inputs lay."""
    for name, record in records(folder).items():
        values = [(key, as_text(value)) for key, value in record["values"].items()]
        stages = load_experiment("small.yaml", values, name=name, runs=folder).stages
        digest = hashlib.sha256("".join(stage.digest for stage in stages).encode()).hexdigest()
        (folder / name / "sweep.json").write_text(json.dumps(record | {"digest": digest}))


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [False, True])
def test_a_sweep_is_the_same_wherever_it_lies_and_however_it_is_spelled(
    earlier: bool, own_features: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    swept = own_features.parent
    write_sweep(swept, parameters={"des.model.head.fusion": {"values": ["none", "both"]}, "vars.seed": {"values": [0, 1]}})
    assert main([*ONE_SWEEP, "--vars.seed", "[0]", "--vars.features", str(own_features)]) == 0
    assert main([*ONE_SWEEP, "--vars.seed", "[1]"]) == 0
    if earlier:
        noted_as_before(Path("runs/s"))
    before, best = made(swept / "runs/s"), records(swept / "runs/s")
    assert len(before) == 4
    shutil.copytree("runs", "moved")
    (swept / "link").symlink_to("runs")
    for words, folder, count in (
        ([], "runs", 4),
        (["--runs", str(swept / "runs")], "runs", 4),
        (["--runs", "link"], "link", 4),
        (["--runs", "moved"], "moved", 4),
        (["--vars.features", "features"], "runs", 4),
        (["--des.save_every.minutes", "5"], "runs", 4),
        (["--vars.seed", "[1]"], "runs", 2),
        (["--des.model.head.fusion", "[both]", "--vars.features", "features"], "moved", 2),
    ):
        where = [] if folder == "runs" or "--runs" in words else ["--runs", folder]
        capfd.readouterr()
        assert main([*ONE_SWEEP, *words, *where]) == 0, words
        assert capfd.readouterr().out.count("(complete, not run again)") == count, words
        assert made(swept / folder / "s").keys() == before.keys(), words
        found = json.loads((swept / folder / "s/results.json").read_text())
        assert (found["complete"], found["planned"]) == (count, count)
        assert all(run["metric"] == best[run["name"]]["metric"] for run in found["runs"])
    assert made(swept / "runs/s") == before
    # The command that is shown is one that finds the run as it is now.
    assert all("--runs moved/s " in run["command"] for run in found["runs"])


def test_a_killed_run_goes_on_under_another_spelling(own_features: Path) -> None:
    swept = own_features.parent
    write_sweep(swept, parameters=TWO_SEEDS)
    assert main([*ONE_SWEEP, "--vars.features", str(own_features)]) == 0
    before = made(swept / "runs/s")
    name, record = next(iter(records(swept / "runs/s").items()))
    (swept / "runs/s" / name / "sweep.json").write_text(
        json.dumps(record | {"status": "running", "metric": None, "metrics": {}})
    )
    assert main([*ONE_SWEEP, "--vars.features", "features"]) == 0
    assert made(swept / "runs/s") == before
    after = records(swept / "runs/s")[name]
    assert (after["status"], after["metric"]) == ("complete", record["metric"])
    assert after["values"]["vars.features"] == "features"
    assert after["seconds"] >= record["seconds"]


@pytest.mark.slow
def test_what_differs_is_another_run(own_features: Path) -> None:
    """Inputs of another name that hold something else; and choices of the sweep, though they may compute the same."""
    swept = own_features.parent
    write_sweep(swept, parameters=TWO_SEEDS)
    assert main(ONE_SWEEP) == 0
    shutil.copytree(own_features, swept / "other")
    change(swept / "other/val")
    assert main([*ONE_SWEEP, "--vars.features", "other"]) == 0
    assert len(made(swept / "runs/s")) == 4
    # Each of two names of the same content is a choice of its own, as are two ways of running the same.
    shutil.copytree(own_features, swept / "copy")
    for key, values in {"vars.features": [str(own_features), "copy"], "des.trainer.benchmark": [True, False]}.items():
        write_sweep(swept, name=key, parameters={key: {"values": values}})
        assert main(ONE_SWEEP) == 0
        assert main(ONE_SWEEP) == 0
        assert len(made(swept / "runs" / key)) == 2
        found = json.loads((swept / "runs" / key / "results.json").read_text())
        assert (found["complete"], found["planned"]) == (2, 2)
    # Spelled otherwise, a choice that the sweep no longer has is taken for what it names, and not for another way of running it.
    write_sweep(swept, name="vars.features", parameters={"vars.features": {"values": ["features", "./copy"]}})
    assert main(ONE_SWEEP) == 0
    assert len(made(swept / "runs/vars.features")) == 2
    write_sweep(swept, name="des.trainer.benchmark", parameters={"des.trainer.benchmark": {"values": [None, False]}})
    assert main(ONE_SWEEP) == 0
    assert len(made(swept / "runs/des.trainer.benchmark")) == 3


def test_a_parameter_more_finds_the_runs_of_its_former_value(swept: Path) -> None:
    write_sweep(swept, parameters={"des.model.head.fusion": {"values": ["none", "both"]}})
    assert main(ONE_SWEEP) == 0
    before = made(swept / "runs/s")
    write_sweep(swept)
    assert main(ONE_SWEEP) == 0
    after = made(swept / "runs/s")
    assert len(after) == 4
    assert before.items() < after.items()
    assert results(swept)["complete"] == 4


def test_runs_that_made_nothing_go_on_once_the_experiment_is_mended(swept: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = (swept / "small.yaml").read_text()
    tree = yaml.safe_load(good)
    tree["stages"]["des"]["model"]["head"] = {"num_heads": 3}
    (swept / "small.yaml").write_text(yaml.safe_dump(tree))
    write_sweep(swept, parameters=TWO_SEEDS)
    assert main(ONE_SWEEP) == 1
    failed = made(swept / "runs/s")
    (swept / "small.yaml").write_text(good)
    assert main(ONE_SWEEP) == 0
    assert made(swept / "runs/s").keys() == failed.keys()
    assert results(swept)["complete"] == 2
    # One that was killed has made something, of other settings.
    name, record = next(iter(records(swept / "runs/s").items()))
    (swept / "runs/s" / name / "sweep.json").write_text(json.dumps(record | {"status": "running", "metric": None}))
    tree["stages"]["des"] |= {"model": {"head": {"num_heads": 2}}}
    (swept / "small.yaml").write_text(yaml.safe_dump(tree))
    capfd.readouterr()
    assert main(ONE_SWEEP) == 2
    assert f"runs/s/{name}/des was made with other settings (model.head: None there" in capfd.readouterr().err


def test_another_metric_orders_the_same_runs(swept: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_sweep(swept, parameters=TWO_SEEDS)
    assert main(ONE_SWEEP) == 0
    write_sweep(swept, parameters=TWO_SEEDS, metric={"name": "des/val/loss"})
    capfd.readouterr()
    assert main(ONE_SWEEP) == 0
    assert capfd.readouterr().out.count("(complete, not run again)") == 2
    runs = results(swept)["runs"]
    assert [run["metric"] for run in runs] == sorted(run["metrics"]["des/val/loss"] for run in runs)


@pytest.mark.slow
def test_what_is_finished_is_among_the_results_however_the_sweep_ends(swept: Path) -> None:
    write_sweep(swept, parameters=TWO_SEEDS)
    assert main(ONE_SWEEP) == 0
    # Reached by the first.
    write_sweep(swept, parameters=TWO_SEEDS, metric={"name": "des/val/accuracy", "goal": "maximize", "target": 0.0})
    assert main(ONE_SWEEP) == 0
    assert results(swept)["summary"] == "2 complete, 0 failed; stopped: metric.target 0.0 is reached"
    # The first of a grid fail, and end it.
    key = "des.model.head.num_heads"
    write_sweep(swept, name="t", parameters={key: {"values": [3, 1, 2]}})
    assert main([*ONE_SWEEP, f"--{key}", "[1, 2]"]) == 0
    assert main([*ONE_SWEEP, "--max-failures", "1"]) == 1
    found = json.loads((swept / "runs/t/results.json").read_text())
    assert (found["complete"], found["failed"]) == (2, 1)
    # Tables of an earlier call are not taken for those of one without a result.
    assert main([*ONE_SWEEP, f"--{key}", "[3, 5]"]) == 1
    assert not list((swept / "runs/t").glob("results.[!jm]*"))


def test_a_small_space_has_no_more_runs_than_it_holds(swept: Path) -> None:
    write_sweep(swept, method="random", run_cap=9, parameters=TWO_SEEDS)
    assert main(ONE_SWEEP) == 0
    assert (results(swept)["planned"], results(swept)["summary"]) == (2, "2 complete, 0 failed")


def test_a_finished_run_that_is_damaged_leaves_the_others_in_the_results(
    swept: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_sweep(swept, parameters={"vars.seed": {"values": [0, 1, 2]}})
    assert main([*ONE_SWEEP, "--vars.seed", "[0, 1]"]) == 0
    weights = next(swept.glob("runs/s/seed=0-*/des/head/model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert main([*ONE_SWEEP, "--jobs", "2"]) == 2
    assert f"{weights.relative_to(swept)}: is not what the stage 'des' wrote" in capfd.readouterr().err
    found = results(swept)
    assert (found["complete"], found["summary"]) == (1, "1 complete, 0 failed, 2 not started")


def test_runs_under_way_end_where_one_is_refused(swept: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each value of both parameters is one that the experiment takes; one pair is not."""
    tree = yaml.safe_load((swept / "small.yaml").read_text())
    tree["vars"] |= {"a": "p", "b": "x", "lr": {"p": {"x": 1e-3, "y": 2e-3}, "q": {"x": 3e-3}}}
    tree["stages"]["des"]["model"]["optim"] = {"lr": "${vars.lr.${vars.a}.${vars.b}}"}
    (swept / "small.yaml").write_text(yaml.safe_dump(tree))
    write_sweep(swept, parameters={"vars.a": {"values": ["p", "q"]}, "vars.b": {"values": ["x", "y"]}})
    assert main([*ONE_SWEEP, "--jobs", "4"]) == 2
    assert "vars.lr.q.y" in capfd.readouterr().err
    assert not multiprocessing.active_children()
    found = results(swept)
    assert (found["complete"], found["summary"]) == (3, "3 complete, 0 failed, 1 not started")
    assert {record["status"] for record in records(swept / "runs/s").values()} == {"complete"}


def test_an_error_interrupts_the_runs_under_way(swept: Path) -> None:
    key = "des.trainer.max_epochs"
    path = write_sweep(swept, parameters={key: {"values": [100_000, 1]}})
    (swept / "runs/s").mkdir(parents=True)
    # Where the folder of the second run would be.
    (swept / "runs/s" / run_name(load_sweep(path).varied, {key: 1})).touch()
    assert main([*ONE_SWEEP, "--jobs", "2"]) != 0
    assert not multiprocessing.active_children()
    ((_, record),) = records(swept / "runs/s").items()
    assert (record["status"], record["seconds"] > 0) == ("running", True)
    assert results(swept)["summary"] == "0 complete, 0 failed, 1 interrupted, 1 not started"


def test_a_second_ctrl_c_ends_the_runs_at_once(swept: Path) -> None:
    """Which would otherwise go on without the sweep's lock."""

    def start(_: list[str]) -> int:
        signal.signal(signal.SIGINT, lambda *_: (swept / "asked").touch())
        (swept / "new").write_text(str(os.getpid()))
        (swept / "new").rename(swept / "pid")
        while True:
            signal.pause()

    def sweep() -> None:
        settings = LocalSettings(Path("runs"), "s")
        with pytest.raises(KeyboardInterrupt):
            run_local(load_sweep("s.yaml"), settings, start, SweepOutcome())
        (swept / "ended").write_text(str(gone(int((swept / "pid").read_text()))))

    write_sweep(swept, parameters=TWO_SEEDS)
    process = multiprocessing.get_context("fork").Process(target=sweep)
    process.start()
    wait_until((swept / "pid").exists)
    os.kill(process.pid or 0, signal.SIGINT)
    wait_until((swept / "asked").exists)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join()
    assert (swept / "ended").read_text() == "True"
    ((_, record),) = records(swept / "runs/s").items()
    assert (record["status"], record["seconds"] > 0) == ("running", True)


def test_a_run_whose_metrics_cannot_be_read_has_failed(swept: Path) -> None:
    write_sweep(swept, parameters=TWO_SEEDS)
    assert main(ONE_SWEEP) == 0
    name = next(iter(made(swept / "runs/s")))
    (swept / "runs/s" / name / "des/damaged.json").write_text("{")
    path = swept / "runs/s" / name / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "running", "metric": None}))
    assert main(ONE_SWEEP) == 1
    found = results(swept)
    assert (found["complete"], found["failed"]) == (1, 1)
    assert f"{name}/des/damaged.json" in found["runs"][-1]["error"]
