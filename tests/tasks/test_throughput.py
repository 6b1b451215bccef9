"""What a training says of its speed."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from emo_lightning.data.collate import Collator
from emo_lightning.data.sampler import Slot
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.loading import load_backbone
from emo_lightning.tasks.throughput import Passed, Throughput
from tests.tasks.test_sft import data, lora_task, trainer


@pytest.mark.parametrize("rows", [{"batch_size": 4}, {"max_tokens": 640}])
def test_rates_are_logged_and_summed_up(world_tars: Path, tiny_qwen: Path, tmp_path: Path, rows: dict[str, int]) -> None:
    task = lora_task(tiny_qwen)
    run = trainer(tmp_path, max_epochs=2, log_every_n_steps=2)
    run.loggers = [CSVLogger(str(tmp_path), name="logs")]
    source = data(world_tars, **rows)
    run.fit(task, datamodule=source)
    found = task.throughput.summary()["perf"]
    assert isinstance(found, dict)
    assert set(found) == {"tokens_per_s", "images_per_s", "data_wait", "fill", "memory"}
    assert 0 <= found["data_wait"] <= 1
    lengths = source.dataset("train").lengths(Collator(task.net.processor, task.net.model_type, answers=True))
    seen = task.throughput._all
    assert seen.tokens == sum(int(lengths(epoch).sum()) for epoch in range(2))
    assert seen.images == 2 * 24
    assert 0.1 < found["memory"] < 64
    if "max_tokens" in rows:
        # Of each row's 640 places, those of samples.
        places = 2 * source.train_batches(1) * 640
        assert seen.places == places
        assert found["fill"] == pytest.approx(seen.tokens / places, rel=1e-3)
    assert found["fill"] < 1
    assert found["images_per_s"] * seen.seconds == pytest.approx(48, rel=1e-3)
    with open(next(tmp_path.rglob("metrics.csv")), encoding="utf-8") as file:
        logged = [row["perf/tokens_per_s"] for row in csv.DictReader(file) if row["perf/tokens_per_s"]]
    assert len(logged) == run.global_step // 2
    assert all(float(value) > 0 for value in logged)


def test_a_training_that_goes_on_counts_on(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """What is said of a training is said of all of it, also where its checkpoint is that of its last step."""

    def run(name: str, checkpoint: Path | None = None) -> Throughput:
        saver = ModelCheckpoint(dirpath=tmp_path / name, every_n_train_steps=3, save_top_k=-1, filename="{step}")
        fit = trainer(tmp_path / name, max_steps=9, enable_checkpointing=True, callbacks=[saver], limit_val_batches=0)
        task = lora_task(tiny_qwen)
        fit.fit(task, datamodule=data(world_tars), ckpt_path=checkpoint, weights_only=True)
        return task.throughput

    whole, resumed = run("whole"), run("resumed", tmp_path / "whole/step=6.ckpt")
    for name in ("tokens", "places", "images"):
        assert getattr(resumed._all, name) == getattr(whole._all, name), name
    assert resumed._all.flops == pytest.approx(whole._all.flops)
    saved = torch.load(tmp_path / "whole/step=6.ckpt", weights_only=True)
    before = saved["emo_throughput"]["passed"]
    assert resumed._all.seconds > before["seconds"] > 0
    assert resumed._all.waited >= before["waited"]
    # Nothing is left to do.
    done = torch.load(tmp_path / "whole/step=9.ckpt", weights_only=True)["emo_throughput"]["passed"]
    found = run("done", tmp_path / "whole/step=9.ckpt").summary()["perf"]
    assert isinstance(found, dict)
    assert found["tokens_per_s"] == pytest.approx(done["tokens"] / done["seconds"], rel=1e-3)
    # One of an earlier version counts from here on.
    del saved["emo_throughput"]
    torch.save(saved, tmp_path / "older.ckpt")
    assert run("older", tmp_path / "older.ckpt")._all.images == 3 * 4


def test_what_passed_is_told_in_that_of_other_ranks() -> None:
    one = Passed(seconds=2.0, waited=1.0, tokens=30, places=40, images=4, flops=8.0)
    assert one.of_ranks(2, 1) == Passed(seconds=2.0, waited=1.0, tokens=60, places=80, images=8, flops=8.0)
    assert one.of_ranks(1, 2).of_ranks(2, 1) == one


@pytest.mark.parametrize("packed", [True, False])
def test_fillers_and_unreadable_images_are_no_tokens(world_tars: Path, tiny_qwen: Path, packed: bool) -> None:
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen"))
    collate = Collator(backbone.processor, backbone.model_type, answers=True, packed=packed)
    dataset = data(world_tars).dataset("train")
    good, repeated, grey = (dataset[Slot(row, row == 1)] for row in range(3))
    grey = replace(grey, filler=True, fault="damaged")
    alone, seen = Passed(), Passed()
    alone.see(backbone, collate([good]))
    seen.see(backbone, collate([good, repeated, grey]))
    assert (seen.tokens, seen.images) == (alone.tokens, 1)
    assert seen.places > 2 * alone.tokens


def test_operations_of_a_step_follow_what_learns(world_tars: Path, tiny_qwen: Path) -> None:
    """Forward, gradients of activations, gradients of weights: one each, where they are needed."""

    def flops(backbone: Backbone) -> float:
        collate = Collator(backbone.processor, backbone.model_type, answers=True, packed=True)
        dataset = data(world_tars).dataset("train")
        batch = collate([dataset[Slot(row, False)] for row in range(4)])
        return backbone.step_flops(batch, batch["lengths"])

    def loaded(**options: object) -> Backbone:
        return load_backbone(BackboneConfig(str(tiny_qwen), **options))  # type: ignore[arg-type]

    full = flops(loaded(tuning="full", train_vision=True))
    forward = flops(loaded(tuning="frozen"))
    assert full == pytest.approx(3 * forward)
    adapters = flops(loaded(tuning="lora", lora=LoRA(rank=4), train_vision=True))
    assert adapters < full
    assert forward < flops(loaded(tuning="lora", lora=LoRA(rank=4))) < adapters
