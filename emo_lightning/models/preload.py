"""What every process that loads a backbone imports and builds first: about a second, which a run's processes pay together."""

from __future__ import annotations

import contextlib

from emo_lightning.models.families import FAMILIES


def preload() -> None:
    """Import the families' model classes and build transformers' table of older names of weights; a process forked later has both."""
    for family in FAMILIES.values():
        family.model_class()
    # Internal to transformers: where it is another one, loading builds it as before.
    with contextlib.suppress(ImportError):
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping("")
