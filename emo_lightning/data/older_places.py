"""Places in training as version 0.2 wrote them: batches of a rank (`position`) instead of optimiser steps."""

from __future__ import annotations

from collections.abc import Mapping

from emo_lightning.core.errors import InputError
from emo_lightning.data.packing import PackedRows
from emo_lightning.data.sampler import EpochBatches, EpochPlan, PlanIdentity


def of_older_release(state: Mapping[str, int | bool | str], plan: EpochPlan) -> PlanIdentity:
    """The state of a loader in today's form.

    Args:
        state: with `position`.
        plan: of the loader that takes it up; it has to be for the same steps, which the caller finds out.

    Raises:
        InputError: it stands where no step of today begins.
    """
    known = {key: value for key, value in state.items() if key not in ("position", "batch_size", "world_size")}
    ranks, position = int(state["world_size"]), int(state["position"])
    if isinstance(plan, PackedRows):
        step, within = divmod(position * ranks, plan.together)
        # Rows of a micro-batch on all ranks, where nothing was said of tokens a step.
        if plan.together % int(state["together"]) == 0:
            known["together"] = plan.together
    elif isinstance(plan, EpochBatches):
        each = int(state["batch_size"]) * ranks
        before = EpochBatches(int(state["size"]), each, seed=0)
        if plan.global_batch % each or before.size != plan.size:
            return {**known, "global_batch": min(each, before.size), "step": 0}
        known["global_batch"] = min(plan.global_batch, plan.size)
        done = before.bounds(position)[0] if position < len(before) else before.size
        starts = (*(plan.bounds(step)[0] for step in range(plan.steps)), plan.size)
        step = next(number for number, start in enumerate(starts) if start >= done)
        within = starts[step] - done
    else:
        msg = f"the checkpoint's loader state has position {position}, which {type(plan).__name__} does not know"
        raise InputError(msg)
    if within:
        msg = (
            "the checkpoint is of version 0.2 and stands within an optimiser step, at the end of an epoch, which has been cut otherwise "
            "since; finish this epoch with that version, or start the stage anew (delete its folder)"
        )
        raise InputError(msg)
    return {**known, "step": step}
