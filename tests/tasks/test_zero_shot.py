"""What all rounds together have cost: accuracy over the model that none of them has trained, and not only since round 3 began."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from emo_lightning.core.errors import InputError
from emo_lightning.models.adapters import without_adapters
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.loading import load_backbone, load_frozen
from emo_lightning.tasks.grpo import GRPOTask
from emo_lightning.tasks.grpo_rewards import emotion_probabilities
from emo_lightning.tasks.optim import OptimConfig
from tests.made import stir_adapters
from tests.tasks.test_grpo import data, fit, speaking, tars, task_of  # noqa: F401 - fixture
from tests.worded import worded_qwen  # noqa: F401 - fixture

STILL = OptimConfig(lr=0.0, warmup=0.0)


def found(task: GRPOTask, world_tars: Path, out: Path, **options: Any) -> dict[str, float]:  # noqa: ANN401
    """What a training for an epoch of two steps logs."""
    options = {"limit_val_batches": 1.0, "max_steps": -1, "max_epochs": 1, **options}
    # What it was trained on is what it knows.
    source = data(world_tars, limit=8, others={"elsewhere": tars(world_tars, "train")}, allow_leaks=True)
    _, run = fit(task, source, out, **options)
    return {name: float(value) for name, value in run.callback_metrics.items()}


@pytest.fixture(scope="module")
def whole(speaking: Path, world_tars: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:  # noqa: F811
    """A round that begins at the very model that no round has trained, and stays there."""
    task = task_of(speaking, optim=STILL, zero_shot=str(speaking))
    return found(task, world_tars, tmp_path_factory.mktemp("whole"))


def test_where_the_round_begins_there_both_gains_are_one(whole: dict[str, float]) -> None:
    assert whole["val/zero_shot_gain"] == whole["val/gain"] == whole["elsewhere/zero_shot_gain"] == 0
    assert whole["elsewhere/accuracy"] > 0.2


def test_what_round_two_has_lost_shows(
    whole: dict[str, float],
    speaking: Path,  # noqa: F811
    worded_qwen: Path,  # noqa: F811
    tiny_qwen: Path,
    world_tars: Path,
    tmp_path: Path,
) -> None:
    """From a model that says nothing right any more nothing is lost in this round, and all that there was in all of them."""
    saver = ModelCheckpoint(
        dirpath=tmp_path / "kept", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True, filename="{epoch}"
    )
    task = task_of(worded_qwen, optim=STILL, zero_shot=str(speaking))
    options = {"callbacks": [saver], "enable_checkpointing": True}
    after = found(task, world_tars, tmp_path / "first", max_epochs=2, **options)
    for name in ("val", "elsewhere"):
        assert after[f"{name}/accuracy"] == after[f"{name}/gain"] == 0
        assert after[f"{name}/zero_shot_gain"] == pytest.approx(-whole[f"{name}/accuracy"])
        assert task.summary()["answered"][name]["zero_shot_gain"] == after[f"{name}/zero_shot_gain"]  # type: ignore[index]
    kept = torch.load(tmp_path / "kept/epoch=0.ckpt", weights_only=True)["emo_grpo"]["zero_shot"]
    assert kept["accuracies"] == {name: pytest.approx(whole[f"{name}/accuracy"]) for name in ("val", "elsewhere")}
    # A training that goes on has them, and one that is compared with another model has not.
    again = task_of(worded_qwen, optim=STILL, zero_shot=str(speaking))
    other = task_of(worded_qwen, optim=STILL)
    for one in (again, other):
        one.configure_model()
        one._zero_shot.restore(kept, one.net)
    assert again._zero_shot.accuracies == kept["accuracies"]
    assert not other._zero_shot.accuracies
    assert not again._zero_shot.asked_for("val", again.net)
    # Without one, and without an adapter, nothing is said of it.
    assert not other._zero_shot.known(other.net)
    with pytest.raises(InputError, match=rf"model\.zero_shot: {tiny_qwen} has another vocabulary than {worded_qwen}"):
        found(task_of(worded_qwen, zero_shot=str(tiny_qwen)), world_tars, tmp_path / "other")


def test_with_an_adapter_it_is_the_base_without_it(
    whole: dict[str, float],
    speaking: Path,  # noqa: F811
    world_tars: Path,
    tmp_path: Path,
) -> None:
    fresh = load_backbone(BackboneConfig(str(speaking), tuning="lora", lora=LoRA(rank=2, dropout=0.0)))
    torch.manual_seed(3)
    stir_adapters(fresh, 2.0)
    collapsed = fresh.save(tmp_path / "collapsed")
    after = found(task_of(collapsed, optim=STILL), world_tars, tmp_path / "run")
    for name in ("val", "elsewhere"):
        assert after[f"{name}/gain"] == 0
        assert after[f"{name}/zero_shot_gain"] == pytest.approx(after[f"{name}/accuracy"] - whole[f"{name}/accuracy"])
    assert after["elsewhere/zero_shot_gain"] < 0, "it has collapsed"
    # What learns is the same afterwards: peft's own switch would have every adapter learn.
    config = BackboneConfig(str(collapsed), tuning="lora", train_merger=False)
    backbone = load_backbone(config)
    learns = {name: one.requires_grad for name, one in backbone.named_parameters()}
    picture = Image.new("RGB", (56, 56), (200, 30, 30))
    with without_adapters(backbone.model):
        base = emotion_probabilities(backbone, [picture])
    assert np.allclose(base, emotion_probabilities(load_frozen(BackboneConfig(str(speaking))), [picture]), atol=1e-6)
    assert np.abs(emotion_probabilities(backbone, [picture]) - base).max() > 1e-3
    assert {name: one.requires_grad for name, one in backbone.named_parameters()} == learns
    assert len(set(learns.values())) == 2
