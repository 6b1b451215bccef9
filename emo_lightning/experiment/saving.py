"""When a training saves itself (`save_every`), where its callbacks save to, and what its checkpoints are called."""

from __future__ import annotations

import copy
import glob
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
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


def saved_to(config: Mapping[str, Any]) -> list[str]:
    """Where the callbacks of a stage's settings save checkpoints, as absolute patterns for `glob`.

    A callback that is given no folder saves to one that its Trainer's first logger names anew at each start: SAVE_DIR/NAME/VERSION/checkpoints.
    Without a logger that has settings it is one of the stage's own folder, for which there is no pattern here.
    """
    trainer = config.get("trainer") or {}
    savers = [given for name, given in _classes(trainer.get("callbacks")) if _SAVER in name or "dirpath" in given]
    if not savers and trainer.get("enable_checkpointing") is not False:
        # Lightning adds one of its own.
        savers = [{}]
    found: dict[str, None] = {}
    for given in savers:
        folder = given.get("dirpath")
        places = [Path(pattern_of(Path(str(folder)).expanduser()))] if folder else _logged_to(trainer.get("logger"))
        # "{epoch}/{step}", or "{val/loss}", which becomes val/loss=0.5.
        folders_below = str(given.get("filename") or "").count("/")
        for place in places:
            found |= dict.fromkeys(str(place.joinpath(*["*"] * depth, "*.ckpt")) for depth in range(folders_below + 1))
    return list(found)


def _logged_to(loggers: object) -> Iterator[Path]:
    """Patterns of the folders that a checkpoint may be in beside what the first logger writes."""
    for _, given in list(_classes(loggers))[:1]:
        # W&B's takes the working folder where it is given none.
        folder = pattern_of(str(given.get("save_dir") or "."))
        # Of the name W&B's makes a project, and CSV's leaves it out where it is empty.
        names = [glob.escape(str(given[key])) for key in ("name", "project") if given.get(key)]
        for name in dict.fromkeys([*names, "*", ""]):
            yield Path(folder, name, "*", "checkpoints")


def pattern_of(folder: str | Path) -> str:
    """A folder as a pattern for `glob` that it alone matches, wherever one stands."""
    return glob.escape(str(Path(folder).absolute()))


def _classes(given: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(class_path, init_args) of each class that settings name: one, several, or none."""
    for one in given if isinstance(given, list) else [given]:
        if isinstance(one, str):
            yield one, {}
        elif isinstance(one, Mapping):
            arguments = one.get("init_args")
            yield str(one.get("class_path")), arguments if isinstance(arguments, Mapping) else {}


def _saves_the_last_alone(callback: object) -> bool:
    if not isinstance(callback, dict) or not str(callback.get("class_path")).endswith(f".{_SAVER}"):
        return False
    given = callback.get("init_args") or {}
    return given.get("monitor") is None and given.get("save_top_k", 1) == 0
