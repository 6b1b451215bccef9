"""A training that something has cut short is not complete; the same command goes on from where it stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.demos.boring_classes import BoringModel

from emo_lightning.core.errors import InputError
from emo_lightning.experiment.cut_short import KeepWhenCut, watch
from emo_lightning.experiment.stage import Stage, StageCutShortError
from tests.ranks import run_ranks

QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


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
        **QUIET,
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


class Falling(BoringModel):
    """Its validation loss rises from the second one on; notes its hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    def on_train_batch_end(self, *_: object) -> None:
        self.done.append(f"batch {self.global_step}")

    def on_validation_epoch_end(self) -> None:
        self.done.append("validation")
        self.log("val", float(self.global_step))

    def on_train_epoch_end(self) -> None:
        self.done.append("epoch end")
        self.log("loss", float(self.global_step))


def stopping(
    folder: Path,
    monitor: str,
    last: Path | None = None,
    *,
    saved: Path | None = None,
    **length: Any,  # noqa: ANN401  # the trainer's
) -> tuple[list[str], KeepWhenCut, Trainer]:
    """Early stopping, in mid-epoch (`val`) or at its end (`loss`), and a checkpoint right after it."""
    at_end = monitor == "loss"
    early = EarlyStopping(monitor, patience=1, check_on_train_epoch_end=at_end)
    saver = ModelCheckpoint(saved, save_top_k=-1, filename="{step}", save_on_train_epoch_end=at_end)
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[early, saver],
        **QUIET,
        limit_train_batches=6,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        val_check_interval=2,
        **({"max_epochs": 9} | length),
    )
    keeper, model = watch(trainer, stage_in(folder), begun=last), Falling()
    trainer.fit(model, ckpt_path=last, weights_only=True)
    return model.done, keeper, trainer


@pytest.mark.parametrize(("monitor", "step", "left"), [("val", 4, ["epoch end"]), ("loss", 12, [])])
def test_one_that_has_stopped_early_stays_so(monitor: str, step: int, left: list[str], tmp_path: Path) -> None:
    """Killed after its checkpoint, before its stage is complete: what follows that step is done, and no other step."""
    whole, keeper, trainer = stopping(tmp_path, monitor, saved=tmp_path)
    keeper.check(trainer)
    assert trainer.global_step == step
    found, keeper, trainer = stopping(tmp_path, monitor, tmp_path / f"step={step}.ckpt")
    keeper.check(trainer)
    assert found == left == whole[len(whole) - len(left) :]
    assert trainer.global_step == step


def test_before_its_least_steps_early_stopping_is_no_end(tmp_path: Path) -> None:
    whole, keeper, trainer = stopping(tmp_path, "val", saved=tmp_path, min_steps=9)
    keeper.check(trainer)
    assert trainer.global_step == 9
    found, keeper, trainer = stopping(tmp_path, "val", tmp_path / "step=4.ckpt", min_steps=9)
    keeper.check(trainer)
    assert found == whole[whole.index("batch 5") :]


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


def goes_on_alone(folder: Path, last: Path) -> None:
    """On the first of two ranks alone."""
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        default_root_dir=folder,
        **QUIET,
        max_steps=6,
    )
    begun = last if trainer.global_rank == 0 else None
    watch(trainer, stage_in(folder), begun=begun)
    with pytest.raises(
        InputError, match=r"checkpoints: rank 0 would go on after step 4, rank 1 finds no checkpoint; checkpoints"
    ):
        trainer.fit(BoringModel(), ckpt_path=begun, weights_only=True)


@pytest.mark.slow
def test_ranks_go_on_from_one_step(tmp_path: Path) -> None:
    """Their checkpoints may lie on disks of their own machines."""
    last = tmp_path / "checkpoints/last.ckpt"
    with pytest.raises(StageCutShortError):
        trained(tmp_path, StopAt(4), length={"max_epochs": 3})
    run_ranks(partial(goes_on_alone, tmp_path, last))
