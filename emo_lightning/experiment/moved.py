"""The paths in a checkpoint of a run that lay elsewhere when it was written: put to where the files are now.

Lightning's ModelCheckpoint notes absolute paths. Where its folder has another name than in the checkpoint, it forgets which of its files is the
best, how good that is, and which it would remove next; the one path that it keeps names a file of the old place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, MutableMapping
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

from emo_lightning.experiment.found_checkpoints import Checkpoints

_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


def follow_files(checkpoint: MutableMapping[str, Any], savers: Iterable[ModelCheckpoint], kept: Checkpoints) -> None:
    """Before a checkpoint is loaded: have what its savers note name the files of this run.

    Args:
        checkpoint: whose savers' notes are set.
        savers: of the Trainer that goes on; their folders are known.
        kept: the stage's checkpoints.
    """
    notes: MutableMapping[str, MutableMapping[str, Any]] = checkpoint.get("callbacks") or {}
    for saver in savers:
        note = notes.get(saver.state_key)
        if not note or saver.dirpath is None or note.get("dirpath") in (None, saver.dirpath):
            continue
        old, new = Path(note["dirpath"]), Path(saver.dirpath)
        for key in _PATHS:
            if note.get(key):
                note[key] = _present(note[key], old, new, kept)
        note["best_k_models"] = {
            _present(path, old, new, kept): score for path, score in (note.get("best_k_models") or {}).items()
        }
        note["dirpath"] = saver.dirpath


def _present(path: str, old: Path, new: Path, kept: Checkpoints) -> str:
    """Where a saver's file is now: in its folder, or, where a logger names that anew at each start, in an older one of this stage.

    Args:
        path: as it was.
        old: the saver's folder then.
        new: the saver's folder now.
        kept: the stage's checkpoints.
    """
    was, home = Path(path), Path(os.path.realpath(kept.out))
    moved = new / was.relative_to(old) if was.is_relative_to(old) else was
    # The longest end of its path that names a file here is the surest.
    ends = (home.joinpath(*was.parts[start:]) for start in range(1, len(was.parts)))
    there = next((place for place in (moved, *ends) if place.is_file()), None)
    return str(there or kept.outside_as(was) or moved)
