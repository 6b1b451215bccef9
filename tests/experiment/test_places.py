"""Killed after any step and in any validation, a training does everything once, in order, as if it had never been killed."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from emo_lightning.core.endings import ENDING, StoppedError
from emo_lightning.core.logged import start_of
from emo_lightning.experiment.cut_short import watch
from emo_lightning.experiment.found_checkpoints import Checkpoints, newest_checkpoint
from emo_lightning.experiment.saving import SaveEvery
from emo_lightning.experiment.stage import Stage

STEPS = 4
"""Of an epoch."""


class Order(Sampler[int]):
    """Of which Lightning says the epoch."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(STEPS))

    def __len__(self) -> int:
        return STEPS


class Resumable(DataLoader[Tensor]):
    """Goes on within an epoch, as ours do: where an optimiser step begins.

    Args:
        accumulate: batches of a step.
    """

    def __init__(self, accumulate: int) -> None:
        self.accumulate = accumulate
        self.order = Order()
        super().__init__(RandomDataset(32, STEPS), sampler=self.order)
        self.at = 0
        self.loaded: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        start = self.loaded[1] if self.loaded is not None and self.loaded[0] == self.order.epoch else 0
        self.loaded = None
        self.at = start
        for batch in islice(super().__iter__(), start, None):
            self.at += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        epoch, at = self.loaded or (self.order.epoch, self.at)
        return {"epoch": epoch, "at": at - at % self.accumulate}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.loaded = state["epoch"], state["at"]
        self.order.set_epoch(state["epoch"])


class PowerCutError(Exception):
    """What kills the training."""


class SavesWithinSteps(Callback):
    """Saves after every batch, as a ModelCheckpoint with an interval of time may.

    Args:
        out: folder of the stage.
    """

    def __init__(self, out: Path) -> None:
        self.out = out

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        trainer.save_checkpoint(self.out / "checkpoints/last.ckpt")


class Logging(BoringModel):
    """Logs its losses."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:  # noqa: ANN401
        found: Any = super().training_step(batch, batch_idx)
        self.log("loss", found["loss"])
        return found

    def validation_step(self, batch: Tensor, batch_idx: int) -> Any:  # noqa: ANN401
        found: Any = super().validation_step(batch, batch_idx)
        self.log("val", found["x"])
        return found


def rows_of(out: Path) -> list[dict[str, str]]:
    """What stands in the tables of all starts, in order: of each row the cells that hold something."""
    found: list[dict[str, str]] = []
    for path in sorted(out.glob("logs/version_*/metrics.csv"), key=start_of):
        with path.open(encoding="utf-8", newline="") as file:
            found += [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    return found


class Events(Callback):
    """What has been done, and the end of power before the event of that number.

    Args:
        done: filled in.
        cut: events that this process does.
        term: validation batches after which it is sent SIGTERM.
        term_step: steps that this process has done when it is sent SIGTERM.
    """

    def __init__(self, done: list[str], cut: int | None, term: int = -1, term_step: int = -1) -> None:
        self.done, self.left, self.term, self.term_step = done, cut, term, term_step

    def _event(self, name: str) -> None:
        if self.left is not None:
            if self.left == 0:
                raise PowerCutError
            self.left -= 1
        self.done.append(name)

    def on_validation_batch_start(self, *_: object) -> None:
        if self.term == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        self.term -= 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Tensor, batch_idx: int) -> None:
        stepped = trainer.fit_loop.epoch_loop._batches_that_stepped
        if self.term_step == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        self.term_step -= 1
        self._event(f"epoch {trainer.current_epoch} batch {batch_idx} step {trainer.global_step} logged at {stepped}")

    def on_validation_end(self, trainer: Trainer, *_: object) -> None:
        self._event(f"validation after step {trainer.global_step}")

    def on_train_epoch_end(self, trainer: Trainer, *_: object) -> None:
        self._event(f"end of epoch {trainer.current_epoch}")


def train(
    out: Path,
    done: list[str],
    settings: dict[str, Any],
    cut: int | None = None,
    term: int = -1,
    term_step: int = -1,
) -> None:
    """Four batches an epoch, three epochs or so many steps as are asked for, saved at the steps that are asked for."""
    torch.manual_seed(0)
    steps, accumulate = settings.get("max_steps", -1), settings.get("accumulate", 1)
    saves = [SavesWithinSteps(out)] if accumulate > 1 else []
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=out,
        # The last logs where a step begins, and not where it ends.
        callbacks=[Events(done, cut, term, term_step), *saves, LearningRateMonitor("step")],
        accumulate_grad_batches=accumulate,
        enable_checkpointing=False,
        logger=CSVLogger(out, "logs"),
        log_every_n_steps=settings.get("log_every", 1),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        max_epochs=3 if steps < 0 else -1,
        max_steps=steps,
        limit_val_batches=settings.get("limit_val_batches", 2),
        check_val_every_n_epoch=settings.get("check_val_every_n_epoch", 1),
        val_check_interval=settings.get("val_check_interval", 1.0),
    )
    stage = Stage("tune", "sft", "tune", {}, out)
    begun = newest_checkpoint(Checkpoints.of(stage))
    watch(trainer, stage, SaveEvery(steps=settings["steps"]), begun)
    with ENDING.watched():
        trainer.fit(
            Logging(),
            Resumable(accumulate),
            DataLoader(RandomDataset(32, 2)),
            ckpt_path=begun,
            weights_only=True,
        )
    assert trainer.max_steps == steps
    assert trainer.global_step == (3 * STEPS // accumulate if steps < 0 else steps)
    assert trainer.fit_loop.epoch_loop._batches_that_stepped == trainer.global_step
    assert steps >= 0 or trainer.fit_loop.epoch_loop.batch_progress.total.completed == 3 * STEPS
    assert trainer.fit_loop.epoch_progress.total.completed == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 1},
        {"steps": 2},
        {"steps": 4},
        {"steps": 1, "limit_val_batches": 0},
        {"steps": 1, "check_val_every_n_epoch": 2},
        {"steps": 1, "val_check_interval": 2},
        {"steps": 1, "max_steps": 12},
        {"steps": 2, "max_steps": 12, "limit_val_batches": 0},
        {"steps": 1, "max_steps": 10, "val_check_interval": 2},
        {"steps": 1, "max_steps": 10, "limit_val_batches": 0, "log_every": 2},
        {"steps": 1, "max_steps": 9, "val_check_interval": 2},
        {"steps": 1, "accumulate": 2},
        {"steps": 1, "accumulate": 4, "val_check_interval": 4, "limit_val_batches": 0},
    ],
    ids=lambda settings: " ".join(f"{key}={value}" for key, value in settings.items()),
)
def test_every_kill(settings: dict[str, Any], tmp_path: Path) -> None:
    """Starts are killed after one event, and after one more than it takes to come to the next checkpoint, in turn."""
    whole, done = list[str](), list[str]()
    train(tmp_path / "whole", whole, settings)
    for start in count():
        mine: list[str] = []
        cut = settings["steps"] * settings.get("accumulate", 1) + 2 if start % 2 else 1
        try:
            train(tmp_path / "killed", mine, settings, cut)
        except PowerCutError:
            mine.append("killed")
        # What was not saved is done again, from some earlier event on.
        back = done.index(mine[0]) if mine and mine[0] in done else len(done)
        done = done[:back] + mine
        if not mine or mine[-1] != "killed":
            break
        done.remove("killed")
        assert start < 60, done
    assert done == whole
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole") != []


@pytest.mark.parametrize(
    "settings", [{"steps": 100}, {"steps": 100, "max_steps": 10, "val_check_interval": 2}], ids=["epochs", "steps"]
)
def test_a_signal_in_a_validation(settings: dict[str, Any], tmp_path: Path) -> None:
    """All starts but the last are sent SIGTERM in a batch of their second validation, the last but one in the first batch that it does."""
    whole, done = list[str](), list[str]()
    train(tmp_path / "whole", whole, settings)
    validations = sum(event.startswith("validation") for event in whole)
    for left in range(validations - 1, -1, -1):
        before = len(done)
        with pytest.raises(StoppedError, match="by SIGTERM, and saved"):
            train(tmp_path / "stopped", done, settings, term=2 + left % 2 if left else 0)
        assert sum(event.startswith("validation") for event in done[before:]) == bool(left)
    train(tmp_path / "stopped", done, settings)
    assert done == whole
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "whole") != []


@pytest.mark.parametrize(
    "settings",
    [{"steps": 100}, {"steps": 2, "max_steps": 10, "limit_val_batches": 0}, {"steps": 100, "log_every": 2, "accumulate": 2}],
    ids=["epochs", "steps", "accumulated"],
)
def test_a_signal_in_a_step(settings: dict[str, Any], tmp_path: Path) -> None:
    """Every start but the last is sent SIGTERM in its second step: each event and each row once."""
    whole, done = list[str](), list[str]()
    train(tmp_path / "whole", whole, settings)
    stopped = True
    while stopped:
        try:
            train(tmp_path / "stopped", done, settings, term_step=settings.get("accumulate", 1))
            stopped = False
        except StoppedError:
            assert len(done) < len(whole)
    assert done == whole
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "whole") != []
