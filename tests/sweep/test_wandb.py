"""A sweep on W&B: the words that its agent passes on, a run's metrics in its file, and no server in one clear line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from emo_lightning.cli import main
from emo_lightning.core.errors import InputError
from emo_lightning.experiment.files import ROOT
from emo_lightning.sweep.config import SWEEP_COMMAND
from emo_lightning.sweep.parameters import SweepError
from emo_lightning.sweep.remote import parse_trial, trial
from tests.report.test_wandb import written

SWEEP = str(ROOT / "experiments/sweeps/pooling.yaml")
PROGRAM = str(ROOT / "experiments/ablate_head.yaml")
VALUES: dict[str, Any] = {
    "vars.lr": 1e-05,
    "des.model.head.des_dim": None,
    "vars.x": [1, None],
    "a.b": {"c": 0.5},
    "d.e": True,
    "f.g": "none",
}


@pytest.mark.parametrize("macro", ["args_json", "args"])
def test_what_the_agent_passes_on_is_what_was_meant(macro: str) -> None:
    """By wandb's own code for its agent's command line."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    macros = create_sweep_command_args({"args": {key: {"value": value} for key, value in VALUES.items()}})
    program, values = parse_trial([PROGRAM, *macros[macro]])
    assert program == Path(PROGRAM)
    if macro == "args_json":
        assert values == VALUES
    else:
        # Why our files do not use it.
        assert values != VALUES
        assert values["des.model.head.des_dim"] is None


def test_the_command_of_the_files_is_ours() -> None:
    files = list((ROOT / "experiments/sweeps").glob("*.yaml"))
    assert {tuple(yaml.safe_load(path.read_text())["command"]) for path in files} == {tuple(SWEEP_COMMAND)}


def test_trial_refuses_what_it_does_not_understand(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in {
        ("nothing.yaml", "{}"): "expected one experiment that is there, found nothing.yaml",
        (PROGRAM, "{"): "not JSON",
        (PROGRAM, "--a"): "expected --KEY=VALUE",
    }.items():
        assert main(["sweep", "--trial", *words]) == 2
        assert said in capsys.readouterr().err


class Kept:
    """Where a trial's metrics go, in the place of W&B's run."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.code: int | None = None

    def log(self, metrics: dict[str, float]) -> None:
        """As wandb.Run.log."""
        self.metrics |= metrics

    def finish(self, exit_code: int) -> None:
        """As wandb.Run.finish."""
        self.code = exit_code


@pytest.mark.parametrize(
    "word",
    [
        "--allow-classes=planted",
        '{"allow-classes": "planted"}',
        '{"allow-classes=planted,": ""}',
        '{"allow_classes": "planted"}',
        '{"runs": "/tmp/x"}',
        '{"runs=/tmp/x#": 1}',
        '{"name": "x"}',
        '{"only": "x"}',
        "--debug=1",
        "--print_config=1",
        '{"": 1}',
        '{"-help": 1}',
        '{"vars.seed=1 --runs": 1}',
        '{"vars..seed": 1}',
        '{"a": 1, "a": 2}',
        "--vars.seed",
        "--vars.seed=[1",
        "{",
    ],
)
def test_a_server_sets_settings_alone(word: str) -> None:
    with pytest.raises(SweepError, match=r"^--trial"):
        parse_trial([PROGRAM, word])


@pytest.mark.slow
def test_a_failed_run_is_a_failed_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    (tmp_path / "e.yaml").write_text("stages: {m: {run: bundle, backbone: a, head: b}}\n")
    kept = Kept()
    assert trial(["e.yaml", json.dumps({"m.hed": 1})], lambda: kept) == 2
    assert kept.code == 2
    assert "unknown key hed; did you mean head?" in capfd.readouterr().err
    assert not kept.metrics


def test_a_trial_that_failed_has_no_metric(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though a stage of it has logged some."""
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    good = (swept / "small.yaml").read_text()
    tree = yaml.safe_load(good)
    tree["stages"]["more"] = tree["stages"]["des"] | {"model": {"head": {"num_heads": 3}}}
    (swept / "small.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    kept = Kept()
    assert trial(["small.yaml", '{"vars.seed": 1}'], lambda: kept) not in (0, None)
    assert json.loads((swept / "runs/sweep-trial/r1/des/stage.json").read_text())["status"] == "complete"
    assert kept.code not in (0, None)
    assert not kept.metrics
    (swept / "small.yaml").write_text(good)
    assert trial(["small.yaml", '{"vars.seed": 1}'], lambda: kept) == 0
    assert kept.code == 0
    assert kept.metrics["des/val/accuracy"] >= 0


def test_a_trial_whose_metrics_cannot_be_read_is_finished_as_failed(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    kept = Kept()
    assert trial(["small.yaml", '{"vars.seed": 1}'], lambda: kept) == 0
    (swept / "runs/sweep-trial/r1/des/damaged.json").write_text("{")
    kept = Kept()
    with pytest.raises(InputError, match=r"r1/des/damaged\.json"):
        trial(["small.yaml", '{"vars.seed": 1}'], lambda: kept)
    assert kept.code == 1
    assert not kept.metrics


@pytest.mark.slow
def test_the_agent_starts_a_trial_that_writes_its_figures_into_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's own agent starts what the shipped file's `command` says, as if its server had sent a run; the real client, offline."""
    from wandb.wandb_agent import Agent

    features = tmp_path / "features"
    import torch

    from emo_lightning.data.features import FeatureWriter
    from emo_lightning.data.supervision import Supervision

    for split in ("train", "val", "test"):
        with FeatureWriter(features / split, 4, 16, torch.float32, "toy") as writer:
            for i in range(16):
                writer.append(
                    f"{split}-{i:02}",
                    torch.randn(4, 3, 16),
                    Supervision([1.0 if c == i % 8 else 0.0 for c in range(8)], i % 8, 5.0),
                )
    values = {"vars.features": str(features), "vars.epochs": 1, "probe.trainer.max_epochs": 1, "trainer.accelerator": "cpu"}
    monkeypatch.chdir(tmp_path)
    # The agent sets some of these itself: what is set here before is put back after the test.
    for key, value in {
        "WANDB_MODE": "offline",
        "WANDB_SWEEP_ID": "abc",
        "WANDB_RUN_ID": "",
        "WANDB_SWEEP_PARAM_PATH": "",
        "WANDB_DIR": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(key, value)
    agent = Agent(api=None, queue=None, sweep_id="abc")
    agent._sweep_command = yaml.safe_load(Path(SWEEP).read_text(encoding="utf-8"))["command"]
    given = {key: {"value": value} for key, value in (values | {"des.model.head.pooling": "mean"}).items()}
    agent._command_run({"type": "run", "run_id": "r1", "program": PROGRAM, "args": given})
    assert agent._run_processes["r1"].wait() == 0
    config = yaml.safe_load((tmp_path / "runs/sweep-abc/r1/des/config.yaml").read_text())
    assert config["model"]["head"]["pooling"] == "mean"
    metrics = json.loads((tmp_path / "runs/sweep-abc/r1/probe/metrics.json").read_text())
    (run,) = tmp_path.glob("wandb/offline-run-*-r1")
    logged = {item.key or "/".join(item.nested_key): item.value_json for row in written(run, "history") for item in row.item}
    assert json.loads(logged["probe/val/accuracy"]) == metrics["val/accuracy"]
    assert [row.exit_code for row in written(run, "exit")] == [0]


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_wandb_switched_off(mode: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert main(["sweep", SWEEP]) == 2
    assert (
        f"error: WANDB_MODE is {mode}, but a sweep on W&B needs its server; unset it, or use --local" in capsys.readouterr().err
    )


def test_no_server_is_one_clear_line_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    import wandb

    # The client reads the environment once in a process; another test may have been first.
    wandb.teardown()
    assert main(["sweep", SWEEP]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: W&B does not answer at http://127.0.0.1:9 (")
    assert error[-1].endswith("--local runs the same file here, without a server")
    assert "Traceback" not in "".join(error)


@pytest.mark.network
def test_a_sweep_on_the_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs an API key (WANDB_API_KEY or `wandb login`): registers, and its agent does one run, which fails for want of features."""
    import wandb

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert main(["sweep", SWEEP, "--count", "1", "--project", "emo-lightning-test", "--vars.features", str(tmp_path)]) == 0
    newest = wandb.Api().runs("emo-lightning-test", order="-created_at")[0]
    assert newest.state in ("failed", "crashed")
    assert newest.config["des.model.head.pooling"] in ("weighted", "mean")
