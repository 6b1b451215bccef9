"""The best weights of a training, of which a callback of Lightning keeps the checkpoint."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from emo_lightning.core.checkpoints import START_ANEW_ADVICE, CheckpointFileError, check_content, read_checkpoint


def best_checkpoint(trainer: pl.Trainer) -> str | None:
    """Path of the best checkpoint of the first callback that monitors something, or None."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None and callback.best_model_path:
            return callback.best_model_path
    return None


def read_best(path: str, folder: str | Path) -> dict[str, object]:
    """A best checkpoint, of which every byte is as it was written.

    Args:
        path: see `best_checkpoint`.
        folder: of the training, for the message.

    Raises:
        CheckpointFileError: it is damaged or gone.
    """
    try:
        check_content(Path(path))
        return read_checkpoint(path)
    except CheckpointFileError as error:
        found = str(error).removesuffix(f"; {START_ANEW_ADVICE}")
        msg = f"{found}; it held the best weights of this training, which are nowhere else: delete {folder} to train anew"
        raise CheckpointFileError(msg) from None
