"""When a training saves itself (`save_every`), and what its checkpoints are called."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emo_lightning.core.errors import InputError

STAGE_KEY = "emo_stage"
"""In a checkpoint: digest of the stage that wrote it."""
LAST_CHECKPOINT = "last.ckpt"
"""Name of the checkpoint that the next start goes on from; Lightning's own callback calls it so, too."""
PREVIOUS_CHECKPOINT = "previous.ckpt"
"""Name of the one before it."""
_SAVER = "ModelCheckpoint"


@dataclass
class SaveEvery:
    """How often a training writes the checkpoint that it goes on from; may be changed while it is half done."""

    steps: int | None = None
    """Optimiser steps from one to the next."""
    minutes: float | None = None
    """Minutes from one to the next, by the first rank's clock."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            msg = f"save_every.steps: found {self.steps}; expected 1 or more"
            raise InputError(msg)
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            msg = f"save_every.minutes: found {self.minutes}; expected more than 0"
            raise InputError(msg)


def split_config(config: Mapping[str, Any]) -> tuple[dict[str, Any], SaveEvery | None]:
    """A stage's arguments as Lightning's own parser takes them, and `save_every` of them.

    Where `save_every` is given, callbacks that do no more than save for the next start give way to it.
    """
    plain = copy.deepcopy(dict(config))
    given = plain.pop("save_every", None)
    every = SaveEvery(**given) if given else None
    if every is None or (every.steps is None and every.minutes is None):
        return plain, None
    trainer = plain.setdefault("trainer", {})
    callbacks = trainer.get("callbacks") or []
    left = [one for one in callbacks if not _saves_the_last_alone(one)] if isinstance(callbacks, list) else callbacks
    if isinstance(callbacks, list):
        trainer["callbacks"] = left
        if not any(_SAVER in str(one.get("class_path")) for one in left if isinstance(one, dict)):
            # Lightning would add one of its own, which saves at the end of each epoch.
            trainer["enable_checkpointing"] = False
    return plain, every


def _saves_the_last_alone(callback: object) -> bool:
    if not isinstance(callback, dict) or not str(callback.get("class_path")).endswith(f".{_SAVER}"):
        return False
    given = callback.get("init_args") or {}
    return given.get("monitor") is None and given.get("save_top_k", 1) == 0
