"""The probe that is tested and written is the best of the weights that are left, whenever the last validation was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from emo_lightning.core.errors import InputError
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.models.des import DESHead
from emo_lightning.models.probe import LinearProbes
from emo_lightning.tasks.probe import ProbeTask
from tests.tasks.test_des_probe import HIDDEN, LAYERS, trainer_of, write_cache


class Diverge(pl.Callback):
    """Has probes lose their numbers in the last step, after the last validation.

    Args:
        probes: of the grid.
    """

    def __init__(self, probes: list[int]) -> None:
        self.probes = probes

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        assert isinstance(pl_module, ProbeTask)
        if trainer.global_step == 3:
            for number in self.probes:
                for parameter in pl_module.probes.probes[number].parameters():
                    parameter.data.fill_(math.nan)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    DESHead(HIDDEN, num_layers=LAYERS, des_dim=8).save_pretrained(root / "head")
    caches = {name: write_cache(root / name, 45, seed, noise=2.0) for seed, name in enumerate(("train", "val", "test"))}
    return root / "head", caches


Chosen = dict[str, float]
GRID = [(rate, decay) for rate in (0.1, 0.3) for decay in (0.0, 0.1)]


def probed(
    made: tuple[Path, dict[str, str]], out: Path, every: int, *callbacks: pl.Callback
) -> tuple[Chosen, int, list[float]]:
    """Three steps of an epoch each: figures of the chosen probe, its number, and the validation losses of all as they are left."""
    head, caches = made
    data = FeatureDataModule(caches["train"], caches["val"], caches["test"], batch_size=16)
    task = ProbeTask(str(head), learning_rates=[0.1, 0.3], weight_decays=[0.0, 0.1])
    trainer = trainer_of(out, 3, check_val_every_n_epoch=every, callbacks=list(callbacks))
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, verbose=False)
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    chosen = found.pop("chosen")
    val = task.embedded["val"]
    truth = torch.tensor([label.emotion for label in val.labels])
    logits = task.probes(val.des)[:, truth >= 0].detach()
    losses = [torch.nn.functional.cross_entropy(each, truth[truth >= 0]).item() for each in logits]
    return found, GRID.index((chosen["learning_rate"], chosen["weight_decay"])), losses


@pytest.mark.parametrize("every", [2, 5], ids=["one step before the last", "never"])
def test_a_validation_that_the_last_step_lacks(every: int, made: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """Index, weights and figures are those of a training that validates at its end."""
    expected, found = probed(made, tmp_path / "each", 1), probed(made, tmp_path / "some", every)
    assert found == expected
    for name in ("probe/model.safetensors", "predictions.jsonl"):
        assert (tmp_path / "some" / name).read_bytes() == (tmp_path / "each" / name).read_bytes()


def test_what_diverges_after_the_last_validation_is_not_chosen(made: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    _, best, losses = probed(made, tmp_path / "whole", 2)
    assert best == losses.index(min(losses))
    found, chosen, left = probed(made, tmp_path / "one", 2, Diverge([best]))
    assert math.isnan(left[best])
    finite = [loss for loss in left if math.isfinite(loss)]
    assert chosen == left.index(min(finite))
    assert found["val/loss"] == pytest.approx(min(finite), rel=1e-5)
    assert all(tensor.isfinite().all() for tensor in LinearProbes.from_pretrained(tmp_path / "one/probe").state_dict().values())
    with pytest.raises(InputError, match=r"all probes of the grid .* diverge"):
        probed(made, tmp_path / "all", 2, Diverge([0, 1, 2, 3]))
    assert not (tmp_path / "all/probe").exists()


def test_the_losses_of_a_probe_that_diverges_are_its_own(made: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """Also where a validation follows: dropped from among all losses, they would leave those of others in their place."""
    for lost in range(4):
        found, chosen, left = probed(made, tmp_path / str(lost), 1, Diverge([lost]))
        least = min(loss for loss in left if math.isfinite(loss))
        assert chosen == left.index(least)
        assert found["val/loss"] == pytest.approx(least, rel=1e-5)
