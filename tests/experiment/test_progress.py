"""A training in a pipe or a log file writes a line of progress now and then, not one for every batch; a terminal's bar counts what there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.types import STEP_OUTPUT

from emo_lightning.experiment.progress import ProgressLines, TerminalBar, progress_bar


def test_lines_take_the_place_of_a_bar_where_there_is_no_terminal() -> None:
    found = progress_bar({"callbacks": [{"class_path": "lightning.pytorch.callbacks.EarlyStopping"}]})["callbacks"]
    assert isinstance(found, list)
    assert isinstance(found[0], ProgressLines)
    assert found[0].seconds > 1


class Toy(BoringModel):
    """Two of what is logged for bars."""

    def training_step(self, batch: object, batch_idx: int) -> STEP_OUTPUT:
        self.log("train/loss", 0.5, prog_bar=True)
        return super().training_step(batch, batch_idx)


def run_toy(lines: ProgressLines, folder: Path) -> None:
    """Two epochs of three batches, with two of validation; then three of a test."""
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=2,
        limit_test_batches=3,
        callbacks=[lines],
    )
    model = Toy()
    trainer.fit(model)
    trainer.test(model, verbose=False)


def test_lines_say_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Always, without a pause between them; with one that is not over, what it came to alone."""
    run_toy(ProgressLines(seconds=0.0), tmp_path)
    epochs = [
        line
        for epoch in (1, 2)
        for line in (
            *(f"epoch {epoch} of 2, batch {batch} of 3: train/loss 0.500" for batch in (1, 2, 3)),
            *(f"validation, batch {batch} of 2" for batch in (1, 2)),
        )
    ]
    tested = [f"set 1, batch {batch} of 3" for batch in (1, 2, 3)]
    ours = ("epoch", "validation", "set", "trained")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(ours)]
    # The last validation of an epoch is within its last batch.
    assert sorted(said) == sorted([*epochs, "trained, 6 steps: train/loss 0.500", *tested])
    run_toy(ProgressLines(seconds=1e9), tmp_path)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith(ours)] == [
        "trained, 6 steps: train/loss 0.500"
    ]


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
