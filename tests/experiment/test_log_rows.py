"""A training that was killed logs each of its rows once: in its tables, in W&B and in its report."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger

from emo_lightning.cli import main
from emo_lightning.experiment import cut_short, sent_rows
from emo_lightning.experiment.log_rows import WholeTable, cut_table
from emo_lightning.experiment.sent_rows import rows_held
from emo_lightning.models.tiny import words_of
from emo_lightning.models.tiny_clip import build_clip
from tests.patience import PATIENCE
from tests.report.test_wandb import written
from tests.wandb_server import wandb_server

BATCH = 4


@pytest.fixture
def experiment(world_tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two epochs, saved at every third step, with validations in between."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-data"))
    monkeypatch.delenv("WANDB_MODE")
    model = build_clip(tmp_path / "clip", words_of([str(world_tars)]))
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "${run.out}", "name": "logs"}}
    rates = {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor", "init_args": {"logging_interval": "step"}}
    tune = {
        "run": "clip",
        "model": {"path": str(model), "optim": {"lr": 1e-3}},
        "data": {
            "train": [f"{world_tars}/*-train-*.tar"],
            "val": [f"{world_tars}/*-val-*.tar"],
            "batch_size": BATCH,
            "num_workers": 0,
        },
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "val_check_interval": 2,
            "enable_progress_bar": False,
            "logger": [logger],
            "callbacks": [rates],
        },
        "save_every": {"steps": 3},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "stages": {"tune": tune}}))
    return path


def run(experiment: Path, folder: str) -> int:
    """The exit code of `emo run`."""
    return main(["run", str(experiment), "--runs", str(experiment.parent / folder)])


def killed_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Have a stage be killed after so many steps; before they are saved, where one is due."""
    real = cut_short.KeepWhenCut.on_train_batch_end

    def killed(self: Any, trainer: Any, *rest: Any) -> None:  # noqa: ANN401
        if trainer.global_step == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, trainer, *rest)

    monkeypatch.setattr(cut_short.KeepWhenCut, "on_train_batch_end", killed)


def rows(stage: Path) -> list[dict[str, str]]:
    """What stands in the tables of all starts, in order: of each row the cells that hold something."""
    found: list[dict[str, str]] = []
    for path in sorted(stage.glob("logs/version_*/metrics.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            found += [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    return found


def logged(row: dict[str, Any]) -> dict[str, Any]:
    """Without what W&B adds and which is another in every start."""
    return {name: value for name, value in row.items() if name not in ("_timestamp", "_runtime", "_wandb")}


def sent(stage: Path) -> list[dict[str, Any]]:
    """The history in the files of all starts, in order."""
    folders = sorted(stage.glob("wandb/offline-run-*"))
    return [
        logged({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item})
        for folder in folders
        for row in written(folder, "history")
    ]


def test_each_row_is_logged_once(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before its first checkpoint, and between two."""
    assert run(experiment, "whole") == 0
    for steps in (2, 5, 8, 9):
        with monkeypatch.context() as patched:
            killed_after(patched, steps)
            assert run(experiment, "killed") == 2
    assert run(experiment, "killed") == 0
    whole, killed = (experiment.parent / folder / "small/tune" for folder in ("whole", "killed"))
    assert len(list(killed.glob("logs/version_*"))) == 5
    assert rows(killed) == rows(whole)
    assert len(rows(whole)) > 2 * 12
    assert sent(killed) == sent(whole)
    assert [row["_step"] for row in sent(whole)] == list(range(len(rows(whole))))
    codes = [written(folder, "exit")[0].exit_code for folder in sorted(killed.glob("wandb/offline-run-*"))]
    assert codes == [1, 1, 1, 1, 0]


def test_rows_that_are_still_being_written_are_waited_for(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's process outlives what it served by a moment."""
    assert run(experiment, "whole") == 0
    (path,) = (experiment.parent / "whole/small/tune/wandb").glob("offline-run-*/run-*.wandb")
    name, data = path.stem.removeprefix("run-"), path.read_bytes()
    folder = path.parents[1]
    most = rows_held(folder, name)
    assert most > 2 * 12
    # Killed in the midst of its rows, and one that nobody writes to any more.
    path.write_bytes(data[: len(data) // 3])
    with monkeypatch.context() as patched:
        patched.setattr(sent_rows, "SETTLED_SECONDS", 0.0)
        half = rows_held(folder, name)
    assert 0 < half < most
    monkeypatch.setattr(sent_rows, "SETTLED_SECONDS", PATIENCE)
    monkeypatch.setattr(sent_rows, "MAX_UNSETTLED_SECONDS", PATIENCE)
    path.write_bytes(data[: len(data) // 3])
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(rows_held, folder, name)
        time.sleep(0.2)
        path.write_bytes(data)
        assert found.result() == most


def test_a_server_is_sent_each_row_once(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with wandb_server() as server:
        for name, value in {"MODE": "online", "API_KEY": "0" * 40, "BASE_URL": server.url}.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        assert run(experiment, "whole") == 0
        with monkeypatch.context() as patched:
            killed_after(patched, 5)
            assert run(experiment, "killed") == 2
        assert run(experiment, "killed") == 0
        whole, killed = ([logged(kept.history[n]) for n in sorted(kept.history)] for kept in server.runs.values())
        assert killed == whole != []


def test_a_table_is_cut_to_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"loss,step\r\n1.5,0\r\n1.25,1\r\n1.1")
    assert cut_table(path, None) == 2
    assert path.read_bytes() == b"loss,step\r\n1.5,0\r\n1.25,1\r\n"
    assert cut_table(path, 5) == 2
    assert cut_table(path, 1) == 1
    assert path.read_bytes() == b"loss,step\r\n1.5,0\r\n"
    assert cut_table(path, 0) == 0
    assert not path.exists()


def test_a_new_column_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is written anew for it; a kill in the midst leaves it as it was."""
    logger = CSVLogger(tmp_path, "logs", version=0)
    logger._experiment = WholeTable(logger.log_dir)
    logger.log_metrics({"loss": 1.5}, 0)
    logger.save()

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    logger.log_metrics({"val": 2.5}, 0)
    with monkeypatch.context() as patched:
        patched.setattr(csv.DictWriter, "writerows", cut)
        with pytest.raises(KeyboardInterrupt):
            logger.save()
    assert rows(tmp_path) == [{"loss": "1.5", "step": "0"}]
    # Another start of a logger whose version is given goes on in the same table.
    logger._experiment = WholeTable(logger.log_dir)
    for name, value in (("loss", 1.25), ("val", 2.5)):
        logger.log_metrics({name: value}, 1)
        logger.save()
    assert rows(tmp_path) == [{"loss": "1.5", "step": "0"}, {"loss": "1.25", "step": "1"}, {"val": "2.5", "step": "1"}]
