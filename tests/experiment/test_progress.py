"""A training in a pipe or a log file writes a line of progress now and then, not one for every batch; a terminal's bar counts what there is."""

from __future__ import annotations

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from emo_lightning.experiment.progress import TerminalBar, progress_bar


def test_a_bar_is_seldom_refreshed_where_there_is_no_terminal() -> None:
    found = progress_bar({"callbacks": [{"class_path": "lightning.pytorch.callbacks.EarlyStopping"}]})["callbacks"]
    assert isinstance(found, list)
    assert isinstance(found[0], TQDMProgressBar)
    assert found[0].refresh_rate == 100


def test_a_bar_of_the_settings_or_none_stays() -> None:
    assert progress_bar({"enable_progress_bar": False}) == {}
    assert progress_bar({"callbacks": {"class_path": "lightning.pytorch.callbacks.RichProgressBar"}}) == {}
    assert progress_bar({"callbacks": ["TQDMProgressBar"]}) == {}


@pytest.mark.parametrize(("steps", "epochs", "said"), [(7, -1, "Epoch 3"), (7, None, "Epoch 3"), (-1, 5, "Epoch 3/4")])
def test_a_training_of_so_many_steps_has_no_last_epoch(steps: int, epochs: int | None, said: str) -> None:
    bar = TerminalBar()
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[bar], max_steps=steps, max_epochs=epochs)
    bar.setup(trainer, LightningModule(), "fit")
    assert bar._get_train_description(3).strip() == said
