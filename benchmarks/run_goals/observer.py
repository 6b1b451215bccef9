"""A callback of the measured trainings: notes every loss to the bit, and has its process killed where a file says so."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.types import STEP_OUTPUT

PLAN = "kill.json"
"""Beside the notes: `start` (its number), and of a kill `event`, `step` (optimiser steps that must be done), `rank` and `delay` (seconds)."""
HIT = "hit-{start}"
"""Beside the notes: a file that is there once the kill of that start has come."""


class Observer(pl.Callback):
    """Notes of one rank.

    Args:
        folder: for `rank-N.jsonl` and `pid-N`.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.plan: dict[str, Any] = {}
        self.rank, self.start, self.begun = 0, 0, 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Read the plan, once a start."""
        self.rank = trainer.global_rank
        plan = self.folder / PLAN
        self.plan = json.loads(plan.read_text(encoding="utf-8")) if plan.exists() else {}
        self.start = self.plan.get("start", 0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Right after a resume, where there was something to resume."""
        self.begun = trainer.global_step
        self._event("start", trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int) -> None:
        """In an optimiser step, after its first micro-batch where it has several."""
        if trainer.global_step == self.begun + 2:
            (self.folder / f"pid-{self.rank}.tmp").write_text(str(os.getpid()), encoding="utf-8")
            (self.folder / f"pid-{self.rank}.tmp").rename(self.folder / f"pid-{self.rank}")
        if batch_idx % trainer.accumulate_grad_batches == trainer.accumulate_grad_batches - 1:
            self._event("step", trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Mapping[str, Any], batch_idx: int
    ) -> None:
        """Note the loss and the samples."""
        assert isinstance(outputs, dict)
        self._note(
            at=f"epoch {trainer.current_epoch} batch {batch_idx}",
            # The sum over the samples: Lightning has divided by the micro-batches.
            loss=(float(outputs["loss"]) / trainer.world_size).hex(),
            keys=[key for key, filler in zip(batch["key"], batch["filler"].tolist(), strict=True) if not filler],
            step=trainer.global_step - (batch_idx % trainer.accumulate_grad_batches == trainer.accumulate_grad_batches - 1),
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The boundary of two epochs."""
        self._event("boundary", trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        """In mid-validation."""
        self._event("validation", trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the loss."""
        self._note(at=f"validation {trainer.global_step}", loss=float(trainer.callback_metrics["val/loss"]).hex())

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Before a checkpoint is written; the kill comes while it is, or shortly after."""
        self._event("save", trainer)

    def _event(self, name: str, trainer: pl.Trainer) -> None:
        plan = self.plan
        if plan.get("event") != name or trainer.global_step < plan["step"] or self.rank != plan.get("rank", 0):
            return
        self.plan = {}
        hit = self.folder / HIT.format(start=self.start)
        if delay := plan.get("delay"):
            threading.Thread(target=_kill, args=(hit, delay), daemon=True).start()
        else:
            _kill(hit, 0.0)

    def _note(self, **found: object) -> None:
        with open(self.folder / f"rank-{self.rank}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"start": self.start, **found}) + "\n")


def _kill(hit: Path, delay: float) -> None:
    time.sleep(delay)
    hit.touch()
    os.kill(os.getpid(), signal.SIGKILL)
