"""A training that something has cut short is not complete; the same command goes on from where it stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.demos.boring_classes import BoringModel

from emo_lightning.experiment.cut_short import watch
from emo_lightning.experiment.stage import Stage, StageCutShortError


class Logged(BoringModel):
    """Says its loss."""

    def on_train_epoch_end(self) -> None:
        self.log("loss", 0.0)
        self.log("lost", math.nan)


class StopAt(Callback):
    """What a limit of time does, at a step.

    Args:
        step: global step.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


def stage_in(folder: Path) -> Stage:
    return Stage("tune", "sft", "tune", {}, folder)


def trained(folder: Path, *callbacks: Callback, length: Mapping[str, int], last: Path | None = None) -> Trainer:
    """Train on three batches an epoch, and hold the result against its length."""
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[*callbacks, ModelCheckpoint(folder, save_top_k=0)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_train_batches=3,
        limit_val_batches=1,
        max_epochs=length.get("max_epochs"),
        max_steps=length.get("max_steps", -1),
        fast_dev_run=length.get("fast_dev_run", False),
    )
    keeper = watch(trainer, stage_in(folder))
    trainer.fit(Logged(), ckpt_path=last, weights_only=True)
    keeper.check(trainer)
    return trainer


@pytest.mark.parametrize(("step", "epoch"), [(1, 1), (3, 1), (4, 2), (6, 2), (8, 3)])
def test_it_is_kept_and_goes_on(step: int, epoch: int, tmp_path: Path) -> None:
    """Within an epoch, at its end, and in the last one."""
    last = tmp_path / "checkpoints/last.ckpt"
    with pytest.raises(StageCutShortError, match=f"stopped after step {step}, in epoch {epoch}, of 3 epochs"):
        trained(tmp_path, StopAt(step), length={"max_epochs": 3})
    assert trained(tmp_path, length={"max_epochs": 3}, last=last).global_step == 9


@pytest.mark.parametrize(
    ("callbacks", "length"),
    [
        ([], {"max_epochs": 0}),
        ([], {"max_epochs": 2}),
        ([], {"max_epochs": 2, "max_steps": 4}),
        ([], {"max_epochs": -1, "max_steps": 4}),
        ([StopAt(6)], {"max_epochs": 2}),
        ([StopAt(4)], {"max_epochs": 2, "max_steps": 4}),
        ([EarlyStopping("loss", stopping_threshold=1e9, check_on_train_epoch_end=True)], {"max_epochs": 9}),
    ],
    ids=[
        "no epochs",
        "epochs",
        "steps before epochs",
        "steps",
        "asked to stop at its end",
        "and at its last step",
        "early stopping",
    ],
)
def test_its_own_length_and_early_stopping_are_an_end(
    callbacks: list[Callback], length: dict[str, int], tmp_path: Path
) -> None:
    trained(tmp_path, *callbacks, length=length)
    assert not (tmp_path / "checkpoints/last.ckpt").exists()


def test_a_metric_that_is_no_number_is_no_end(tmp_path: Path) -> None:
    """Lightning's early stopping ends there as if nothing were left to gain."""
    early = EarlyStopping("lost", check_on_train_epoch_end=True)
    with pytest.raises(StageCutShortError, match="early stopping found that lost is no finite number"):
        trained(tmp_path, early, length={"max_epochs": 9})


def test_a_trial_is_none(tmp_path: Path) -> None:
    with pytest.raises(StageCutShortError, match="a trial"):
        trained(tmp_path, length={"fast_dev_run": 1})


def test_each_start_has_its_own_time(tmp_path: Path) -> None:
    timer = Timer("00:01:00:00")
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, callbacks=[timer], logger=False, enable_checkpointing=False)
    watch(trainer, stage_in(tmp_path))
    timer.load_state_dict({"time_elapsed": {"train": 9999.0}})
    assert timer.time_elapsed() == 0
