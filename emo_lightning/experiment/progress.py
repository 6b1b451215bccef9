"""The progress of a training: a bar on a terminal, which says no last epoch where there is none; elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT

from emo_lightning.core.terminal import on_a_terminal, say

_SECONDS = 15.0
"""Between two lines, where there is no terminal."""


class TerminalBar(RichProgressBar):
    """Lightning's own, which calls the first epoch of a training of so many steps `0/-2`."""

    def _get_train_description(self, current_epoch: int) -> str:
        text = super()._get_train_description(current_epoch)
        if self.trainer.max_epochs != -1:
            return text
        # As long as the bar of a validation, so that neither jumps.
        return text.replace("/-2", "").ljust(len(self.validation_description))


class ProgressLines(ProgressBar):
    """Whole lines for a pipe or a log file, in which every refresh of a bar would be a line more.

    Args:
        seconds: between two lines at least; a stage that is done before then writes its last line alone.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        super().__init__()
        self.seconds, self._enabled, self._last = seconds, True, time.monotonic()

    def disable(self) -> None:
        """On ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Lightning's counterpart of `disable`."""
        self._enabled = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Where the training is, and what is logged for bars."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._due():
            epochs = "" if trainer.max_epochs in (None, -1) else f" of {trainer.max_epochs}"
            place = f"epoch {trainer.current_epoch + 1}{epochs}, batch {batch_idx + 1} of {self.total_train_batches}"
            self._write(place, trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What it came to."""
        self._write(f"trained, {trainer.global_step} steps", trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Where the validation is."""
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self.has_dataloader_changed(dataloader_idx)
        self._say_place("validation", batch_idx, self.total_val_batches_current_dataloader)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Where the test (predictions, features) is; counted within each set."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self.has_dataloader_changed(dataloader_idx)
        self._say_place(f"set {dataloader_idx + 1}", batch_idx, self.total_test_batches_current_dataloader)

    def _say_place(self, what: str, batch: int, batches: float) -> None:
        if self._due():
            say(f"{what}, batch {batch + 1} of {batches}")

    def _due(self) -> bool:
        if not self._enabled or time.monotonic() - self._last < self.seconds:
            return False
        self._last = time.monotonic()
        return True

    def _write(self, place: str, trainer: Trainer, module: LightningModule) -> None:
        if self._enabled:
            logged = {name: value for name, value in self.get_metrics(trainer, module).items() if name != "v_num"}
            said = [f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in logged.items()]
            say(f"{place}: {', '.join(said)}" if said else place)


def progress_bar(trainer: Mapping[str, object]) -> dict[str, object]:
    """Callbacks for the Trainer: a terminal's bar, or lines in a log file or a pipe.

    Args:
        trainer: the stage's settings of the Trainer; a bar of its own, or none, stays.
    """
    given = trainer.get("callbacks") or []
    named = [one.get("class_path") if isinstance(one, dict) else one for one in (given if isinstance(given, list) else [given])]
    if trainer.get("enable_progress_bar") is False or any("ProgressBar" in str(one) for one in named):
        return {}
    return {"callbacks": [TerminalBar() if on_a_terminal(sys.stdout) else ProgressLines()]}
