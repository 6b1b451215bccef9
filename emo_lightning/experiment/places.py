"""Where a checkpoint stands in its training, put so that Lightning's loops go on there.

A checkpoint that is written at the end of a batch comes before what follows that batch: a validation, the end of an epoch. Lightning goes on
after it as if that had been done: the validation is lost, and the counters of epochs stay one behind, so that the next start trains an
epoch again. Here the loops' counters, as they stand in the file, are set to one of the places that Lightning goes on from in good order:
"validation has begun, and no batch of it is done", or "all batches of the epoch are done". One that was written within an optimiser step
(gradients of some of its micro-batches are not in it) is put back to where that step begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Literal, cast

from lightning.pytorch import Trainer
from lightning.pytorch.loops.progress import _ProcessedTracker

from emo_lightning.experiment.elastic import scaled

ResumePlace = Literal["validation", "end", "begin"]
_DUE = "emo_validation_due"
"""In a checkpoint that was written at the end of a batch, or in a validation: whether a validation follows it."""


def note_place(trainer: Trainer, checkpoint: MutableMapping[str, Any], *, validating: bool = False) -> None:
    """While a checkpoint is written: note what follows.

    Args:
        trainer: that trains.
        checkpoint: to be written.
        validating: a validation is left in its middle.
    """
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher
    loops = checkpoint["loops"]["fit_loop"]
    if validating:
        validation = loops["epoch_loop.val_loop.batch_progress"]
        _begin_validation(validation, validation["total"]["completed"] - validation["current"]["completed"])
        checkpoint[_DUE] = True
        return
    if not _is_after_batch(loops) or fetcher is None:
        return
    asked, trainer.should_stop = trainer.should_stop, False
    # To be asked to stop is a reason to validate at once, and none to do so when it goes on.
    checkpoint[_DUE] = loop._should_check_val_fx(fetcher)
    trainer.should_stop = asked


def find_place(trainer: Trainer, checkpoint: MutableMapping[str, Any], accumulated: int) -> ResumePlace | None:
    """Before a checkpoint is loaded: set its loops to where they go on; returns the place, if it is none within an epoch.

    Args:
        trainer: that goes on.
        checkpoint: whose loops are set.
        accumulated: micro-batches of a step of the training that wrote it.
    """
    loops = checkpoint["loops"].get("fit_loop")
    if not loops:
        return None
    within = scaled(loops, accumulated, trainer.accumulate_grad_batches)
    if within:
        return _before_step(loops)
    if not _is_after_batch(loops):
        # Only one that was written in the middle of a validation says so.
        return "validation" if checkpoint.get(_DUE) else None
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    last = bool(batches.get("is_last_batch"))
    # The last of `max_steps` ends its epoch as well, with all that follows there.
    ends = last or 0 <= trainer.max_steps <= checkpoint["global_step"]
    every = trainer.check_val_every_n_epoch
    # One of version 0.2.0 says nothing.
    due = checkpoint.get(_DUE, last and trainer.enable_validation and (epochs["current"]["ready"] % (every or 1) == 0))
    if due:
        for part in ("total", "current"):
            batches[part]["completed"] = batches[part]["processed"]
        validation = loops["epoch_loop.val_loop.batch_progress"]
        _begin_validation(validation, validation["total"]["completed"])
    elif ends:
        for part in ("total", "current"):
            batches[part]["completed"] = batches[part]["processed"]
        batches["is_last_batch"] = True
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
    return "validation" if due else "end" if ends else None


def _begin_validation(progress: MutableMapping[str, Any], before: int) -> None:
    """Say that one has begun, and no batch of it is done.

    Args:
        progress: of validation batches.
        before: batches of earlier validations.
    """
    for part, done in (("total", before), ("current", 0)):
        progress[part] |= {"ready": done + 1, "started": done + 1, "processed": done, "completed": done}
    progress["is_last_batch"] = False


def go_on_at(trainer: Trainer, place: ResumePlace) -> None:
    """Once the loops know where they go on: the sums that told them are what was done, and at the end of an epoch nothing is left to do."""
    loop = trainer.fit_loop.epoch_loop
    total = loop.val_loop.batch_progress.total
    total.reset_on_restart()
    if place == "end":
        loop.val_loop._has_run = True
    if place == "begin":
        # No batch of this epoch is done: the loop over them starts as in any other.
        loop.restarting = False


def leave_end(trainer: Trainer) -> None:
    """At the end of the epoch that was gone on with there: no batch has told its loop that it is restarted no more."""
    trainer.fit_loop.epoch_loop.restarting = False
    trainer.fit_loop.epoch_loop.reset_restart_stage()


def in_epoch(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was written before the end of an epoch, with all that follows there."""
    loops = checkpoint["loops"].get("fit_loop")
    if not loops:
        return False
    epochs = loops["epoch_progress"]["current"]
    return bool(epochs["ready"] > epochs["processed"])


def stop_in_epoch(trainer: Trainer) -> None:
    """Have a training that goes on within an epoch do what follows its last batch, and no other batch."""
    loop = trainer.fit_loop
    begin = loop.on_advance_start

    def begin_and_stop() -> None:
        loop.on_advance_start = begin  # type: ignore[method-assign]
        begin()
        # Not before: the loop over epochs would not begin.
        trainer.should_stop = True

    loop.on_advance_start = begin_and_stop  # type: ignore[method-assign]


def _before_step(loops: MutableMapping[str, Any]) -> ResumePlace | None:
    """Where a step begins whose micro-batches are partly done: after that of the step before it, or at the beginning of the epoch."""
    batches = loops["epoch_loop.batch_progress"]
    if batches["current"]["processed"] == 0:
        for part in ("total", "current"):
            batches[part] |= dict.fromkeys(batches[part], batches[part]["processed"])
        return "begin"
    # Validation after it, where one was due, is done.
    for part in ("total", "current"):
        processed = batches[part]["processed"]
        batches[part] |= {"ready": processed, "started": processed, "completed": processed - 1}
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
    return None


def log_rows_first(trainer: Trainer) -> Callable[[], None]:
    """Have the metrics of a step logged before a checkpoint of it is written, and once: Lightning does it after the step's callbacks, which save.

    A training that ended between the two would go on after the step, and nobody would log its row.

    Returns:
        Logs them now, if a step has just been done whose row is due.
    """
    connector = trainer._logger_connector
    progress = cast(_ProcessedTracker, trainer.fit_loop.epoch_loop.batch_progress.total)
    log, logged = connector.update_train_step_metrics, 0

    def once() -> None:
        nonlocal logged
        if logged != progress.processed:
            # To be asked to stop is no reason for one row more: a training that nobody stopped would not have it.
            asked, trainer.should_stop = trainer.should_stop, False
            log()
            trainer.should_stop, logged = asked, progress.processed

    def now() -> None:
        if connector._first_loop_iter is not None and progress.processed == progress.completed + 1:
            once()

    connector.update_train_step_metrics = once  # type: ignore[method-assign]
    return now


def _is_after_batch(loops: MutableMapping[str, Any]) -> bool:
    total = loops["epoch_loop.batch_progress"]["total"]
    return bool(total["processed"] == total["completed"] + 1)
