"""What W&B is told where neither an experiment nor an option says it: the environment's word, else ours."""

from __future__ import annotations

import os

_PROJECT = "emo-lightning"


def wandb_project(*stated: str | None) -> str:
    """Project of a run.

    Args:
        stated: by an option or a file, the strongest first; None where it is not.

    Returns:
        The first that is stated, else `WANDB_PROJECT`, else `emo-lightning`.
    """
    return next(filter(None, (*stated, os.environ.get("WANDB_PROJECT"))), _PROJECT)


def wandb_mode(stated: str | None = None, *, default: str = "offline") -> str:
    """Mode of a run: what is stated, else `WANDB_MODE`, else `default`."""
    return stated or os.environ.get("WANDB_MODE") or default
