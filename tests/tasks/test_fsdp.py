"""FSDP2 on two CPU ranks: the steps of one process, whole adapters and checkpoints, and what cannot be sharded says so."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins.precision import DoublePrecision
from safetensors.torch import load_file
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from emo_lightning.core.endings import ENDING, StoppedError
from emo_lightning.data.labelled import LabelledDataModule
from emo_lightning.experiment.cut_short import watch
from emo_lightning.experiment.found_checkpoints import Checkpoints, newest_checkpoint
from emo_lightning.experiment.stage import Stage
from emo_lightning.models import loss
from emo_lightning.models.backbone_config import BackboneConfig, BackboneError, LoRA
from emo_lightning.models.loading import load_backbone
from emo_lightning.models.sharding import is_sharded, shard
from emo_lightning.tasks.des import DESHeadArgs, DESTask
from emo_lightning.tasks.fsdp import ShardedStrategy
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.sample_logger import SampleLogger
from emo_lightning.tasks.sft import SFTTask
from tests.ranks import run_ranks
from tests.tasks.test_sft import data, trainer

STEPS = 3
LORA: dict[str, Any] = {"tuning": "lora", "lora": LoRA(rank=3, alpha=8, dropout=0.0), "gradient_checkpointing": True}
FULL: dict[str, Any] = {"tuning": "full", "train_vision": False}


def fit(
    tars: Path, model: Path, out: Path, world: int, strategy: str, backbone: dict[str, Any], resume: Path | None = None
) -> SFTTask:
    """Three steps of two micro-batches over 13 samples (two steps an epoch), unequal lengths, clipped gradients, float64."""
    torch.manual_seed(0)  # of the adapters
    task = SFTTask(BackboneConfig(str(model), **({"train_vision": True} | backbone)), OptimConfig(lr=1e-3, warmup=0))
    callbacks: list[Any] = [ModelCheckpoint(dirpath=out, every_n_train_steps=1, save_top_k=-1, filename="{step}")]
    logger: Any = False
    if backbone is FULL and world > 1:
        logger, callbacks = WandbLogger(save_dir=out, offline=True), [*callbacks, SampleLogger(2, 4)]
    run = trainer(
        out,
        max_steps=STEPS,
        accumulate_grad_batches=2,
        gradient_clip_val=0.5,
        limit_val_batches=1,
        devices=world,
        strategy=ShardedStrategy() if strategy == "fsdp" else strategy,
        enable_checkpointing=True,
        plugins=[DoublePrecision()],
        callbacks=callbacks,
        logger=logger,
    )
    run.fit(task, datamodule=data(tars, batch_size=4 // world, limit=13), ckpt_path=resume, weights_only=True)
    if strategy == "fsdp":
        assert is_sharded(task.net)
        # Every weight is divided, the frozen ones too: half of it, or up to one row more.
        for name, parameter in task.net.named_parameters():
            rows = parameter.shape[0]
            assert isinstance(parameter, DTensor)
            assert parameter.to_local().shape[0] in (-(-rows // 2), rows - -(-rows // 2)), name
    return task


class Terminates(Callback):
    """Sends SIGTERM to the second rank, in its first step or in its first validation."""

    def __init__(self, moment: str | None) -> None:
        self.moment = moment

    def _at(self, moment: str, trainer: Trainer) -> None:
        if self.moment == moment and trainer.global_rank == 1:
            self.moment = None
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        self._at("step", trainer)

    def on_validation_batch_start(self, trainer: Trainer, *_: object) -> None:
        self._at("validation", trainer)


def terminated(tars: Path, model: Path, out: Path) -> None:
    """As `fit` with FSDP and LoRA, stopped twice."""
    stage = Stage("tune", "sft", "tune", {}, out / "terminated")
    for moment in ("step", "validation", None):
        torch.manual_seed(0)
        task = SFTTask(BackboneConfig(str(model), train_vision=True, **LORA), OptimConfig(lr=1e-3, warmup=0))
        run = trainer(
            stage.out,
            max_steps=STEPS,
            accumulate_grad_batches=2,
            gradient_clip_val=0.5,
            limit_val_batches=1,
            devices=2,
            strategy=ShardedStrategy(),
            plugins=[DoublePrecision()],
            callbacks=[Terminates(moment)],
        )
        watch(run, stage)
        begun = newest_checkpoint(Checkpoints.of(stage))
        try:
            with ENDING.watched():
                run.fit(task, datamodule=data(tars, batch_size=2, limit=13), ckpt_path=begun, weights_only=True)
        except StoppedError as end:
            (out / f"{moment}-{run.global_rank}").write_text(f"{end.code} after step {end.step}")


def two_ranks(tars: Path, model: Path, out: Path) -> None:
    """What each of them does."""
    fit(tars, model, out / "fsdp", 2, "fsdp", LORA)
    fit(tars, model, out / "ddp-resumed", 2, "ddp", LORA, out / "fsdp" / "step=1.ckpt")
    fit(tars, model, out / "fsdp-resumed", 2, "fsdp", LORA, out / "ddp-resumed" / "step=2.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        # Few positions at once, as in a row of thousands of tokens.
        patch.setattr(loss, "MAX_LOGITS", 4000)
        fit(tars, model, out / "full", 2, "fsdp", FULL)
    terminated(tars, model, out)
    try:
        run = trainer(out, max_steps=1, devices=2, strategy=ShardedStrategy())
        images = LabelledDataModule([str(tars / "*-train-*.tar")], [str(tars / "*-val-*.tar")])
        run.fit(DESTask(DESHeadArgs(hidden_size=8)), datamodule=images)
    except ValueError as error:
        (out / "refused.txt").write_text(str(error))


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    """Weights that a stage wrote."""
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def largest_difference(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """Over all tensors, which must have the same names."""
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@pytest.mark.slow
def test_two_sharded_ranks_equal_one_process(
    world_tars: Path, tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_ranks(partial(two_ranks, world_tars, tiny_qwen, tmp_path))

    for rank in (0, 1):
        assert (tmp_path / f"step-{rank}").read_text() == "143 after step 1"
        assert (tmp_path / f"validation-{rank}").read_text() == "143 after step 2"
    assert largest_difference(adapter(tmp_path / "terminated"), adapter(tmp_path / "fsdp")) == 0

    fit(world_tars, tiny_qwen, tmp_path / "one", 1, "auto", LORA)
    whole = adapter(tmp_path / "one")
    assert len(whole) == 2 * (2 * 5 + 2 + 4 * 7)
    assert largest_difference(whole, adapter(tmp_path / "fsdp")) < 1e-10
    # A DDP run takes up what it loads in float32 before it turns to float64.
    assert largest_difference(whole, adapter(tmp_path / "ddp-resumed")) < 1e-5
    assert largest_difference(adapter(tmp_path / "ddp-resumed"), adapter(tmp_path / "fsdp-resumed")) < 1e-10
    saved = [torch.load(tmp_path / run / "step=1.ckpt", weights_only=True) for run in ("one", "fsdp")]
    assert largest_difference(*(checkpoint["state_dict"] for checkpoint in saved)) < 1e-10
    # What peft and transformers load is whole, and the head is not there a second time.
    again = load_backbone(BackboneConfig(str(tmp_path / "fsdp" / "adapter"), tuning="lora", train_vision=True))
    assert again.counts()["trainable"] == sum(tensor.numel() for tensor in whole.values())
    fit(world_tars, tiny_qwen, tmp_path / "one-full", 1, "auto", FULL)
    files = [load_file(tmp_path / run / "model" / "model.safetensors") for run in ("one-full", "full")]
    assert largest_difference(*files) < 1e-10
    # All ranks took part in answering the samples, and rank 0 logged them.
    assert len(list(tmp_path.glob("full/wandb/offline-run-*/files/media/images/val/*.png"))) == 2
    refused = (tmp_path / "refused.txt").read_text()
    assert "trainer.strategy=fsdp: DESTask does not shard" in refused
    assert "use trainer.strategy=ddp" in refused


def test_four_bits_cannot_be_sharded(tiny_qwen: Path) -> None:
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="lora"))
    backbone.config = replace(backbone.config, tuning="qlora")
    with pytest.raises(BackboneError, match=r"tuning=qlora: 4-bit weights cannot be sharded; use trainer\.strategy=ddp"):
        shard(backbone, cast(DeviceMesh, None))  # refused before it is used
