"""Every shipped experiment really runs, through the command line, on tiny models and a CPU; and run directories keep their books."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import fcntl
import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml

from emo_lightning.cli import main
from emo_lightning.core.checkpoints import read_checkpoint
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import write_text
from emo_lightning.core.terminal import say
from emo_lightning.experiment.classes import ALLOW_CLASSES
from emo_lightning.experiment.files import ROOT, ExperimentError
from emo_lightning.experiment.peers import SILENCE_VARIABLE
from emo_lightning.experiment.resolve import load_experiment
from tests.forked import Forked
from tests.made import write_two_stages
from tests.models.families.tiny_qwen3_vl import build_qwen3_vl
from tests.patience import PATIENCE, gone, wait_until
from tests.ranks import free_port, run_each, slurm_port, slurm_tasks, start_each
from tests.report.test_wandb import written
from tests.test_unchanged import demo_words

CSV = "[{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: '${run.out}', name: logs}}]"
SHORT = {
    "trainer.max_steps": "1",
    "trainer.limit_val_batches": "1",
    "trainer.logger": CSV,
    "trainer.enable_progress_bar": "false",
}

Run = Callable[..., Path]


@pytest.fixture(autouse=True)
def _callbacks_of_this_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `--allow-classes` does for callbacks of one's own."""
    monkeypatch.setenv(ALLOW_CLASSES, "tests")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of all runs of this file: later experiments start from what earlier ones made."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory, world_tars: Path) -> Path:
    """Model folder of a random CLIP."""
    from emo_lightning.models.tiny import words_of
    from emo_lightning.models.tiny_clip import build_clip

    return build_clip(tmp_path_factory.mktemp("clip") / "model", words_of([str(world_tars)]))


@pytest.fixture(scope="module")
def emo_run(runs: Path, world_tars: Path) -> Run:
    """Runs a shipped experiment with the variables it has, set to the session's tars."""
    sets = {split: f"{world_tars}/*-{split}-*.tar" for split in ("train", "val", "test")}

    def run(experiment: str | Path, *options: str, **changes: object) -> Path:
        path = ROOT / "experiments" / f"{experiment}.yaml" if isinstance(experiment, str) else experiment
        words = []
        known = yaml.safe_load(main_output(path))
        for key, value in {**{f"vars.{k}": v for k, v in sets.items() if k in known}, **changes}.items():
            words += [f"--{key}", str(value)]
        assert main(["run", str(path), "--runs", str(runs), *words, *options]) == 0
        name = options[options.index("--name") + 1] if "--name" in options else yaml.safe_load(path.read_text())["name"]
        return runs / name

    return run


def main_output(path: Path) -> str:
    """Variables of an experiment and of those it extends, as YAML."""
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    parents = tree.get("extends") or []
    found = dict(tree.get("vars") or {})
    for parent in [parents] if isinstance(parents, str) else parents:
        found = yaml.safe_load(main_output(path.parent / parent)) | found
    return yaml.safe_dump(found)


def status_of(stage: Path) -> dict[str, Any]:
    """What the runner noted of a stage."""
    return json.loads((stage / "stage.json").read_text())


def weights(folder: Path) -> set[str]:
    """Names of weight files below a folder."""
    return {path.name for path in folder.rglob("*.safetensors")}


# One experiment after another, as a user runs them


@pytest.mark.slow
def test_round1_with_wandb_offline_then_round2_des_and_probe(
    emo_run: Run, tiny_qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As shipped: bf16-mixed, gradient accumulation and checkpointing, W&B offline with sample images."""
    monkeypatch.delenv("WANDB_MODE")
    run = emo_run(
        "round1",
        **{"vars.backbone": tiny_qwen, "data.num_workers": 0, "data.max_tokens": 640, "trainer.max_steps": 1},
        **{"trainer.limit_val_batches": 1, "trainer.val_check_interval": 1, "round1.model.optim.lr": "1e-4"},
    )
    stage = run / "round1"
    assert (stage / "adapter" / "adapter_model.safetensors").exists()
    assert (stage / "checkpoints" / "last.ckpt").exists()
    (told,) = stage.glob("wandb/offline-run-*")
    assert len(list(told.glob("files/media/images/**/*.png"))) > 0
    rows = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in row.item} for row in written(told, "history")
    ]
    logged = list(csv.DictReader((stage / "logs/version_0/metrics.csv").open(encoding="utf-8")))
    losses = [float(row["val/loss"]) for row in logged if row["val/loss"]]
    assert losses
    assert [row["val/loss"] for row in rows if "val/loss" in row] == losses
    assert max(row.get("trainer/global_step", 0) for row in rows) == 1
    assert written(told, "exit")[0].exit_code == 0
    told_settings = {item.key: json.loads(item.value_json) for item in written(told, "run")[0].config.update}
    assert (told_settings["model.optim.lr"], told_settings["data.max_tokens"]) == (1e-4, 640)
    assert (stage / "logs" / "version_0" / "metrics.csv").exists()
    noted = status_of(stage)
    assert (noted["status"], noted["kind"], len(noted["config_sha256"])) == ("complete", "sft", 64)
    assert yaml.safe_load((stage / "config.yaml").read_text())["run"] == "sft"
    assert yaml.safe_load((run / "experiment.yaml").read_text())["stages"]["round1"]["data"]["max_tokens"] == 640

    # Round 2, DES and probe follow.
    short = SHORT | {"data.num_workers": 0}
    adapter = stage / "adapter"
    round2 = emo_run("round2", **{"vars.round1": adapter, "data.max_tokens": 640}, **short)
    backbone = round2 / "round2" / "adapter"
    des = emo_run("des", **{"vars.backbone": backbone}, **short)
    assert (des / "features" / "train").is_dir()
    probe = emo_run("probe", **{"vars.backbone": backbone, "vars.head": des / "des" / "head"}, **short)
    metrics = json.loads((probe / "probe" / "metrics.json").read_text())
    assert metrics
    assert (probe / "probe" / "des.parquet").exists()


def whole(tiny_qwen: Path, tiny_clip: Path) -> dict[str, Any]:
    """Changes that make the paper's recipe small."""
    return SHORT | {
        "vars.backbone": tiny_qwen,
        "vars.clip": tiny_clip,
        "vars.devices": 1,
        "vars.strategy": "auto",
        "vars.num_workers": 0,
        "vars.max_tokens": 640,
        "vars.des_epochs": 1,
        "model.max_new_tokens": 4,
        "panel.count": 1,
    }


def test_workers_in_a_run_folder_with_a_long_path(emo_run: Run, tiny_qwen: Path) -> None:
    """Their sockets stand elsewhere: in the folder of this run their paths would be too long, and the loader would wait for ever."""
    name = "a-name-that-is-long/" + "x" * 100
    changes = {"vars.backbone": tiny_qwen, "features.data.num_workers": 2, **SHORT}
    run = emo_run("ablate_features", "--only", "features", "--name", name, **changes)
    assert (run / "features").is_dir()


@pytest.mark.slow
def test_ablations(emo_run: Run, tiny_qwen: Path) -> None:
    """Features of the model's own answer; the head is trained on them in the same run."""
    run = emo_run(
        "ablate_features",
        **SHORT,
        **{"vars.backbone": tiny_qwen, "vars.source": "generated", "features.model.max_new_tokens": 4},
    )
    assert "test/accuracy" in json.loads((run / "probe" / "metrics.json").read_text())
    run = emo_run("ablate_head", **SHORT, **{"vars.features": run / "features"})
    assert "test/accuracy" in json.loads((run / "probe" / "metrics.json").read_text())
    chosen = {"vars.lora": "r8", "vars.parts": "all", "vars.replay": "half", "features.model.max_new_tokens": 4}
    run = emo_run("ablate_backbone", **SHORT, **{"vars.backbone": tiny_qwen}, **chosen)
    assert "test/accuracy" in json.loads((run / "probe" / "metrics.json").read_text())


@pytest.mark.slow
def test_emoverse_and_its_parts(emo_run: Run, tiny_qwen: Path, tiny_clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = emo_run("emoverse", "--name", "paper", **whole(tiny_qwen, tiny_clip))
    statuses = {path.parent.name: json.loads(path.read_text())["status"] for path in run.glob("*/stage.json")}
    assert len(statuses) == 3 + 3 + 9 + 9 + 2 + 1 + 3 + 2 + 1
    assert set(statuses.values()) == {"complete"}
    page = (run / "report.html").read_text()
    assert "Table 5" in page
    assert "Table 6" in page
    table6 = json.loads((run / "table6" / "table6.json").read_text())
    assert "attribute" in json.dumps(table6)
    assert len((run / "predict-base" / "predictions.jsonl").read_text().splitlines()) == 8
    # The report comes last, after the tables that it shows.
    out = re.sub(r"\s+", " ", capfd.readouterr().out)
    assert out.index("] table6 —") < out.index("] table5 —") < out.index("] report —")

    # In its run directory there is nothing left to do for the parts of it that are experiments too: the same stages, to the last
    # setting.
    changes = whole(tiny_qwen, tiny_clip)
    parts = {
        "table6": {k: v for k, v in changes.items() if k not in ("vars.clip", "panel.count")},
        "table5": {k: v for k, v in changes.items() if k not in ("vars.backbone", "vars.max_tokens", "vars.des_epochs")}
        | {
            "vars.arms.base": tiny_qwen,
            "vars.arms.ces": run / "ces/adapter",
            "vars.arms.attribute": run / "round2/adapter",
        },
    }
    for experiment, options in parts.items():
        capfd.readouterr()
        emo_run(experiment, "--name", "paper", **options)
        out = re.sub(r"\s+", " ", capfd.readouterr().out)
        steps = re.findall(r"\[\d+/(\d+)\]", out)
        assert len(steps) == int(steps[0]) == out.count("(complete, skipped)")


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "saved"), [("authors", "model"), ("authors_lora", "adapter")])
def test_settings_of_the_release(
    emo_run: Run, tiny_qwen: Path, tiny_clip: Path, tmp_path: Path, experiment: str, saved: str
) -> None:
    """The second one with another family of backbones: nothing but `--vars.backbone` says so."""
    backbone = tiny_qwen if experiment == "authors" else build_qwen3_vl(tmp_path / "qwen3", tiny_qwen)
    # Only what is their own, and one reader of what it saves: heads and tables are made as `emoverse`, which they extend, makes them.
    for stage in ("round1", "round2", "ces", "predict-attribute", "report"):
        run = emo_run(experiment, "--only", stage, **whole(backbone, tiny_clip))
    for stage in ("round1", "round2", "ces"):
        assert weights(run / stage / saved)
    config = yaml.safe_load((run / "round2" / "config.yaml").read_text())
    assert config["model"]["backbone"]["path"] == str(run / "round1" / saved)
    assert (run / "report.html").exists()


@pytest.mark.slow
def test_the_demo_and_its_seeds(emo_run: Run, runs: Path, demo_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The whole road, `experiments/demo_fast.yaml` with fewer images and steps; `experiments/demo.yaml` is the same with other figures."""
    run = demo_folder / "runs/demo"
    page = (run / "report.html").read_text()
    assert "Table 5" in page
    assert "Table 6" in page
    assert main([str(word) for word in demo_words(demo_folder)]) == 0
    out = re.sub(r"\s+", " ", capfd.readouterr().out)
    assert out.count("(complete, skipped)") == int(re.findall(r"\[\d+/(\d+)\]", out)[0])
    # Each of its hundreds of epochs costs as much as one of a large set.
    epochs = {f"probe-{arm}-0.trainer.max_epochs": 3 for arm in ("base", "ces", "attribute")}
    # Other seeds have the same stages.
    text = (ROOT / "experiments/demo_seeds.yaml").read_text(encoding="utf-8")
    one = runs / "one_seed.yaml"
    one.write_text(re.sub(r', "\$\{run\.stages\.probe-\w+-[12]\}"', "", text.replace("[0, 1, 2]", "[0]")), encoding="utf-8")
    seeds = emo_run(
        one, **{"vars.demo": run, "vars.attribute_epochs": 1, "vars.emotion_epochs": 1, "vars.des_epochs": 1}, **epochs
    )
    assert "attribute" in (seeds / "table6" / "table6.json").read_text()


def test_every_experiment_is_run_above() -> None:
    """By name, as each needs its own small figures; a new YAML needs a run here, or beside the tests of what it is made of."""
    source = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    for path in (ROOT / "experiments").glob("*.yaml"):
        named = f'"{path.stem}"' in source or f"experiments/{path.name}" in source
        assert named, f"no test runs experiments/{path.name}"


# Run directories


@pytest.fixture
def small(tmp_path: Path, world_tars: Path, tiny_qwen: Path) -> Callable[..., Path]:
    """Writes an experiment of one function, one training stage and, if asked, another one on one device."""

    def write(alone: bool = False, **trainer: object) -> Path:
        tree: dict[str, Any] = {
            "name": "small",
            "stages": {
                "init": {"run": "tiny_clip", "tars": [str(world_tars)]},
                "tune": {
                    "run": "sft",
                    "defaults": ["data/ces.yaml"],
                    "model": {"backbone": {"path": str(tiny_qwen)}},
                    "data": {"train": [f"{world_tars}/*-train-*.tar"], "val": [f"{world_tars}/*-val-*.tar"], "batch_size": 4},
                    "trainer": {
                        "accelerator": "cpu",
                        "max_steps": 4,
                        "logger": False,
                        "enable_progress_bar": False,
                        "callbacks": [
                            {
                                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                                "init_args": {
                                    "dirpath": "${run.out}/checkpoints",
                                    "save_last": True,
                                    "save_top_k": 0,
                                    "every_n_train_steps": 2,
                                },
                            },
                        ],
                        **trainer,
                    },
                },
            },
        }
        if alone:
            tune = tree["stages"]["tune"]
            tree["stages"]["head"] = tune | {"trainer": tune["trainer"] | {"devices": 1, "strategy": "auto"}}
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return path

    return write


class CrashAt(pl.Callback):
    """Fails at a step while a file is there, and notes where training starts.

    Args:
        step: global step.
        flag: file.
    """

    def __init__(self, step: int, flag: str) -> None:
        self.step, self.flag = step, Path(flag)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with open(self.flag.with_suffix(".starts"), "a", encoding="utf-8") as out:
            out.write(f"{trainer.global_step}\n")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int) -> None:
        if trainer.global_step == self.step and self.flag.exists():
            raise RuntimeError("power cut")


class Notes(pl.Callback):
    """Notes the process of each rank once it has made two steps.

    Args:
        folder: for a file a rank.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int) -> None:
        if trainer.global_step == 2:
            write_text(self.folder / f"rank-{trainer.global_rank}", str(os.getpid()))


@pytest.mark.slow
def test_a_signal_to_the_second_rank_saves_and_ends_all(small: Callable[..., Path], tmp_path: Path) -> None:
    """Light processes show the rest (`test_supervision.py`); here with Lightning and the ranks that it starts."""
    notes = {"class_path": "tests.experiment.test_runner.Notes", "init_args": {"folder": str(tmp_path)}}
    path = small(callbacks=[notes], enable_checkpointing=False, max_steps=100_000, max_epochs=-1, devices=2, strategy="ddp")
    output = tmp_path / "output.txt"
    files = [tmp_path / f"rank-{rank}" for rank in range(2)]
    run = Forked(["run", str(path), "--runs", str(tmp_path / "runs"), "--only", "tune"], environment(), output, session=True)
    try:
        wait_until(lambda: run.poll() is not None or all(file.exists() for file in files))
        assert run.poll() is None, output.read_text()
        os.kill(int(files[1].read_text()), signal.SIGTERM)
    finally:
        code = ended(run)
    error = output.read_text()
    assert code == 143, error
    for file in files:
        wait_until(partial(gone, int(file.read_text())))
    step = read_checkpoint(tmp_path / "runs/small/tune/checkpoints/last.ckpt")["global_step"]
    assert f"stopped after step {step} by SIGTERM, and saved" in error
    assert "interrupted; the same command goes on from what is finished" in error
    assert "Traceback" not in error
    assert status_of(tmp_path / "runs/small/tune")["status"] == "cut short"


def test_experiment_for_many_gpus_is_refused_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would start them all."""
    from emo_lightning.experiment.processes import check_process_count

    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    stages = {s.name: s for s in load_experiment(ROOT / "experiments/emoverse.yaml", [("vars.devices", "3000")]).stages}
    with pytest.raises(
        ExperimentError, match=r"stage 'round1': trainer.devices: found 3000, .* no GPU .*allowed: auto, or 1 to"
    ):
        check_process_count(stages["round1"])
    check_process_count(stages["table6"])
    check_process_count(stages["probe-base-0"])
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    check_process_count(stages["round1"])


def test_failed_stage_resumes_and_complete_ones_are_skipped(
    small: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    saver = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"dirpath": "${run.out}/checkpoints", "save_last": True, "save_top_k": 0, "every_n_train_steps": 2},
    }
    crash = {"class_path": "tests.experiment.test_runner.CrashAt", "init_args": {"step": 3, "flag": str(flag)}}
    path = small(callbacks=[saver, crash])
    command = ["run", str(path), "--runs", str(tmp_path / "runs")]
    assert main(command) == 1, "a RuntimeError is a bug"
    error = capfd.readouterr().err
    assert "power cut" in error
    assert "stage 'tune' ended with exit code 1" in error
    assert status_of(tmp_path / "runs/small/tune")["status"] == "failed"
    noted = shlex.split(status_of(tmp_path / "runs/small/tune")["command"])
    assert noted == ["emo", *sys.argv[1:]]
    first = status_of(tmp_path / "runs/small/init")
    flag.unlink()
    assert main(command) == 0
    assert flag.with_suffix(".starts").read_text().split() == ["0", "2"]
    assert status_of(tmp_path / "runs/small/tune")["status"] == "complete"
    assert status_of(tmp_path / "runs/small/init") == first
    assert weights(tmp_path / "runs/small/tune/adapter")
    # Where it runs may change; nothing is done again.
    capfd.readouterr()
    assert main([*command, "--trainer.num_nodes", "1", "--trainer.enable_progress_bar", "true"]) == 0
    assert f"nothing left to do: {tmp_path / 'runs/small'}\n" in capfd.readouterr().out
    assert flag.with_suffix(".starts").read_text().split() == ["0", "2"]


class RaisesInWorker(torch.utils.data.Dataset[int]):
    """Fails in a worker, as the user's mistake or as a bug.

    Args:
        mistake: whether it is the user's.
    """

    def __init__(self, mistake: bool) -> None:
        self.mistake = mistake

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        if self.mistake:
            raise InputError("a.tar: record 3 has no image")
        return [1, *zip([1], [2, 3], strict=True)][index]  # type: ignore[return-value]  # never gets there


class Reads(pl.Callback):
    """Reads from a worker when the training starts.

    Args:
        mistake: whether what it raises is the user's.
    """

    def __init__(self, mistake: bool) -> None:
        self.mistake = mistake

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        list(torch.utils.data.DataLoader(RaisesInWorker(self.mistake), num_workers=1))


def test_a_bug_in_a_stages_worker_keeps_its_traceback(
    small: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Stage's process, Lightning, and a worker of a DataLoader lie between what is raised and what is printed."""
    reads = {"class_path": "tests.experiment.test_runner.Reads", "init_args": {"mistake": False}}
    path = small(callbacks=[reads], enable_checkpointing=False)
    command = ["run", str(path), "--runs", str(tmp_path / "runs"), "--only", "tune"]
    assert main(command) == 1
    error = capfd.readouterr().err
    assert "return [1, *zip([1], [2, 3], strict=True)][index]" in error
    assert "zip() argument 2 is longer than argument 1" in error
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert lines[0].startswith("error: stage 'tune': this is a bug in emo-lightning, not a mistake of yours: please report it")
    assert lines[1].startswith("error: stage 'tune' ended with exit code 1; ")


@pytest.mark.parametrize("debug", [False, True])
def test_a_mistake_in_a_stages_worker_is_one_line(
    debug: bool, small: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reads = {"class_path": "tests.experiment.test_runner.Reads", "init_args": {"mistake": True}}
    path = small(callbacks=[reads], enable_checkpointing=False)
    command = ["run", str(path), "--runs", str(tmp_path / "runs"), "--only", "tune", *(["--debug"] if debug else [])]
    assert main(command) == 2
    error = capfd.readouterr().err
    assert "error: stage 'tune': a.tar: record 3 has no image\n" in error
    assert ("Traceback" in error) == debug


def test_a_bug_in_a_function_names_its_line(
    small: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(tars: list[str]) -> list[str]:
        return [a for a, _ in zip(tars, [], strict=True)]

    monkeypatch.setattr("emo_lightning.stages.tiny_models.words_of", broken)
    assert main(["run", str(small()), "--runs", str(tmp_path / "runs"), "--only", "init"]) == 1
    error = capfd.readouterr().err
    assert 'tiny_models.py", line' in error
    assert "ValueError: zip() argument 2 is shorter than argument 1" in error
    assert "error: stage 'init': this is a bug in emo-lightning" in error


def test_other_settings_in_one_run_directory_are_an_error(
    small: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(small()), "--runs", str(tmp_path), "--only", "init"]
    assert main(command) == 0
    capfd.readouterr()
    assert main([*command, "--init.seed", "5"]) == 2
    error = capfd.readouterr().err
    assert re.search(
        r"small/init was made with other settings \(seed: None there, 5 now\); choose another --name, or delete", error
    )


def test_settings_of_a_stage_that_made_nothing_may_be_mended(
    small: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(small()), "--runs", str(tmp_path), "--only", "tune", "--trainer.max_steps", "1"]
    assert main([*command, "--data.train", "[nowhere.tar]"]) == 2
    assert "nowhere.tar" in capfd.readouterr().err
    assert main(command) == 0


def test_one_run_directory_one_process(small: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small").mkdir()
    with open(tmp_path / "small" / ".lock", "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["run", str(small()), "--runs", str(tmp_path), "--only", "init"]) == 2
    assert "another experiment is running here" in capfd.readouterr().err


def test_only_names_a_stage(small: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(small()), "--runs", str(tmp_path), "--only", "tine"]) == 2
    assert "--only tine: no such stage; allowed: init, tune" in capfd.readouterr().err


# More than one process


def environment() -> dict[str, str]:
    """Of a subprocess that finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def launched(command: list[str], cwd: Path) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, encoding="utf-8", timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


def ended(run: Forked) -> int:
    """Exit code of a process, once it has one."""
    try:
        wait_until(lambda: run.poll() is not None)
    finally:
        run.send_signal(signal.SIGKILL)
    assert run.returncode is not None
    return run.returncode


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "interpreters"), [("ddp", True), ("fsdp", False)])
def test_launched_by_lightning(strategy: str, interpreters: bool, small: Callable[..., Path], tmp_path: Path) -> None:
    """Each stage has a process of its own, whose second rank is started as that stage alone."""
    words = ["run", str(small(precision="bf16-mixed")), "--runs", str(tmp_path / "runs")]
    words += ["--trainer.devices", "2", "--trainer.strategy", strategy]
    if interpreters:
        out = launched([sys.executable, "-m", "emo_lightning", *words], tmp_path)
    else:
        code = ended(Forked(words, environment(), tmp_path / "output.txt"))
        out = (tmp_path / "output.txt").read_text()
        assert code == 0, out
    assert "MEMBER: 2/2" in out
    assert out.count("init — ") == 1
    assert status_of(tmp_path / "runs/small/tune")["status"] == "complete"
    assert weights(tmp_path / "runs/small/tune/adapter")
    assert (tmp_path / "runs/small/tune/checkpoints/last.ckpt").is_file()


def exit_at_the_end(command: list[str]) -> None:
    """A worker of torchrun's agent: it fails, unless the command ends well."""
    code = main(command)
    assert code == 0, f"exit code {code}"


def exit_with(command: list[str]) -> None:
    """The command as a process has it."""
    raise SystemExit(main(command))


def runs_on_two_ranks_and_on_one(out: str, run: Path) -> None:
    """What is expected of `small(alone=True, devices=2)` under a launcher of two processes."""
    assert "MEMBER: 2/2" in out
    assert {status_of(run / s)["status"] for s in ("init", "tune", "head")} == {"complete"}
    assert weights(run / "tune/adapter")
    assert weights(run / "head/adapter")
    # A second process in the folder of a stage on one device would count `last` up.
    assert [path.name for path in (run / "head/checkpoints").iterdir()] == ["last.ckpt"]
    assert out.count("`Trainer.fit` stopped") == 2


@pytest.mark.slow
def test_stages_under_torchrun(small: Callable[..., Path], tmp_path: Path) -> None:
    """Its own options and its agent; the workers are forked, where new interpreters would import for ten seconds each.

    The ports after the agent's are taken: by other jobs, say.
    """
    words = ["run", str(small(True, devices=2, strategy="ddp")), "--runs", str(tmp_path / "runs")]
    port = free_port()
    options = ["--nproc-per-node", "2", "--master-port", str(port), "-m", "emo_lightning", *words]

    def torchrun() -> None:
        from torch.distributed.launcher.api import elastic_launch
        from torch.distributed.run import config_from_args, parse_args

        config, program, given = config_from_args(parse_args(options))
        assert (program, given[-len(words) :]) == (sys.executable, words)
        config.start_method = "fork"
        elastic_launch(config, exit_at_the_end)(words)

    with contextlib.ExitStack() as stack:
        for taken in range(port + 1, port + 20):
            stack.enter_context(socket.create_server(("", taken)))
        run_each(torchrun, [{}], tmp_path / "output.txt")
    runs_on_two_ranks_and_on_one((tmp_path / "output.txt").read_text(), tmp_path / "runs/small")


@pytest.mark.slow
def test_stages_under_slurm(small: Callable[..., Path], tmp_path: Path) -> None:
    """What `srun --ntasks-per-node 2` does on one node: the same command twice, told apart by SLURM's variables.

    The ports that follow from the number of the job are taken: by another job on this node, say.
    """
    command = ["run", str(small(True, devices=2, strategy="ddp")), "--runs", str(tmp_path / "runs")]
    port = slurm_port()
    with contextlib.ExitStack() as stack:
        for taken in range(port, port + 20):
            stack.enter_context(socket.create_server(("", taken)))
        run_each(partial(exit_with, command), slurm_tasks(2, port), tmp_path / "output.txt")
    runs_on_two_ranks_and_on_one((tmp_path / "output.txt").read_text(), tmp_path / "runs/small")


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "victim"), [(1, 0), (1, 1), (2, 0), (2, 1)], ids=lambda value: str(value))
def test_a_killed_command_of_two_machines_ends_the_other(
    devices: int, victim: int, small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command on each of two nodes, in a stage of one rank and in one of both. No silence is waited for."""
    monkeypatch.setenv(SILENCE_VARIABLE, "1e9")
    notes = {"class_path": "tests.experiment.test_runner.Notes", "init_args": {"folder": str(tmp_path)}}
    trainer: dict[str, Any] = {"callbacks": [notes], "enable_checkpointing": False, "max_steps": 100_000, "max_epochs": -1}
    many = {"devices": 1, "num_nodes": 2, "strategy": "ddp"} if devices == 2 else {"devices": 1}
    path = small(**trainer, **many)
    command = ["run", str(path), "--runs", str(tmp_path / "runs"), "--only", "tune"]
    output = tmp_path / "output.txt"
    files = [tmp_path / f"rank-{rank}" for rank in range(devices)]
    commands = start_each(partial(exit_with, command), slurm_tasks(2, slurm_port(), nodes=2), output)
    try:
        wait_until(lambda: any(one.exitcode is not None for one in commands) or all(file.exists() for file in files))
        assert all(one.exitcode is None for one in commands), output.read_text()
        commands[victim].kill()
        other = commands[1 - victim]
        other.join(PATIENCE)
    finally:
        for one in commands:
            one.kill()
            one.join()
    assert other.exitcode == 2, output.read_text()
    for file in files:
        wait_until(partial(gone, int(file.read_text())))
    # In a stage of both, the connection between them may have said it first.
    assert devices == 2 or f"rank {victim}: its command was killed" in output.read_text()
    assert "Traceback" not in output.read_text()


@pytest.mark.slow
def test_a_second_job_in_the_same_folder_ends_and_the_first_goes_on(
    small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its ranks, and no silence is waited for."""
    monkeypatch.setenv(SILENCE_VARIABLE, "1e9")
    notes = {"class_path": "tests.experiment.test_runner.Notes", "init_args": {"folder": str(tmp_path)}}
    path = small(callbacks=[notes], enable_checkpointing=False, max_steps=100_000, max_epochs=-1, devices=1)
    command = ["run", str(path), "--runs", str(tmp_path / "runs"), "--only", "tune"]
    work = partial(exit_with, command)
    first = start_each(work, slurm_tasks(2, slurm_port()), tmp_path / "first.txt")
    second = []
    try:
        wait_until(lambda: (tmp_path / "rank-0").exists() or any(one.exitcode is not None for one in first))
        second = start_each(work, slurm_tasks(2, slurm_port()), tmp_path / "second.txt")
        for one in second:
            one.join(PATIENCE)
        assert [one.exitcode for one in second] == [2, 2], (tmp_path / "second.txt").read_text()
        assert [one.exitcode for one in first] == [None, None], (tmp_path / "first.txt").read_text()
    finally:
        for one in [*first, *second]:
            one.kill()
            one.join()
    said = (tmp_path / "second.txt").read_text()
    assert "another experiment is running here" in said
    assert "rank 0 has failed" in said
    assert "Traceback" not in said
    wait_until(partial(gone, int((tmp_path / "rank-0").read_text())))


# What a machine cannot do


def test_no_room_on_the_disk_is_one_line_and_resumes(
    small: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files stands for a full disk: the checkpoint does not fit."""
    command = ["run", str(small()), "--runs", str(tmp_path / "runs"), "--only", "tune"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert main(command) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert error.count("error: ") == 2
    assert "error: stage 'tune': cannot write: File too large; make room, then run the same command again" in error
    assert not list((tmp_path / "runs/small/tune").rglob("*.ckpt"))
    assert main(command) == 0
    assert weights(tmp_path / "runs/small/tune/adapter")


class TurnReadOnly(pl.Callback):
    """Has the stage's folder be read-only from a step on, once.

    Args:
        step: global step.
        run: the run's folder.
    """

    def __init__(self, step: int, run: str) -> None:
        self.step, self.run = step, Path(run)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with open(self.run.parent / "starts", "a", encoding="utf-8") as out:
            out.write(f"{trainer.global_step}\n")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int) -> None:
        flag = self.run.parent / "turn"
        if trainer.global_step == self.step and flag.exists():
            flag.unlink()
            # That of the run holds a file that is open, and so cannot be turned.
            set_read_only(self.run / "tune", True)


def set_read_only(folder: Path, value: bool) -> None:
    """Turn a folder and all in it read-only, or back: by its mount in this process's name space, as root ignores modes; else by modes."""
    if os.geteuid() == 0:
        subprocess.run(["mount", "-o", f"remount,bind,{'ro' if value else 'rw'}", str(folder)], check=True)
        return
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod((0o555 if value else 0o755) if path.is_dir() else (0o444 if value else 0o644))


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run_read_only(command: list[str], run: Path) -> None:
    """Turned read-only in mid-training, then before the start; then writable again."""
    (run / "tune").mkdir(parents=True)
    if os.geteuid() == 0:
        # Mounts of this process and its children alone; they end with it.
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        for folder in (run, run / "tune"):
            subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    (run.parent / "turn").touch()
    assert main(command) == 2
    assert not (run.parent / "turn").exists()
    set_read_only(run, True)
    left = content(run)
    assert read_checkpoint(run / "tune/checkpoints/last.ckpt")["global_step"] == 2
    say("--- a start in a read-only folder", file=sys.stderr)
    assert main(command) == 2
    assert content(run) == left
    say("--- writable again", file=sys.stderr)
    for folder in (run, run / "tune"):
        set_read_only(folder, False)
    assert main(command) == 0
    assert weights(run / "tune/adapter")


def may_mount() -> bool:
    done = subprocess.run(["unshare", "-m", "mount", "--make-rprivate", "/"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(os.geteuid() == 0 and not may_mount(), reason="root ignores modes, and may mount nothing here")
def test_a_read_only_run_folder_is_one_line_and_resumes(small: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "runs/small"
    tree = yaml.safe_load(small().read_text())
    turn = {"class_path": "tests.experiment.test_runner.TurnReadOnly", "init_args": {"step": 3, "run": str(run)}}
    tree["stages"]["tune"]["trainer"]["callbacks"].append(turn)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    command = ["run", str(tmp_path / "small.yaml"), "--runs", str(tmp_path / "runs"), "--only", "tune"]
    run_each(partial(run_read_only, command, run), [{}], tmp_path / "output.txt")
    output = (tmp_path / "output.txt").read_text()
    within, _, rest = output.partition("--- a start in a read-only folder")
    before, _, after = rest.partition("--- writable again")
    for said in (within, before):
        (line,) = [one for one in said.splitlines() if "error: " in one][-1:]
        assert re.search(r"cannot write: Read-only file system \(.*\); choose another folder|permission denied", line), said
    assert "error: stage 'tune': " in within
    assert "Traceback" not in output
    assert "error" not in after
    # What was saved before is what it went on from.
    assert (run.parent / "starts").read_text().split() == ["0", "2"]


def test_checkpoints_are_staged_beside_where_they_end(
    small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the folder for temporary files, which may be another filesystem, a kill would tear them while they are copied."""
    made = tmp_path / "made"
    rename = Path.replace

    def noted(self: Path, target: str | Path) -> Path:
        if str(target).endswith(".ckpt"):
            with open(made, "a", encoding="utf-8") as file:
                file.write(f"{self.parent} {Path(target).parent}\n")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    assert main(["run", str(small()), "--runs", str(tmp_path / "runs"), "--only", "tune"]) == 0
    checkpoints = tmp_path / "runs/small/tune/checkpoints"
    assert list(checkpoints.glob("*.ckpt"))
    assert {tuple(line.split()) for line in made.read_text().splitlines()} == {(str(checkpoints), str(checkpoints))}


def test_a_process_that_uses_cuda_is_not_forked(
    small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen on a GPU: "Cannot re-initialize CUDA in forked subprocess" where the experiment was run from a process with tensors there."""
    import multiprocessing
    from multiprocessing.context import BaseContext

    import torch

    asked: list[str] = []
    context = multiprocessing.get_context

    def noted(method: str) -> BaseContext:
        asked.append(method)
        return context(method)

    monkeypatch.setattr(multiprocessing, "get_context", noted)
    for in_use in (False, True):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda in_use=in_use: in_use)
        assert main(["run", str(small()), "--runs", str(tmp_path / str(in_use)), "--only", "init"]) == 0
    assert asked == ["fork", "spawn"]


def test_a_gpu_that_is_not_there(small: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = ["run", str(small()), "--runs", str(tmp_path / "runs"), "--only", "tune", "--trainer.accelerator", "gpu"]
    assert main(command) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert "error: stage 'tune': No supported gpu backend found!" in error


@pytest.mark.slow
def test_wandb_online_without_a_network(
    small: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client would retry for a minute and a half; the runner gives it less, and here three seconds."""
    for name, value in {"MODE": "online", "API_KEY": "0" * 40, "BASE_URL": "http://127.0.0.1:9", "INIT_TIMEOUT": "3"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    command = ["run", str(small()), "--runs", str(tmp_path / "runs"), "--only", "tune"]
    assert main(command) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert "error: stage 'tune': W&B does not answer (WANDB_MODE=offline keeps the run on disk, for `wandb sync`): " in error


def test_a_stage_does_not_outlive_the_one_it_stands_on(tmp_path: Path) -> None:
    """Delete an earlier stage, and the run refuses to call a later one complete."""
    import shutil

    experiment = write_two_stages(tmp_path)
    command = ["run", str(experiment), "--runs", str(tmp_path / "runs")]
    assert main(command) == 0
    assert main(command) == 0
    shutil.rmtree(tmp_path / "runs/two/first")
    assert main(command) == 2
    shutil.rmtree(tmp_path / "runs/two/second")
    assert main(command) == 0
