"""A training that was begun on some ranks goes on within its epoch on others: the same samples in every step, and the same weights."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import DoublePrecision
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.distributed.tensor import DTensor

from emo_lightning.core.errors import InputError
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.experiment.cut_short import KeepWhenCut, watch
from emo_lightning.experiment.elastic import _recount
from emo_lightning.experiment.saving import SaveEvery
from emo_lightning.experiment.stage import Stage
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.tasks.des import DESHeadArgs, DESTask
from emo_lightning.tasks.fsdp import ShardedStrategy
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.sft import SFTTask
from tests.ranks import run_ranks
from tests.tasks.test_des_probe import write_cache
from tests.tasks.test_sft import data, trainer

STEPS, KILLED = 6, 3
"""Optimiser steps, of which an epoch has four or five; and after which the other number of ranks takes over."""


class Keys(pl.Callback):
    """Samples of each of this rank's micro-batches, by optimiser step; keeps the checkpoint of one of them."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.seen: list[tuple[int, list[str]]] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        fillers = batch["filler"].tolist()
        keys = [key for key, filler in zip(batch["key"], fillers, strict=True) if not filler]
        self.seen.append((trainer.global_step, keys))

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        # Of two micro-batches a step once more after the first of the next, whose gradients are in no checkpoint.
        if trainer.global_step == KILLED:
            trainer.save_checkpoint(self.out / "killed.ckpt")

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.losses.append(float(trainer.callback_metrics["val/loss"]))

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        (self.out / f"rank{trainer.global_rank}.json").write_text(json.dumps([self.seen, self.losses]))


def training(kind: str, made: Path, tars: Path, model: Path, ranks: int) -> tuple[Any, Any, dict[str, Any]]:
    """Task, data and settings of the Trainer for a kind, so that a step has the same samples on one and on two ranks."""
    torch.manual_seed(0)
    if kind == "des":
        head = DESHeadArgs(des_dim=12, hidden_size=16, dropout=0.0)
        source = FeatureDataModule(str(made / "train"), str(made / "val"), batch_size=32 // ranks)
        return DESTask(head, OptimConfig(lr=1e-2), contrastive_weight=0.3), source, {}
    lora = LoRA(rank=3, alpha=8, dropout=0.1)
    task = SFTTask(BackboneConfig(str(model), tuning="lora", lora=lora, train_vision=True), OptimConfig(lr=1e-3))
    size = {"max_tokens": 640} if kind == "packed" else {"batch_size": 6 if kind == "at once" else 3, "limit": 22}
    return task, data(tars, **size), {"accumulate_grad_batches": 1 if kind == "at once" else 2 // ranks}


def fit(
    made: Path,
    tars: Path,
    model: Path,
    kind: str,
    out: Path,
    *,
    ranks: int,
    like: int,
    begun: Path | None = None,
    sharded: bool = False,
) -> None:
    """Train to the end.

    Args:
        made: folder of feature caches.
        tars: folder of tars.
        model: of the backbone.
        kind: of training.
        out: for what is found.
        ranks: of this one.
        like: as it is configured, for so many.
        begun: checkpoint to go on from.
        sharded: with FSDP2 in place of DDP.
    """
    out.mkdir(parents=True, exist_ok=True)
    task, source, options = training(kind, made, tars, model, like)
    run = trainer(
        out,
        devices=ranks,
        strategy=ShardedStrategy() if sharded else "ddp" if ranks > 1 else "auto",
        plugins=[DoublePrecision()],
        max_steps=STEPS,
        check_val_every_n_epoch=None,
        val_check_interval=2 * options.get("accumulate_grad_batches", 1),
        callbacks=[Keys(out)],
        **options,
    )
    watch(run, Stage("tune", "sft", "tune", {}, out), SaveEvery(steps=100), begun)
    run.fit(task, datamodule=source, ckpt_path=begun, weights_only=True)
    assert run.global_step == STEPS
    weights = {name: p.detach() for name, p in task.named_parameters() if p.requires_grad}
    if sharded:
        weights = {name: cast(DTensor, p).full_tensor() for name, p in weights.items()}
    if run.is_global_zero:
        torch.save(weights, out / "weights.pt")


def on_two_ranks(made: Path, tars: Path, model: Path, kinds: list[str], out: Path) -> None:
    """What each of them does."""
    for kind in kinds:
        at, packed = out / kind, kind == "packed"
        fit(made, tars, model, kind, at / "two", ranks=2, like=2, sharded=packed)
        begun = at / "one" / "killed.ckpt"
        fit(made, tars, model, kind, at / "one-then-two", ranks=2, like=1, begun=begun)
        if packed:
            fit(made, tars, model, kind, at / "one-then-two-sharded", ranks=2, like=1, begun=begun, sharded=True)


def steps_in(folder: Path) -> tuple[dict[int, list[str]], list[float]]:
    """Samples of each step, in the order of its micro-batches and ranks, and the losses of validation."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]
    steps: dict[int, list[str]] = {}
    for each in zip(*(seen for seen, _ in found), strict=True):
        assert len({step for step, _ in each}) == 1
        steps.setdefault(each[0][0], []).extend(key for _, keys in each for key in keys)
    return steps, found[0][1]


@pytest.mark.slow
def test_one_rank_and_two_take_over_from_each_other(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """Rows of tokens with dropout, which stay as they were, also under FSDP2; and a head whose loss compares all images of a step."""
    made, kinds = tmp_path / "caches", ["packed", "des"]
    write_cache(made / "train", 150, 1)
    write_cache(made / "val", 20, 2)
    for kind in kinds:
        fit(made, world_tars, tiny_qwen, kind, tmp_path / kind / "one", ranks=1, like=1)
    run_ranks(partial(on_two_ranks, made, world_tars, tiny_qwen, kinds, tmp_path))
    for kind in kinds:
        at = tmp_path / kind
        fit(made, world_tars, tiny_qwen, kind, at / "two-then-one", ranks=1, like=2, begun=at / "two" / "killed.ckpt")
        steps, losses = steps_in(at / "one")
        assert sorted(steps) == list(range(STEPS))
        assert len(losses) == STEPS // 2
        whole = torch.load(at / "one" / "weights.pt")
        for other in sorted(path.name for path in at.iterdir() if path.is_dir() and path.name != "one"):
            begun = KILLED if "then" in other else 0
            theirs, seen = steps_in(at / other)
            assert theirs == {step: keys for step, keys in steps.items() if step >= begun}, (kind, other)
            assert seen == pytest.approx(losses[begun // 2 :], rel=1e-5), (kind, other)
            weights = torch.load(at / other / "weights.pt")
            for name, value in whole.items():
                torch.testing.assert_close(weights[name], value, atol=1e-5, rtol=1e-4, msg=f"{kind} {other} {name}: ".__add__)


def test_what_one_process_goes_on_with(
    world_tars: Path, tiny_qwen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint of three ranks: refused by name on numbers that do not divide it, else cut anew and said."""
    fit(tmp_path, world_tars, tiny_qwen, "at once", tmp_path, ranks=1, like=1)
    written = tmp_path / "killed.ckpt"
    checkpoint = torch.load(written, weights_only=True)
    assert checkpoint["emo_step"] == {"ranks": 1, "accumulate": 1, "rows": 6, "batches": 4, "validate_every": 2}
    checkpoint["emo_step"] |= {"ranks": 3, "rows": 2}
    torch.save(checkpoint, written)

    def taken_up(**changes: Any) -> tuple[pl.Trainer, KeepWhenCut]:  # noqa: ANN401
        task, source, _ = training("padded", tmp_path, world_tars, tiny_qwen, 2)
        run = trainer(tmp_path, max_steps=STEPS, check_val_every_n_epoch=None, **changes)
        keeper = watch(run, Stage("tune", "sft", "tune", {}, tmp_path), None, written)
        run.fit(task, datamodule=source, ckpt_path=written, weights_only=True)
        return run, keeper

    run, keeper = taken_up(limit_val_batches=0)
    assert keeper.cut_anew == (1, 2, 3)
    assert run.accumulate_grad_batches == 2
    said = capsys.readouterr().out
    assert "begun with 3 processes, goes on with 1; a step keeps its samples" in said
    assert "3 × 1 × 2 before, 1 × 2 × 3 now" in said
    assert "dropout is drawn otherwise" in said
    run = trainer(tmp_path)
    run.val_check_interval = 4
    with pytest.raises(InputError, match=r"trainer\.val_check_interval: 4 micro-batches, of which 3 were a step"):
        _recount(run, {"validate_every": 4}, 3, 1)
    _recount(run, {"validate_every": 6}, 3, 1)
    assert run.val_check_interval == 2
