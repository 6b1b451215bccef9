"""Where a task writes: `model.out`, else the Trainer's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.stores import check_local_output

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def checked_out(out: str | None) -> str | None:
    """The argument `out` of a task, before anything is computed.

    Raises:
        InputError: it is a URL.
    """
    if out is not None:
        check_local_output(out, "model.out")
    return out


def output_folder(out: str | None, trainer: Trainer) -> Path:
    """The folder for results.

    Args:
        out: of the task; None is the Trainer's default_root_dir.
        trainer: that runs it.
    """
    return Path(out or trainer.default_root_dir)
