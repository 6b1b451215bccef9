"""A training that was killed goes on by the same command from its newest checkpoint, wherever that is, on its own settings and data alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from emo_lightning.cli import main
from emo_lightning.core.checkpoints import read_checkpoint
from emo_lightning.experiment.classes import ALLOW_CLASSES
from emo_lightning.experiment.saving import STAGE_KEY
from emo_lightning.experiment.status import stage_from_folder
from emo_lightning.models.tiny import words_of
from emo_lightning.models.tiny_clip import build_clip
from tests.data.test_tar_index import write_tar

KILLED_AT = 3


class Killed(Callback):
    """Notes the step at which each start begins, and kills the first one in its fourth step.

    Args:
        book: file of the notes.
    """

    def __init__(self, book: str) -> None:
        self.book = Path(book)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with self.book.open("a") as book:
            book.write(f"{trainer.global_step}\n")

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == KILLED_AT and self.book.read_text() == "0\n":
            os.kill(os.getpid(), signal.SIGKILL)


CSV = "lightning.pytorch.loggers.CSVLogger"
OWN_LOGS = {"class_path": CSV, "init_args": {"save_dir": "${run.out}", "name": "logs"}}
OWN = {"dirpath": "${run.out}/checkpoints"}


class Small:
    """An experiment of one training, of six steps.

    Args:
        folder: for all its files.
        world: tars to copy.
    """

    def __init__(self, folder: Path, world: Path) -> None:
        self.folder = folder
        self.tars = folder / "tars"
        self.out = folder / "runs/small/tune"
        shutil.copytree(world, self.tars)
        self.model = build_clip(folder / "clip", words_of([str(world)]))
        self.saver: dict[str, Any] = OWN
        self.logger: object = [OWN_LOGS]

    def run(self, *words: str) -> int:
        """By the command."""
        name = "lightning.pytorch.callbacks.ModelCheckpoint"
        saver = {"class_path": name, "init_args": {"save_last": True, "every_n_train_steps": 1, **self.saver}}
        killed = {"class_path": f"{__name__}.Killed", "init_args": {"book": str(self.folder / "starts")}}
        trainer = {
            "accelerator": "cpu",
            "max_epochs": 1,
            "enable_progress_bar": False,
            "logger": self.logger,
            "callbacks": [saver, killed],
        }
        sets = {split: [f"{self.tars}/*-{split}-*.tar"] for split in ("train", "val")}
        data = {**sets, "batch_size": 4, "num_workers": 0}
        tune = {"run": "clip", "model": {"path": str(self.model), "optim": {"lr": 1e-3}}, "data": data, "trainer": trainer}
        path = self.folder / "small.yaml"
        path.write_text(yaml.safe_dump({"name": "small", "stages": {"tune": tune}}))
        return main(["run", str(path), "--runs", str(self.folder / "runs"), *words])

    def starts(self) -> list[int]:
        """The step at which each start began."""
        return [int(line) for line in (self.folder / "starts").read_text().split()]

    def use_other_images(self) -> None:
        """In another order: as many, of the same sizes."""
        for path in self.tars.glob("*-train-*.tar"):
            with tarfile.open(path) as tar:
                members = {name: tar.extractfile(name).read() for name in reversed(tar.getnames())}  # type: ignore[union-attr]
            write_tar(path, members)


@pytest.fixture
def small(world_tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    monkeypatch.setenv(ALLOW_CLASSES, "tests")
    monkeypatch.chdir(tmp_path)
    return Small(tmp_path, world_tars)


def in_logs(save_dir: str) -> list[dict[str, object]]:
    return [{"class_path": CSV, "init_args": {"save_dir": save_dir}}]


WANDB = [{"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"offline": True}}]
PLACES: dict[str, tuple[dict[str, Any], object]] = {
    "another disk": ({"dirpath": "disk"}, [OWN_LOGS]),
    "folders below it": ({"dirpath": "disk", "filename": "{epoch}/{step}", "save_last": False}, [OWN_LOGS]),
    "logs of the stage": ({}, [OWN_LOGS]),
    "logs elsewhere": ({}, in_logs("scratch/logs")),
    "W&B's folder": ({}, WANDB),
}


@pytest.mark.parametrize(("saver", "logger"), PLACES.values(), ids=PLACES.keys())
def test_it_goes_on_with_its_own_settings_and_data_alone(
    saver: dict[str, Any], logger: object, small: Small, capfd: pytest.CaptureFixture[str]
) -> None:
    small.saver, small.logger = saver, logger
    assert small.run() == 2
    assert "was killed by SIGKILL" in capfd.readouterr().err
    assert not (small.out / "checkpoints").exists()
    assert small.run("--tune.model.optim.lr", "0.002") == 2
    said = capfd.readouterr().err
    assert f"{small.out} was made with other settings (model.optim.lr: 0.001 there, 0.002 now)" in said
    whole = {path: path.read_bytes() for path in small.tars.iterdir()}
    small.use_other_images()
    assert small.run() == 2
    assert f"{small.out} was begun on other content of data.train" in capfd.readouterr().err
    for path, data in whole.items():
        path.write_bytes(data)
    assert small.run() == 0
    assert small.starts() == [0, KILLED_AT]


@pytest.mark.parametrize("lost", ["stage.json", "config.yaml"])
def test_what_says_no_data_is_gone_on_from_where_the_checkpoint_does(
    lost: str, small: Small, capfd: pytest.CaptureFixture[str]
) -> None:
    assert small.run() == 2
    (small.out / lost).unlink()
    train = sorted(small.tars.glob("*-train-*.tar"))
    whole = [path.read_bytes() for path in train]
    small.use_other_images()
    capfd.readouterr()
    assert small.run() == 2
    said = capfd.readouterr().err
    assert f"{small.out}/checkpoints/" in said
    assert (
        f".ckpt: does not say that it was made with these settings and from this data, and there is no {small.out / lost} that would; "
        f"put that back, choose another --name, or delete {small.out} to make it anew"
    ) in said
    # Nor by the next start, as nothing was noted.
    assert small.run() == 2
    for path, data in zip(train, whole, strict=True):
        path.write_bytes(data)
    assert small.run() == 0
    assert small.starts() == [0, KILLED_AT]


@pytest.mark.parametrize("lost", ["stage.json", "config.yaml"])
def test_other_settings_are_refused_where_the_checkpoint_alone_knows(
    lost: str, small: Small, capfd: pytest.CaptureFixture[str]
) -> None:
    assert small.run() == 2
    (small.out / lost).unlink()
    capfd.readouterr()
    assert small.run("--tune.model.optim.lr", "0.002") == 2
    both = "other settings (model.optim.lr: 0.001 there, 0.002 now)"
    assert (both if lost == "stage.json" else "does not say that it was made with these settings") in capfd.readouterr().err


def test_checkpoints_of_earlier_versions_go_on_with_what_is_noted(small: Small, capfd: pytest.CaptureFixture[str]) -> None:
    """They name the settings alone."""
    assert small.run() == 2
    digest = stage_from_folder(small.out).digest
    for path in small.out.glob("checkpoints/*.ckpt"):
        # Its tensors are still mapped from the file.
        torch.save({**read_checkpoint(path), STAGE_KEY: digest}, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
    note = small.out / "stage.json"
    noted = json.loads(note.read_text())
    del noted["checkpoints"]
    note.unlink()
    capfd.readouterr()
    assert small.run() == 2
    assert f"there is no {note} that would" in capfd.readouterr().err
    note.write_text(json.dumps(noted))
    assert small.run() == 0
    assert small.starts() == [0, KILLED_AT]
