"""Training in rows of tokens: the same weights on any number of ranks, and exact after a resume."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from emo_lightning.core.errors import InputError
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Collator
from emo_lightning.data.lengths import sample_lengths
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.loading import load_backbone
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.sft import SFTTask
from tests.ranks import run_ranks
from tests.tasks.test_sft import Recorder, data, lora_task, trainer

ROW = 640


def fit(tars: Path, model: Path, out: Path, devices: int, **changes: Any) -> tuple[SFTTask, pl.Trainer, Recorder]:  # noqa: ANN401
    """Two epochs in float64."""
    torch.manual_seed(0)
    task = SFTTask(BackboneConfig(str(model), tuning="full", train_vision=True), OptimConfig(lr=1e-3, warmup=0))
    recorder = Recorder()
    strategy = "ddp" if devices > 1 else "auto"
    options = {"max_epochs": 2, "limit_val_batches": 0, **changes.pop("options", {})}
    run = trainer(out, precision="64-true", devices=devices, strategy=strategy, callbacks=[recorder], **options)
    run.fit(task, datamodule=data(tars, **{"max_tokens": ROW, **changes}))
    return task, run, recorder


def fit_and_save(tars: Path, model: Path, out: Path, devices: int) -> None:
    task, run, _ = fit(tars, model, out, devices, global_tokens=2 * ROW)
    assert run.accumulate_grad_batches == 2 // devices
    if run.is_global_zero:
        torch.save((task.state_dict(), run.global_step), out / f"{devices}.pt")


@pytest.mark.slow
def test_two_ranks_equal_one(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    run_ranks(partial(fit_and_save, world_tars, tiny_qwen, tmp_path, 2))
    fit_and_save(world_tars, tiny_qwen, tmp_path, 1)
    one, two = (torch.load(tmp_path / f"{devices}.pt") for devices in (1, 2))
    assert one[1] == two[1] > 2
    for name, value in one[0].items():
        assert torch.allclose(value, two[0][name], atol=1e-6), name


def test_one_row_equals_a_padded_batch(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """One optimiser step over the same eight samples."""
    options = {"max_epochs": None, "max_steps": 1}
    packed, _, one = fit(world_tars, tiny_qwen, tmp_path / "a", 1, max_tokens=8192, limit=8, options=options)
    padded, _, other = fit(world_tars, tiny_qwen, tmp_path / "b", 1, max_tokens=None, batch_size=8, limit=8, options=options)
    assert one.losses == pytest.approx(other.losses, abs=1e-6)
    assert float((one.gradients[0] - other.gradients[0]).abs().max()) < 1e-6
    for (name, a), (_, b) in zip(packed.named_parameters(), padded.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name


def validate(tars: Path, model: Path, out: Path, devices: int, images: int = 8, **changes: Any) -> float:  # noqa: ANN401
    """Validation loss on the first so many images, in float64."""
    source = data(tars, **changes)
    source.dataset("val").index = source.dataset("val").index.take(range(images))
    strategy = "ddp" if devices > 1 else "auto"
    run = trainer(out, precision="64-true", devices=devices, strategy=strategy)
    run.validate(SFTTask(BackboneConfig(str(model), tuning="full"), OptimConfig()), datamodule=source, verbose=False)
    return float(run.callback_metrics["val/loss"])


def validate_and_save(tars: Path, model: Path, out: Path) -> None:
    found = validate(tars, model, out, 2, images=1, max_tokens=1200)
    (out / "loss.txt").write_text(repr(found))


def test_validation_in_rows_equals_padded(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    expected = validate(world_tars, tiny_qwen, tmp_path, 1, batch_size=3)
    for rows in ({"max_tokens": ROW}, {"max_tokens": 1200}, {"max_tokens": ROW, "val_batch_size": 5}):
        assert validate(world_tars, tiny_qwen, tmp_path, 1, **rows) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_fillers_weigh_nothing_in_validation(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """One image on two ranks: the other's row is a filler."""
    run_ranks(partial(validate_and_save, world_tars, tiny_qwen, tmp_path))
    expected = validate(world_tars, tiny_qwen, tmp_path, 1, images=1)
    assert float((tmp_path / "loss.txt").read_text()) == pytest.approx(expected, abs=1e-6)


def test_resume_in_mid_epoch_is_exact(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """To the last bit, with dropout."""

    def run(out: Path, checkpoint: Path | None = None) -> list[float]:
        torch.manual_seed(1)
        recorder = Recorder()
        saver = ModelCheckpoint(dirpath=out, every_n_train_steps=5, save_top_k=-1, filename="{step}")
        there = trainer(out, max_steps=9, enable_checkpointing=True, callbacks=[recorder, saver], limit_val_batches=0)
        source = data(world_tars, max_tokens=ROW)
        there.fit(lora_task(tiny_qwen), datamodule=source, ckpt_path=checkpoint, weights_only=True)
        assert 5 % source.train_batches(1), "the test needs a place within an epoch"
        return recorder.losses

    whole = run(tmp_path / "whole")
    assert run(tmp_path / "resumed", tmp_path / "whole" / "step=5.ckpt") == whole[5:]


def test_qlora_learns_in_rows(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    task = SFTTask(BackboneConfig(str(tiny_qwen), tuning="qlora", lora=LoRA(rank=4)), OptimConfig(lr=1e-2, warmup=0))
    recorder = Recorder()
    run = trainer(tmp_path, max_epochs=4, limit_val_batches=0, callbacks=[recorder])
    run.fit(task, datamodule=data(world_tars, max_tokens=2 * ROW))
    assert recorder.losses[-1] < recorder.losses[0] - 0.2


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"max_tokens": ROW, "global_tokens": ROW + 1}, {}, r"data\.global_tokens: found 641; expected a multiple of 640"),
        (
            {"max_tokens": ROW, "global_tokens": 2 * ROW},
            {"accumulate_grad_batches": 3},
            "accumulate_grad_batches: found 3;.* means 2",
        ),
        (
            {"max_tokens": 100},
            {},
            r"data\.max_tokens: found 100; 7 of the 24 samples of data\.train are longer: '[^']+' \(\d+ tokens\), .* and 4 more",
        ),
        (
            {"max_tokens": ROW, "max_length": 50, "limit": 1},
            {},
            r"data\.max_length: found 50; 1 of the 1 samples of data\.train is",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused(
    world_tars: Path, tiny_qwen: Path, tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, max_steps=1, limit_val_batches=0, **options).fit(
            lora_task(tiny_qwen), datamodule=data(world_tars, **changes)
        )


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("setting", "cut"), [("max_tokens", {"max_tokens": 4 * ROW}), ("max_length", {"max_tokens": 4 * ROW}), ("max_length", {})]
)
def test_a_sample_that_is_too_long_is_named_before_the_first_step(
    world_tars: Path, tiny_qwen: Path, tmp_path: Path, split: str, setting: str, cut: dict[str, int]
) -> None:
    """Validation would meet its own only after an epoch; in rows of tokens, and in padded batches."""
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen"))
    collate = Collator(backbone.processor, backbone.model_type, answers=True, packed=True)
    source = data(world_tars, max_tokens=ROW)
    index = source.dataset(split).index
    asked = [objective(name) for name in source.objectives]
    lengths = sample_lengths(index, asked, collate).max(1)
    limit = int(lengths.max()) - 1
    key = index.id(int(lengths.argmax()))
    given: dict[str, Any] = {**cut, setting: limit}
    if split == "val":
        first = source.dataset("train").index.take([0])
        assert int(sample_lengths(first, asked, collate).max()) <= limit
        given["limit"] = 1
    recorder = Recorder()
    run = trainer(tmp_path, max_epochs=4, check_val_every_n_epoch=2, callbacks=[recorder])
    with pytest.raises(
        InputError, match=rf"data\.{setting}: found {limit}; .* of data\.{split} .*{key!r} \({limit + 1} tokens\)"
    ):
        run.fit(lora_task(tiny_qwen), datamodule=data(world_tars, **given))
    assert not recorder.losses


def test_all_questions_of_an_image_weigh_as_if_they_were_drawn(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """One optimiser step over eight images, against the mean of what each objective alone gives."""
    options = {"max_epochs": None, "max_steps": 1}

    def step(name: str, objectives: dict[str, float], **changes: Any) -> tuple[float, torch.Tensor, int]:  # noqa: ANN401
        given = {"max_tokens": 8192, "limit": 8, "options": options, "objectives": objectives, **changes}
        task, _, found = fit(world_tars, tiny_qwen, tmp_path / name, 1, **given)
        batch = next(iter(task.trainer.datamodule.train_dataloader()))  # type: ignore[attr-defined]
        return found.losses[0], found.gradients[0], len(batch["answer_at"])

    both = step("both", {"attributes": 0.6, "emotion": 0.2}, all_questions=True)
    attributes, emotion = (step(name, {name: 1.0}) for name in ("attributes", "emotion"))
    assert both[2] == attributes[2] + emotion[2]
    count = 0.75 * attributes[2] + 0.25 * emotion[2]
    for n in range(2):
        mean = (0.75 * attributes[2] * attributes[n] + 0.25 * emotion[2] * emotion[n]) / count
        assert torch.allclose(torch.as_tensor(both[n]), torch.as_tensor(mean), atol=1e-6)


def test_samples_or_tokens(world_tars: Path) -> None:
    with pytest.raises(InputError, match=r"data\.batch_size=4 and data\.max_tokens=640: .* set one of the two to null"):
        data(world_tars, max_tokens=ROW, batch_size=4)


def test_tokens_of_a_step_need_tokens_of_a_row(world_tars: Path) -> None:
    with pytest.raises(InputError, match=r"without data\.max_tokens"):
        data(world_tars, global_tokens=ROW)
    with pytest.raises(InputError, match=r"all_questions: found true without data\.max_tokens"):
        data(world_tars, all_questions=True)


def test_an_attention_that_would_mix_samples_is_refused(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    task = SFTTask(BackboneConfig(str(tiny_qwen), tuning="full", attention="eager"), OptimConfig())
    with pytest.raises(InputError, match="cannot pack samples into rows: expected null"):
        trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(task, datamodule=data(world_tars, max_tokens=ROW))
