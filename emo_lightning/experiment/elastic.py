"""A training that goes on with another number of ranks: the same optimiser steps, cut anew.

A checkpoint says how its steps were cut. What the Trainer counts in micro-batches (accumulation, where an epoch is cut off, when to
validate) is put so that it means the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from emo_lightning.core.errors import InputError
from emo_lightning.core.terminal import say
from emo_lightning.data.step_cut import ComparesSamples, CutsSteps, StepCut, cut_anew

_CUT = "emo_step"
"""In a checkpoint: how its steps were cut, and what was counted in micro-batches."""


def note_cut(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """While a checkpoint is written: note how steps are cut, unless that changes from epoch to epoch."""
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, CutsSteps) or any(isinstance(one, GradientAccumulationScheduler) for one in _callbacks(trainer)):
        return
    checkpoint[_CUT] = {
        **data.cut()._asdict(),
        "batches": trainer.num_training_batches,
        "validate_every": trainer.val_check_batch,
    }


def noted_cut(checkpoint: Mapping[str, Any], accumulate: int) -> dict[str, Any] | None:
    """How the steps of the training were cut that wrote a checkpoint; None where it does not say.

    Args:
        checkpoint: of a training with these settings.
        accumulate: as it is configured, which is all that version 0.2 knew.
    """
    if _CUT in checkpoint:
        noted: dict[str, Any] = checkpoint[_CUT]
        return noted
    loops = checkpoint["loops"].get("fit_loop") or {}
    states = loops.get("state_dict", {}).get("combined_loader") or [{}]
    state = states[0] if isinstance(states[0], dict) else {}
    if "world_size" not in state:
        return None
    ranks = int(state["world_size"])
    if "together" not in state:
        return {"ranks": ranks, "accumulate": accumulate, "rows": int(state["batch_size"])}
    together = int(state["together"])
    return {"ranks": ranks, "accumulate": together // ranks if together > ranks else accumulate, "rows": 1}


def take_up(trainer: Trainer, noted: Mapping[str, Any]) -> StepCut | None:
    """Before loaders and optimisers are made: cut steps as a checkpoint says, on the ranks that there are.

    Args:
        trainer: as it is configured, its ranks connected.
        noted: in the checkpoint (`noted_cut`).

    Returns:
        How steps are cut, where that is otherwise than configured.

    Raises:
        InputError: the ranks cannot share its steps, or what is counted in micro-batches cannot be told in others.
    """
    data = getattr(trainer, "datamodule", None)
    task = trainer.lightning_module
    if not isinstance(data, CutsSteps):
        return None
    # By its class: a misspelt attribute would mean that nothing must stay together.
    if not isinstance(task, ComparesSamples):
        msg = f"{type(task).__name__}: expected a task that says which samples its loss sees together"
        raise TypeError(msg)
    if task.compares == "all":
        return None
    saved = StepCut(noted["ranks"], noted["accumulate"], noted["rows"])
    configured, cut = data.cut(), cut_anew(saved, trainer.world_size, task.compares, data.most_rows)
    if trainer.is_global_zero and cut.ranks != saved.ranks:
        say(
            f"begun with {saved.ranks} processes, goes on with {cut.ranks}; a step keeps its samples (processes × micro-batches × "
            f"{'rows' if cut.rows == data.most_rows == 1 else 'samples'}: {saved} before, {cut} now), and dropout is drawn "
            + ("as it would have been" if cut.rows == saved.rows else "otherwise than it would have been")
        )
    if cut == configured:
        return None
    data.take_cut(cut)
    trainer.accumulate_grad_batches = cut.accumulate
    _recount(trainer, noted, saved.accumulate, cut.accumulate)
    return cut


def scaled(loops: dict[str, Any], before: int, now: int) -> bool:
    """Tell what a checkpoint's loops count in micro-batches in those of now, from the last whole step on.

    Args:
        loops: state of the fit loop.
        before: micro-batches of a step there.
        now: of a step here.

    Returns:
        Whether the checkpoint stood within a step, which will be done again.
    """
    batches = loops["epoch_loop.batch_progress"]
    within = within_step(batches, before)
    if within:
        for part in ("total", "current"):
            for key in batches[part]:
                batches[part][key] -= within
    if before != now:
        for part in ("total", "current"):
            processed = batches[part]["processed"]
            behind = {key: processed - value for key, value in batches[part].items()}
            batches[part] = {key: -(-processed // before) * now - behind[key] for key in batches[part]}
    return bool(within)


def within_step(batches: Mapping[str, Any], accumulate: int) -> int:
    """How many micro-batches are done of a step that is not.

    Args:
        batches: progress over them, as a checkpoint holds it.
        accumulate: micro-batches of a step.
    """
    return 0 if batches["is_last_batch"] else int(batches["current"]["processed"]) % accumulate


def _recount(trainer: Trainer, noted: Mapping[str, Any], before: int, now: int) -> None:
    """Have the Trainer's limits, which it counts in micro-batches, mean the same steps."""
    if before == now:
        return
    limit, every = trainer.limit_train_batches, trainer.val_check_interval
    if repr(limit) not in ("1.0", "None") and (batches := noted.get("batches", limit)) is not None and isinstance(batches, int):
        trainer.limit_train_batches = _in_micro_batches(batches, before, now, "trainer.limit_train_batches")
    if isinstance(every, int) or (isinstance(every, float) and every != 1.0):
        batches = noted.get("validate_every", every)
        if isinstance(batches, int) and not math.isinf(batches):
            trainer.val_check_interval = _in_micro_batches(batches, before, now, "trainer.val_check_interval")


def _in_micro_batches(batches: int, before: int, now: int, key: str) -> int:
    if batches * now % before:
        msg = (
            f"{key}: {batches} micro-batches, of which {before} were a step, are no whole number of those of which {now} are one; go on with "
            "as many processes as before"
        )
        raise InputError(msg)
    return batches * now // before


def _callbacks(trainer: Trainer) -> list[Callback]:
    found: list[Callback] = getattr(trainer, "callbacks", [])
    return found
