"""The best weights of a training are those that were written, or there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from emo_lightning.core.checkpoints import CheckpointFileError
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.tasks.best import best_checkpoint
from emo_lightning.tasks.des import DESHeadArgs, DESTask
from tests.tasks.test_des_probe import trainer_of, write_cache


class Damages(Callback):
    """Flips a bit of the best weights, or removes them, once no epoch follows.

    Args:
        gone: removes them.
    """

    def __init__(self, gone: bool) -> None:
        self.gone = gone

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = best_checkpoint(trainer)
        assert found is not None
        path = Path(found)
        if self.gone:
            path.unlink()
            return
        data = bytearray(path.read_bytes())
        state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
        weights = max(state.values(), key=torch.numel)
        data[data.index(weights.numpy().tobytes())] ^= 4
        path.write_bytes(data)


@pytest.mark.parametrize(("gone", "found"), [(False, "damaged: .* has changed since it was written"), (True, "no such file")])
def test_a_damaged_best_checkpoint_becomes_no_head(gone: bool, found: str, tmp_path: Path) -> None:
    train, val = (write_cache(tmp_path / name, 16, seed) for seed, name in enumerate(("train", "val")))
    out = tmp_path / "des"
    saver = ModelCheckpoint(out / "checkpoints", "best", monitor="val/loss")
    trainer = trainer_of(out, 1, callbacks=[saver, Damages(gone)], enable_checkpointing=True)
    with pytest.raises(
        CheckpointFileError, match=rf"best\.ckpt: {found}.*; it held the best weights .* delete {out} to train anew"
    ):
        trainer.fit(DESTask(DESHeadArgs(des_dim=12)), datamodule=FeatureDataModule(train, val, batch_size=16))
    assert not (out / "head").exists()


def test_nothing_is_the_best_of_what_nobody_monitors(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, 1, callbacks=[ModelCheckpoint(tmp_path)], enable_checkpointing=True, limit_train_batches=1)
    trainer.fit(BoringModel())
    assert best_checkpoint(trainer) is None
