"""Whether a training has come to its own end, or a limit of time or a signal has cut it short; with a checkpoint, from which it goes on.

Imported in the process of a stage alone, as it needs Lightning.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from typing_extensions import override

from emo_lightning.core.checkpoints import read_checkpoint
from emo_lightning.core.endings import ENDING, StoppedError
from emo_lightning.core.errors import InputError
from emo_lightning.data.step_cut import StepCut
from emo_lightning.experiment.elastic import note_cut, noted_cut, take_up
from emo_lightning.experiment.found_checkpoints import Checkpoints, remove_half_written, remove_previous
from emo_lightning.experiment.log_rows import LogsOnce
from emo_lightning.experiment.moved import follow_files
from emo_lightning.experiment.places import (
    ResumePlace,
    find_place,
    go_on_at,
    in_epoch,
    leave_end,
    log_rows_first,
    note_place,
    stop_in_epoch,
)
from emo_lightning.experiment.saving import LAST_CHECKPOINT, STAGE_KEY, SaveEvery
from emo_lightning.experiment.sent_rows import SentRows
from emo_lightning.experiment.stage import Stage, StageCutShortError
from emo_lightning.experiment.whole_checkpoints import WholeCheckpoints


class KeepWhenCut(Callback):
    """Saves a checkpoint at the step at which training is asked to stop, while the loop's counters still say where it stands.

    Args:
        kept: the stage's checkpoints.
        every: how often to save besides.
        begun: the checkpoint that this start goes on from.
        accumulate: micro-batches of a step, as the Trainer is configured.
    """

    def __init__(
        self,
        kept: Checkpoints,
        every: SaveEvery | None = None,
        begun: Path | None = None,
        accumulate: int = 1,
    ) -> None:
        self.kept = kept
        self.last = kept.out / "checkpoints" / LAST_CHECKPOINT
        """The checkpoint that the next start goes on from."""
        self.every = every or SaveEvery()
        self.cut: tuple[int, int] | None = None
        """(step, epoch from 1) at which it was asked to stop in mid-epoch or before its last epoch."""
        self._step = 0
        self._since = 0.0
        self._saved = 0.0
        self._place: ResumePlace | None = None
        self._in_epoch: bool | None = None
        """Whether this start goes on within an epoch; None where it goes on from nothing."""
        self._steps = 0
        self._most_steps: int | None = None
        self._validating = False
        self.begun = begun
        self.accumulate = accumulate
        self.cut_anew: StepCut | None = None
        """How steps are shared, where the number of ranks is another than at the beginning."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before loaders and optimisers are made, whose number of steps depends on it.

        Raises:
            InputError: the ranks do not go on from the same step.
        """
        if stage != "fit":
            return
        checkpoint = None if self.begun is None else read_checkpoint(self.begun)
        self._check_same_step(trainer, None if checkpoint is None else cast(int, checkpoint["global_step"]))
        if checkpoint is None:
            return
        noted = noted_cut(checkpoint, self.accumulate)
        if noted is not None:
            self.cut_anew = take_up(trainer, noted)

    def _check_same_step(self, trainer: Trainer, step: int | None) -> None:
        own = torch.tensor([-1 if step is None else step], device=trainer.strategy.root_device)
        steps = trainer.strategy.all_gather(own).flatten().tolist()
        if len(set(steps)) > 1:
            found = ", ".join(
                f"rank {rank} {'finds no checkpoint' if at < 0 else f'would go on after step {at}'}"
                for rank, at in enumerate(steps)
            )
            msg = f"{self.last.parent}: {found}; checkpoints have to lie where every rank reads the same ones"
            raise InputError(msg)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Of every checkpoint, whoever asked for it."""
        checkpoint[STAGE_KEY] = self.kept.digest
        note_place(trainer, checkpoint, validating=self._validating)
        note_cut(trainer, checkpoint)

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Before the loops take their counters from it, and the savers what they have saved."""
        follow_files(checkpoint, _savers_of(trainer), self.kept)
        noted = noted_cut(checkpoint, self.accumulate)
        self._place = find_place(trainer, checkpoint, trainer.accumulate_grad_batches if noted is None else noted["accumulate"])
        self._steps = checkpoint["global_step"]
        self._in_epoch = in_epoch(checkpoint)
        if trainer.strategy.restore_checkpoint_after_setup:
            self._allow_one_step_more(trainer)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Once the schedule is made of `max_steps`."""
        if not trainer.strategy.restore_checkpoint_after_setup:
            self._allow_one_step_more(trainer)

    def _allow_one_step_more(self, trainer: Trainer) -> None:
        """After the last of `max_steps` Lightning would find nothing left to do, and leave out what follows that step."""
        if self._place in ("validation", "end") and 0 <= trainer.max_steps <= self._steps:
            self._most_steps = trainer.max_steps
            trainer.fit_loop.epoch_loop.max_steps = self._steps + 1

    def _allow_no_more(self, trainer: Trainer) -> None:
        if self._most_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps, self._most_steps = self._most_steps, None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is something to save."""
        if self._place is not None:
            go_on_at(trainer, self._place)
        # No checkpoint of Lightning's says that early stopping has ended the training after which it was written.
        if self._in_epoch is not None and stopped_early(trainer) and not _lost_metric(trainer):
            if self._in_epoch:
                stop_in_epoch(trainer)
            else:
                trainer.should_stop = True
        self._step = trainer.global_step
        self._since = self._saved = time.monotonic()
        ENDING.begin_steps()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of the first one after a checkpoint."""
        self._allow_no_more(trainer)
        if self._place == "end":
            leave_end(trainer)
        self._place = None

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All steps are done."""
        ENDING.end_steps()

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """After the callbacks that may ask for it: this one stands last.

        Raises:
            StoppedError: on every rank at once, when one of them has got a signal; a checkpoint is written.
        """
        if trainer.global_step == self._step:
            return  # A part of a step.
        self._step = trainer.global_step
        now = time.monotonic()
        ENDING.step_took(now - self._since)
        self._since = now
        if self.every.minutes is not None and trainer.is_global_zero:
            # Of several ranks, all learn of it in the next step.
            ENDING.save_wanted = now - self._saved >= self.every.minutes * 60
        if trainer.world_size == 1:
            ENDING.agree(ENDING.wishes())
        asked = ENDING.agreed
        if (trainer.should_stop or asked is not None) and not _at_its_end(trainer, trainer.current_epoch + 1):
            self.cut = trainer.global_step, trainer.current_epoch + 1
            self.save(trainer)
            if asked is not None:
                ENDING.stopped = True
                raise StoppedError(asked, trainer.global_step)
        elif ENDING.save_agreed or (self.every.steps is not None and trainer.global_step % self.every.steps == 0):
            self.save(trainer)

    @override
    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """A validation may take longer than a signal can wait: it is left here, and done as a whole by the next start.

        Raises:
            StoppedError: on every rank at once, when one of them has got a signal; a checkpoint is written.
        """
        if trainer.sanity_checking or trainer.fit_loop._should_accumulate():
            # Of the latter it ends after the step, within which the validation stands.
            return
        now = time.monotonic()
        ENDING.step_took(now - self._since)
        self._since = now
        wishes = ENDING.wishes()
        if trainer.world_size > 1:
            wishes = trainer.strategy.reduce(torch.tensor(wishes, device=pl_module.device), reduce_op="sum").tolist()
        ENDING.agree(wishes)
        if (asked := ENDING.agreed) is not None:
            self.cut = trainer.global_step, trainer.current_epoch + 1
            self._validating = True
            self.save(trainer)
            ENDING.stopped = True
            raise StoppedError(asked, trainer.global_step)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What follows is measured anew."""
        self._since = time.monotonic()
        self._allow_no_more(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint that the next start goes on from."""
        folder = os.path.realpath(self.last.parent)
        for saver in _savers_of(trainer):
            if saver.dirpath is not None and os.path.realpath(saver.dirpath) == folder:
                # It would take the file for another's, and leave it behind for a `last-v1.ckpt`.
                saver.last_model_path = str(Path(saver.dirpath, self.last.name))
        trainer.save_checkpoint(self.last, weights_only=False)
        ENDING.save_wanted = ENDING.save_agreed = False
        self._saved = time.monotonic()

    def check(self, trainer: Trainer) -> None:
        """Refuse a training that did not reach its end; of one that did, nobody goes back to the checkpoint before the last.

        Raises:
            StageCutShortError: says where it stopped.
        """
        self._check(trainer)
        if trainer.is_global_zero:
            remove_previous(self.kept)

    def _check(self, trainer: Trainer) -> None:
        """Whether it reached `max_epochs`, `max_steps` or a rule of its own (early stopping)."""
        steps = trainer.max_steps
        if getattr(trainer, "fast_dev_run", False):
            msg = "a trial (fast_dev_run) is never complete"
            raise StageCutShortError(msg)
        if lost := _lost_metric(trainer):
            msg = f"early stopping found that {lost} is no finite number; that is no end"
            raise StageCutShortError(msg)
        if stopped_early(trainer):
            return
        at = self.cut if self.cut is not None and self.cut[0] == trainer.global_step else None
        if at is None and _at_its_end(trainer, trainer.current_epoch):
            return
        if at is None:
            # At the end of an epoch, where the counters say so.
            at = trainer.global_step, trainer.current_epoch
            self.save(trainer)
        of = f"{steps} steps" if steps >= 0 else f"{trainer.max_epochs} epochs"
        msg = f"stopped after step {at[0]}, in epoch {at[1]}, of {of}"
        raise StageCutShortError(msg)


def _at_its_end(trainer: Trainer, epochs: int) -> bool:
    """Whether nothing is left to do.

    Args:
        trainer: that trains or has trained.
        epochs: begun so far, of which the last may be unfinished.
    """
    most = trainer.max_epochs
    last_batch = bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)
    # A training of no epochs, as a sweep over rounds has, is at its end where it begins.
    done = most is not None and (most == 0 or (0 < most <= epochs and last_batch))
    return done or 0 <= trainer.max_steps <= trainer.global_step


def stopped_early(trainer: Trainer) -> bool:
    """Whether a rule on a metric has ended the training."""
    found = (one for one in callbacks_of(trainer) if isinstance(one, EarlyStopping))
    return any(one.stopping_reason != EarlyStoppingReason.NOT_STOPPED for one in found)


def _lost_metric(trainer: Trainer) -> str | None:
    """The metric of early stopping that is not finite: Lightning stops there as if training had converged."""
    found = (one for one in callbacks_of(trainer) if isinstance(one, EarlyStopping))
    return next((one.monitor for one in found if one.stopping_reason == EarlyStoppingReason.NON_FINITE_METRIC), None)


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Those of a Trainer, in the order in which they are called."""
    found: list[Callback] = getattr(trainer, "callbacks", [])
    return found


def _savers_of(trainer: Trainer) -> list[ModelCheckpoint]:
    return [one for one in callbacks_of(trainer) if isinstance(one, ModelCheckpoint)]


def watch(
    trainer: Trainer,
    stage: Stage,
    every: SaveEvery | None = None,
    begun: Path | None = None,
    sent: SentRows | None = None,
) -> KeepWhenCut:
    """Add `KeepWhenCut` and `LogsOnce`, and have `max_time` count each start: a checkpoint's clock would end the next one at once."""
    keeper = KeepWhenCut(Checkpoints.of(stage), every, begun, trainer.accumulate_grad_batches)
    for callback in callbacks_of(trainer):
        if isinstance(callback, Timer):
            callback.load_state_dict = lambda state_dict: None  # type: ignore[method-assign] # noqa: ARG005
    callbacks_of(trainer).insert(0, LogsOnce(stage.out, begun, sent))
    callbacks_of(trainer).append(keeper)
    trainer.strategy.checkpoint_io = WholeCheckpoints()
    remove_half_written(keeper.kept, first=trainer.is_global_zero)
    trainer.save_checkpoint = _with_time_to_save(trainer.save_checkpoint, log_rows_first(trainer))  # type: ignore[method-assign]
    answer_signals_alone(trainer)
    return keeper


def _with_time_to_save(save: Callable[..., None], log_row: Callable[[], None]) -> Callable[..., None]:
    @wraps(save)
    def with_time(*given: object, **named: object) -> None:
        log_row()
        with ENDING.saving():
            save(*given, **named)

    return with_time


def answer_signals_alone(trainer: Trainer) -> None:
    """Keep Lightning's own handlers away.

    Its handler of SIGTERM starts a collective wherever the rank stands, which the others do not join: a signal to the second rank hangs.
    The one of SLURM saves from inside of a step. With them goes the broadcast before each batch, which only knew of the first rank.
    """
    connector = trainer._signal_connector
    connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
