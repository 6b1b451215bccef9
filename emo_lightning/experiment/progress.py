"""The bar of a training: on a terminal it says no last epoch where there is none, elsewhere it writes a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from emo_lightning.core.terminal import on_a_terminal

_BATCHES_A_LINE = 100
"""Of progress, where there is no terminal."""


class TerminalBar(RichProgressBar):
    """Lightning's own, which calls the first epoch of a training of so many steps `0/-2`."""

    def _get_train_description(self, current_epoch: int) -> str:
        text = super()._get_train_description(current_epoch)
        if self.trainer.max_epochs != -1:
            return text
        # As long as the bar of a validation, so that neither jumps.
        return text.replace("/-2", "").ljust(len(self.validation_description))


def progress_bar(trainer: Mapping[str, object]) -> dict[str, object]:
    """Callbacks for the Trainer: a terminal's bar; in a log file or a pipe, where every refresh is a line more, one refreshed seldom.

    Args:
        trainer: the stage's settings of the Trainer; a bar of its own, or none, stays.
    """
    given = trainer.get("callbacks") or []
    named = [one.get("class_path") if isinstance(one, dict) else one for one in (given if isinstance(given, list) else [given])]
    if trainer.get("enable_progress_bar") is False or any("ProgressBar" in str(one) for one in named):
        return {}
    return {"callbacks": [TerminalBar() if on_a_terminal(sys.stdout) else TQDMProgressBar(refresh_rate=_BATCHES_A_LINE)]}
