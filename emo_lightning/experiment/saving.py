"""When a training saves itself (`save_every`), and from which of its checkpoints it goes on."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emo_lightning.core.checkpoints import START_ANEW, CheckpointFileError, check_content, read_checkpoint
from emo_lightning.core.errors import InputError
from emo_lightning.core.terminal import say

STAGE_KEY = "emo_stage"
"""In a checkpoint: digest of the stage that wrote it."""
LAST = "last.ckpt"
"""Name of the checkpoint that the next start goes on from; Lightning's own callback calls it so, too."""
PREVIOUS = "previous.ckpt"
"""Name of the one before it."""
GO_BACK = "--go-back"
"""Option of `emo run`: a damaged checkpoint is set aside, and the one before it taken."""
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


class DamagedCheckpointError(CheckpointFileError):
    """One of a stage's checkpoints cannot be read; the message says what to do."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


def set_damaged_aside(out: Path, digest: str) -> None:
    """Rename every damaged checkpoint of a stage, and say so: the next start goes on from the newest that is left.

    Args:
        out: the stage's folder.
        digest: of the stage.
    """
    while True:
        try:
            newest_checkpoint(out, digest, [])
        except DamagedCheckpointError as error:
            aside = error.path.with_name(f"{error.path.name}.damaged")
            # Another rank may have been faster.
            with suppress(FileNotFoundError):
                error.path.rename(aside)
                say(f"{error.path}: damaged; it is called {aside.name} now", file=sys.stderr)
        else:
            return


def newest_checkpoint(out: Path, digest: str, elsewhere: Sequence[Path]) -> Path | None:
    """The checkpoint to go on from: that of the highest step, of those that Lightning, SLURM's handler or we have left.

    Args:
        out: the stage's folder; every checkpoint below it is this stage's.
        digest: of the stage.
        elsewhere: folders outside of it that it saves to. They may hold checkpoints of others: only those that name this stage count.

    Raises:
        CheckpointFileError: one is damaged; names it, and the one that is gone on from without it. Nobody goes back in silence.
    """
    found: list[tuple[int, int, Path]] = []
    damaged: tuple[CheckpointFileError, Path] | None = None
    # What `**` looks for is not looked for behind links.
    there = [*out.rglob("*.ckpt"), *(out / "checkpoints").glob("*.ckpt")]
    own = [path for path in dict.fromkeys(there) if path.relative_to(out).parts[0] not in (".tmp", "wandb")]
    others = [
        path for folder in elsewhere for path in folder.glob("*.ckpt") if not path.resolve().is_relative_to(out.resolve())
    ]
    for path in dict.fromkeys([*own, *others]):
        try:
            checkpoint = read_checkpoint(path)
        except CheckpointFileError as error:
            if path in own:
                damaged = damaged or (error, path)
            continue
        step = checkpoint["global_step"]
        assert isinstance(step, int)
        if path in own or checkpoint.get(STAGE_KEY) == digest:
            found.append((step, path.stat().st_mtime_ns, path))
    newest, before = [*sorted(found, reverse=True)[:2], None, None][:2]
    if newest is not None and damaged is None:
        try:
            # Only of the one that is used, as it reads all of it.
            check_content(newest[2])
        except CheckpointFileError as error:
            damaged, newest = (error, newest[2]), before
    if damaged is not None:
        msg = str(damaged[0])
        if newest is not None:
            msg = f"{msg.removesuffix(START_ANEW)}remove it, or add {GO_BACK}, to go on from {newest[2]} (step {newest[0]})"
        raise DamagedCheckpointError(msg, damaged[1])
    return None if newest is None else newest[2]
