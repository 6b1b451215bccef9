"""How a checkpoint is written: whole or not at all, and without losing the one before it.

Imported in the process of a stage alone, as it needs Lightning.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from typing_extensions import override

from emo_lightning.core.files import replacing, this_writer
from emo_lightning.experiment.saving import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the place of a checkpoint and renames: its folder may be a link to another disk, or lie elsewhere.

    Lightning's own writes to the system's temporary folder, and copies where that is another disk. The checkpoint that the next start goes
    on from is kept as `PREVIOUS_CHECKPOINT` when a newer one takes its place.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """See `CheckpointIO.save_checkpoint`; called on the first rank alone."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        # In memory first, as Lightning does: torch ends the whole process where a disk is full under it.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with replacing(target, writer=this_writer(), fsync=True) as temporary:
            temporary.write_bytes(buffer.getbuffer())
            if target.name == LAST_CHECKPOINT and target.is_file():
                _keep(target)


def _keep(last: Path) -> None:
    """As `PREVIOUS_CHECKPOINT` beside it; at every instant one of the two names is there."""
    try:
        with replacing(last.with_name(PREVIOUS_CHECKPOINT), writer=this_writer()) as between:
            between.unlink(missing_ok=True)
            os.link(last, between)
    except OSError:
        # Not every file system has two names for one file.
        last.replace(last.with_name(PREVIOUS_CHECKPOINT))
