"""A run folder that is moved or copied while a training is half done: it goes on as if it had stayed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from emo_lightning.core.checkpoints import read_checkpoint
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.experiment.cut_short import watch
from emo_lightning.experiment.found_checkpoints import Checkpoints, newest_checkpoint
from emo_lightning.experiment.stage import Stage
from emo_lightning.tasks.des import DESHeadArgs, DESTask
from emo_lightning.tasks.optim import OptimConfig
from tests.tasks.test_des_probe import write_cache


class PowerCutError(Exception):
    """What kills the training."""


class CutAt(Callback):
    """Kills it where an epoch begins, or after all of them, where no validation follows.

    Args:
        epoch: from 0; None for none.
    """

    def __init__(self, epoch: int | None) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise PowerCutError

    on_train_end = on_train_epoch_start


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Few images and much noise: a head learns them by heart, and the best epoch is an early one."""
    root = tmp_path_factory.mktemp("caches")
    return [
        write_cache(root / name, count, seed, noise=6.0) for seed, (name, count) in enumerate({"train": 32, "val": 64}.items())
    ]


def train(out: Path, caches: list[str], epochs: int, named: bool, cut: int | None = None) -> ModelCheckpoint:
    """A DES head, of which the best epoch is kept, in a folder that is named or one of the logger; from the newest checkpoint."""
    stage = Stage("head", "des", "head", {}, out)
    torch.manual_seed(0)
    task = DESTask(DESHeadArgs(des_dim=12), OptimConfig(lr=3e-2))
    saver = ModelCheckpoint(out / "checkpoints" if named else None, monitor="val/loss", mode="min", save_last=True)
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=out,
        callbacks=[CutAt(cut), saver],
        logger=CSVLogger(out, name="logs"),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        max_epochs=epochs,
    )
    begun = newest_checkpoint(Checkpoints.of(stage))
    keeper = watch(trainer, stage, None, begun)
    trainer.fit(task, datamodule=FeatureDataModule(caches[0], caches[1], batch_size=16), ckpt_path=begun, weights_only=True)
    keeper.check(trainer)
    return saver


def head(out: Path) -> dict[str, bytes]:
    """Its files."""
    return {path.name: path.read_bytes() for path in (out / "head").iterdir()}


def checkpoints(out: Path) -> dict[str, object]:
    """What is left of them, and the step of each."""
    return {str(path.relative_to(out)): read_checkpoint(path)["global_step"] for path in out.rglob("*.ckpt")}


def copied(old: Path, new: Path) -> None:
    shutil.copytree(old, new)


def linked(old: Path, new: Path) -> None:
    """Reached by another name."""
    new.symlink_to(old)


Stayed = Callable[[int, bool, int], tuple[Path, ModelCheckpoint]]


@pytest.fixture(scope="module")
def stayed(caches: list[str], tmp_path_factory: pytest.TempPathFactory) -> Stayed:
    """Trainings that are killed and go on where they are, by `train`'s arguments: the head is that of one that was not killed."""

    @cache
    def made(epochs: int, named: bool, cut: int) -> tuple[Path, ModelCheckpoint]:
        whole, out = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed")
        train(whole, caches, epochs, named)
        with pytest.raises(PowerCutError):
            train(out, caches, epochs, named, cut)
        saver = train(out, caches, epochs, named)
        assert head(out) == head(whole)
        return out, saver

    return made


@pytest.mark.parametrize(
    ("change", "epochs", "cut", "named"),
    [
        (shutil.move, 6, 4, True),
        (shutil.move, 3, 3, True),
        (copied, 6, 4, True),
        (copied, 3, 3, True),
        (linked, 6, 4, True),
        (shutil.move, 6, 4, False),
    ],
    ids=["moved", "moved at its end", "copied", "copied at its end", "by another name", "moved, in a folder of the logger"],
)
def test_the_same_head(
    change: Callable[[Path, Path], object],
    epochs: int,
    cut: int,
    named: bool,
    stayed: Stayed,
    caches: list[str],
    tmp_path: Path,
) -> None:
    expected, saver = stayed(epochs, named, cut)
    assert Path(saver.best_model_path).name.startswith("epoch=2-"), "no later one is better"
    there, here = tmp_path / "there", tmp_path / "here"
    with pytest.raises(PowerCutError):
        train(there, caches, epochs, named, cut)
    before = {path: path.stat().st_mtime_ns for path in there.rglob("*.ckpt")}
    change(there, here)
    after = train(here, caches, epochs, named)
    assert head(here) == head(expected)
    assert checkpoints(here) == checkpoints(expected)
    assert Path(after.best_model_path).is_relative_to(here.resolve())
    assert after.best_model_score == saver.best_model_score
    if change is copied:
        assert {path: path.stat().st_mtime_ns for path in there.rglob("*.ckpt")} == before
