"""SFT: the loss is transformers' own, averages are exact, and what would train wrongly in silence stops."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT
from safetensors.torch import load_file
from transformers import ProcessorMixin, Qwen2_5_VLForConditionalGeneration

from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import IGNORE_INDEX, Collator, ImageQuestion
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.sampler import Slot
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.loading import load_backbone
from emo_lightning.models.loss import supervised_loss
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.sft import SFTTask, check_batch
from tests.pixels import for_transformers
from tests.ranks import run_ranks


def data(tars: Path, **changes: object) -> ConversationDataModule:
    """Loaders over the session's tars."""
    defaults: dict[str, Any] = {"objectives": {"attributes": 0.6, "emotion": 0.4}}
    if changes.get("max_tokens") is None:
        defaults["batch_size"] = 4
    return ConversationDataModule([str(tars / "*-train-*.tar")], [str(tars / "*-val-*.tar")], **(defaults | changes))


def as_dict(batch: ChatBatch) -> dict[str, Any]:
    """The same batch, whose keys may be taken away and changed."""
    return cast(dict[str, Any], batch)


def batch_of(tars: Path, model: Path, rows: range = range(6)) -> tuple[Backbone, ChatBatch]:
    """A backbone and a batch with answers of unequal lengths."""
    backbone = load_backbone(BackboneConfig(str(model), tuning="full", train_vision=True)).eval()
    dataset = data(tars).dataset("train")
    return backbone, Collator(backbone.processor, backbone.model_type, answers=True)([dataset[Slot(i, False)] for i in rows])


def test_loss_equals_transformers(world_tars: Path, tiny_qwen: Path) -> None:
    backbone, batch = batch_of(world_tars, tiny_qwen)
    lengths = (batch["labels"] != IGNORE_INDEX).sum(1)
    assert len(set(lengths.tolist())) > 1
    total, count = supervised_loss(backbone.last_hidden_state(batch), batch["labels"], backbone.base.lm_head)
    # A model that this project did not load, with pixels as its processor gives them.
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_qwen).eval()
    inputs = for_transformers(backbone.family.model_inputs(batch), backbone.processor)
    expected = plain(**inputs, labels=batch["labels"]).loss
    assert int(count) == int(lengths.sum())
    assert float(total.detach() / count) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_only_the_answer_is_supervised(world_tars: Path, tiny_qwen: Path) -> None:
    backbone, batch = batch_of(world_tars, tiny_qwen)
    tokenizer = backbone.processor.tokenizer
    for row in range(len(batch["key"])):
        supervised = batch["labels"][row] != IGNORE_INDEX
        text = tokenizer.decode(batch["input_ids"][row][supervised])
        assert isinstance(text, str)
        assert text.endswith("<|im_end|>")
        assert set(json.loads(text.removesuffix("<|im_end|>"))) <= {
            "description",
            "background",
            "attribute",
            "subject",
            "bbox_2d",
            "emotion",
            "intensity",
        }
        asked = tokenizer.decode(batch["input_ids"][row][~supervised])
        assert "Look at the image" in asked


def test_collator_equals_the_processor(world_tars: Path, tiny_qwen: Path) -> None:
    """Our prompt, token for token, is what transformers' own processor makes of the same chat."""
    from emo_lightning.data.chat import OBJECTIVES, prompt

    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen"))
    index = TarIndex.open(world_tars)
    keys = OBJECTIVES["emotion"].keys
    questions = [ImageQuestion(index.key(i), index.image(i), keys) for i in range(3)]
    ours = Collator(backbone.processor, backbone.model_type, answers=False)(questions)
    chat: list[dict[str, object]] = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt(keys)}]}]
    text = backbone.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    theirs = cast(ProcessorMixin, backbone.processor)(
        text=[text] * 3, images=[q.image for q in questions], return_tensors="pt", padding=True, padding_side="left"
    )
    found = backbone.family.model_inputs(ours)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw"):
        assert torch.equal(found[name], theirs[name]), name
    assert torch.equal(for_transformers(found, backbone.processor)["pixel_values"], theirs["pixel_values"])


def trainer(out: Path, **changes: object) -> pl.Trainer:
    """A quiet CPU trainer."""
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    defaults = {"accelerator": "cpu", "devices": 1, "use_distributed_sampler": False, "enable_checkpointing": False}
    return pl.Trainer(default_root_dir=out, **(quiet | defaults | changes))


class Recorder(pl.Callback):
    """Losses as returned, and the gradient after each micro-batch (divided by its items where the optimiser stepped)."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[torch.Tensor] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        # Lightning clears gradients before the next backward, so those of the step are still there.
        self.gradients.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).clone())


class Summed(SFTTask):
    """Keeps the sum of losses and the number of items of every training micro-batch of this rank."""

    def __init__(self, backbone: BackboneConfig, optim: OptimConfig | None = None) -> None:
        super().__init__(backbone, optim)
        self.sums: list[tuple[float, int]] = []

    def _step(self, batch: ChatBatch, stage: str) -> tuple[torch.Tensor, torch.Tensor]:
        total, count = super()._step(batch, stage)
        if stage == "train":
            self.sums.append((float(total.detach()), int(count)))
        return total, count


def mean_loss(sums: list[tuple[float, int]]) -> float:
    """Over all supervised tokens of these micro-batches."""
    return sum(total for total, _ in sums) / sum(count for _, count in sums)


def fit_once(tars: Path, model: Path, out: Path, *, batch_size: int, accumulate: int) -> tuple[Summed, Recorder]:
    """One optimiser step in float64 over the same 8 samples."""
    torch.manual_seed(0)
    task = Summed(BackboneConfig(str(model), tuning="full", train_vision=True), OptimConfig(lr=1e-3, warmup=0))
    recorder = Recorder()
    run = trainer(
        out, max_steps=1, accumulate_grad_batches=accumulate, precision="64-true", limit_val_batches=0, callbacks=[recorder]
    )
    run.fit(task, datamodule=data(tars, batch_size=batch_size, limit=8))
    return task, recorder


def gradient_of_transformers(tars: Path, model: Path) -> torch.Tensor:
    """Of transformers' own mean loss over the same 8 samples, in float64."""
    backbone, batch = batch_of(tars, model, range(8))
    backbone.double()
    inputs = backbone.family.model_inputs(batch)
    inputs["pixel_values"] = inputs["pixel_values"].double()
    backbone.base(**inputs, labels=batch["labels"]).loss.backward()
    return torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None])


def test_micro_batches_equal_one_batch(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    whole, one = fit_once(world_tars, tiny_qwen, tmp_path / "a", batch_size=8, accumulate=1)
    parts, four = fit_once(world_tars, tiny_qwen, tmp_path / "b", batch_size=2, accumulate=4)
    assert len({count for _, count in parts.sums}) > 1, "the test needs unequal answers"
    assert mean_loss(parts.sums) == pytest.approx(mean_loss(whole.sums), abs=1e-6)
    assert mean_loss(whole.sums) == pytest.approx(one.losses[0], abs=1e-5)
    gradient, accumulated = one.gradients[-1], four.gradients[-1]
    assert float((gradient - accumulated).abs().max()) < 1e-6
    assert float((gradient - gradient_of_transformers(world_tars, tiny_qwen)).abs().max()) < 1e-6
    for (name, a), (_, b) in zip(whole.named_parameters(), parts.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name


def images(tars: Path, batch_size: int, count: int) -> ConversationDataModule:
    """13 images to train on and the first ones of the validation set."""
    source = data(tars, batch_size=batch_size, val_batch_size=batch_size, limit=13)
    held = source.dataset("val")
    held.index = held.index.take(range(count))
    return source


def fit_and_validate(tars: Path, model: Path, out: Path, devices: int) -> None:
    """One rank's part of an epoch in float64."""
    task = Summed(BackboneConfig(str(model), tuning="full", train_vision=True), OptimConfig(lr=1e-3, warmup=0))
    recorder = Recorder()
    strategy = "ddp" if devices > 1 else "auto"
    run = trainer(out, max_epochs=1, precision="64-true", devices=devices, strategy=strategy, callbacks=[recorder])
    run.fit(task, datamodule=images(tars, 8 // devices, 5))
    losses = [float(run.callback_metrics["val/loss"])]
    # One image over two ranks: one of them has nothing but a filler.
    losses += [run.validate(task, datamodule=images(tars, 1, 1), verbose=False)[0]["val/loss"]]
    torch.save(task.sums, out / f"{devices}-{run.global_rank}.pt")
    if run.is_global_zero:
        torch.save((task.state_dict(), recorder.gradients, losses), out / f"{devices}.pt")


@pytest.mark.slow
def test_two_ranks_equal_one(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """A real 2-process DDP run: weights, gradients and validation loss are those of one process on all samples."""
    run_ranks(partial(fit_and_validate, world_tars, tiny_qwen, tmp_path, 2))
    fit_and_validate(world_tars, tiny_qwen, tmp_path, 1)
    one, two = torch.load(tmp_path / "1.pt"), torch.load(tmp_path / "2.pt")
    for name, value in one[0].items():
        assert torch.allclose(value, two[0][name], atol=1e-6), name
    assert len(one[1]) == 2
    for a, b in zip(one[1], two[1], strict=True):
        assert float((a - b).abs().max()) < 1e-6
        assert float(a.abs().max()) > 1e-3
    assert one[2] == pytest.approx(two[2], abs=1e-6)
    alone, *ranks = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for step, sums in enumerate(zip(*ranks, strict=True)):
        assert mean_loss(list(sums)) == pytest.approx(mean_loss([alone[step]]), abs=1e-6)


def lora_task(model: Path) -> SFTTask:
    """Adapters everywhere, dropout on."""
    lora = LoRA(rank=4, alpha=8, dropout=0.2)
    return SFTTask(BackboneConfig(str(model), tuning="lora", train_vision=True, lora=lora), OptimConfig(lr=5e-3, warmup=0.2))


def test_resume_in_mid_epoch_is_exact(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """Losses after a resume equal those of a run that never stopped, to the last bit, with dropout."""

    def run(out: Path, steps: int, checkpoint: Path | None = None) -> list[float]:
        torch.manual_seed(1)
        recorder = Recorder()
        saver = ModelCheckpoint(dirpath=out, every_n_train_steps=4, save_top_k=-1, filename="{step}")
        task = lora_task(tiny_qwen)
        fit = trainer(out, max_steps=steps, enable_checkpointing=True, callbacks=[recorder, saver], limit_val_batches=0)
        fit.fit(task, datamodule=data(world_tars), ckpt_path=checkpoint, weights_only=True)
        assert any(m.p > 0 and m.training for m in task.modules() if isinstance(m, torch.nn.Dropout))
        return recorder.losses

    # 24 samples of 4: six steps an epoch, so step 4 is in its middle. The schedule must be the same: both end at step 9.
    whole = run(tmp_path / "whole", 9)
    resumed = run(tmp_path / "resumed", 9, tmp_path / "whole" / "step=4.ckpt")
    assert resumed == whole[4:]


def test_round_two_starts_from_round_one(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """The adapter is written in PEFT's format, peft loads it to the same outputs, and the next round goes on from it."""
    from peft import PeftModel

    task = lora_task(tiny_qwen)
    trainer(tmp_path, max_steps=3).fit(task, datamodule=data(world_tars))
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_qwen)
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ours = load_backbone(BackboneConfig(str(tmp_path / "adapter"), tuning="lora", train_vision=True))
    assert any(p.requires_grad for p in ours.parameters())
    _, batch = batch_of(world_tars, tiny_qwen)
    inputs = for_transformers(ours.family.model_inputs(batch), ours.processor)
    with torch.no_grad():
        expected = theirs(**inputs).logits
        untrained = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_qwen)(**inputs).logits
        found = ours.eval().base.lm_head(ours.last_hidden_state(batch))
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, untrained, atol=1e-3)
    merged = load_backbone(BackboneConfig(str(tmp_path / "adapter"), tuning="frozen")).merged()
    merged.save_pretrained(tmp_path / "merged")
    again = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        assert torch.allclose(again(**inputs).logits, expected, atol=1e-4)


def test_missing_token_types_stop(world_tars: Path, tiny_qwen: Path) -> None:
    backbone, batch = batch_of(world_tars, tiny_qwen)
    del as_dict(batch)["mm_token_type_ids"]
    with pytest.raises(ValueError, match="mm_token_type_ids"):
        check_batch(batch, backbone)
    with pytest.raises(KeyError, match="mm_token_type_ids"):
        backbone.last_hidden_state(batch)


def test_cut_image_run_stops(world_tars: Path, tiny_qwen: Path) -> None:
    backbone, batch = batch_of(world_tars, tiny_qwen)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "labels"):
        as_dict(batch)[name] = as_dict(batch)[name][:, 8:]
    with pytest.raises(ValueError, match="image tokens"):
        check_batch(batch, backbone)


def test_too_long_sample_is_not_cut(world_tars: Path, tiny_qwen: Path) -> None:
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen"))
    collate = Collator(backbone.processor, backbone.model_type, answers=True, max_length=20)
    with pytest.raises(ValueError, match="max_length=20"):
        collate([data(world_tars).dataset("train")[Slot(0, False)]])


def test_zero_supervised_tokens_stop(world_tars: Path, tiny_qwen: Path) -> None:
    backbone, batch = batch_of(world_tars, tiny_qwen)
    batch["labels"][2] = IGNORE_INDEX
    with pytest.raises(ValueError, match="zero supervised tokens"):
        check_batch(batch, backbone)
    batch["filler"][2] = True
    check_batch(batch, backbone)


def test_parameter_without_gradient_stops(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    class Detached(SFTTask):
        def configure_model(self) -> None:
            super().configure_model()
            self.extra = torch.nn.Parameter(torch.zeros(1))

    task = Detached(BackboneConfig(str(tiny_qwen), tuning="lora"))
    with pytest.raises(RuntimeError, match=r"got no gradient in the first step, first: extra"):
        trainer(tmp_path, max_steps=1).fit(task, datamodule=data(world_tars))


Collate = Callable[[list[ImageQuestion]], Any]


class Dropping(ConversationDataModule):
    """Loses a part of every batch."""

    lost = "mm_token_type_ids"

    def collate_fn(self) -> Collate:
        collate = super().collate_fn()
        return lambda questions: {k: v for k, v in collate(questions).items() if k != self.lost}


class Cutting(Dropping):
    """Cuts every sequence, as truncation to a length would."""

    def collate_fn(self) -> Collate:
        collate = ConversationDataModule.collate_fn(self)
        names = ("input_ids", "attention_mask", "mm_token_type_ids", "labels")
        return lambda questions: {k: v[:, 8:] if k in names else v for k, v in as_dict(collate(questions)).items()}


class Unsupervised(Dropping):
    """Has no target."""

    def collate_fn(self) -> Collate:
        collate = ConversationDataModule.collate_fn(self)
        return lambda questions: {
            k: torch.full_like(v, IGNORE_INDEX) if k == "labels" else v for k, v in as_dict(collate(questions)).items()
        }


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Dropping, "batch lacks 'mm_token_type_ids'"),
        (Cutting, "marks .* image tokens"),
        (Unsupervised, "zero supervised tokens"),
    ],
)
def test_a_broken_batch_stops_the_fit_before_its_first_step(
    broken: type[Dropping], message: str, world_tars: Path, tiny_qwen: Path, tmp_path: Path
) -> None:
    source = broken([str(world_tars / "*-train-*.tar")], [str(world_tars / "*-val-*.tar")], {"emotion": 1.0}, batch_size=2)
    task, run = lora_task(tiny_qwen), trainer(tmp_path, max_steps=1)
    with pytest.raises(ValueError, match=message):
        run.fit(task, datamodule=source)
    assert run.global_step == 0


def test_logits_are_computed_at_the_answers_alone(world_tars: Path, tiny_qwen: Path) -> None:
    backbone, batch = batch_of(world_tars, tiny_qwen)
    rows: list[int] = []
    backbone.base.lm_head.register_forward_hook(lambda _m, inputs, _o: rows.append(inputs[0].shape[:-1].numel()))
    _, count = backbone.answer_loss(batch)
    assert rows == [int(count)]
    assert int(count) < batch["labels"].numel() / 2


def test_rates_and_decay_reach_the_optimiser(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """Peak rates by part and no decay on vectors, as the optimiser steps them."""
    optim = OptimConfig(lr=1e-4, vision_lr=1e-6, merger_lr=1e-5, weight_decay=0.1, warmup=0)
    task = SFTTask(BackboneConfig(str(tiny_qwen), tuning="full", train_vision=True), optim)
    run = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    run.fit(task, datamodule=data(world_tars))
    name_of = {id(p): name for name, p in task.named_parameters()}
    seen = 0
    for group in run.optimizers[0].param_groups:
        for parameter in group["params"]:
            name = name_of[id(parameter)]
            expected = 1e-5 if "visual.merger" in name else 1e-6 if ".visual." in name else 1e-4
            assert group["initial_lr"] == expected, name
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), name
            seen += 1
    assert seen == len(list(task.parameters()))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_rise_to_the_peak_and_fall(schedule: Literal["cosine", "linear", "constant"]) -> None:
    """Against the formulas: linear warm-up, then half a cosine, a line, or the peak, down to `final`."""
    optim = OptimConfig(schedule=schedule, warmup=0.1, final=0.2)
    factors = [optim.factor(step, 100) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert max(factors) == factors[10] == 1.0
    middle = {"cosine": 0.6, "linear": 0.6, "constant": 1.0}[schedule]
    assert factors[55] == pytest.approx(middle)
    assert factors[100] == pytest.approx({"constant": 1.0}.get(schedule, 0.2))
    if schedule == "cosine":
        assert factors[32] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 22 / 90)))


def test_unknown_schedule_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"optim\.schedule='step'; allowed: cosine, linear, constant"):
        OptimConfig(schedule="step").factor(50, 100)  # type: ignore[arg-type]


def test_the_schedule_ends_with_the_fit(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """Steps are counted over epochs and accumulation: the last step's rate is the schedule's last but one."""
    rates: list[float] = []

    class Rates(pl.Callback):
        def on_before_optimizer_step(
            self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
        ) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    task = SFTTask(BackboneConfig(str(tiny_qwen), tuning="lora"), OptimConfig(lr=1.0, schedule="linear", warmup=0))
    run = trainer(tmp_path, max_epochs=2, accumulate_grad_batches=4, limit_val_batches=0, callbacks=[Rates()])
    run.fit(task, datamodule=data(world_tars))  # 24 images of 4: six micro-batches, two steps an epoch
    assert rates == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_qlora_fits_and_resumes(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """4-bit through the Trainer, on a CPU: the checkpoint holds the adapters alone and fits a model that is loaded anew."""

    def run(out: Path, resume: Path | None = None) -> SFTTask:
        torch.manual_seed(0)
        task = SFTTask(BackboneConfig(str(tiny_qwen), tuning="qlora", lora=LoRA(rank=4)), OptimConfig(lr=1e-2, warmup=0))
        saver = ModelCheckpoint(dirpath=out, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        fit = trainer(out, max_steps=3, limit_val_batches=0, enable_checkpointing=True, callbacks=[saver])
        fit.fit(task, datamodule=data(world_tars), ckpt_path=resume, weights_only=True)
        return task

    run(tmp_path / "a")
    saved = torch.load(tmp_path / "a" / "step=2.ckpt", weights_only=True)["state_dict"]
    assert all("lora_" in name for name in saved)
    run(tmp_path / "b", tmp_path / "a" / "step=2.ckpt")
    whole, resumed = (load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("a", "b"))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_bf16_keeps_adapters_in_float32_and_learns_the_same(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """A base in bfloat16 under bf16-mixed, as configs/model/qwen2_5_vl_3b.yaml has it; adapters in bfloat16 where that is asked for."""
    losses = {}
    for name, dtype, precision, adapters in (
        ("exact", "float32", "32-true", "float32"),
        ("default", "bfloat16", "bf16-mixed", "float32"),
        ("half", "bfloat16", "bf16-mixed", "base"),
    ):
        torch.manual_seed(0)
        lora = LoRA(rank=4, dropout=0.0)
        config = BackboneConfig(str(tiny_qwen), tuning="lora", lora=lora, dtype=dtype, adapter_dtype=adapters)  # type: ignore[arg-type]
        task, recorder = SFTTask(config, OptimConfig(lr=1e-2, warmup=0)), Recorder()
        run = trainer(tmp_path / name, max_steps=4, precision=precision, limit_val_batches=0, callbacks=[recorder])
        run.fit(task, datamodule=data(world_tars))
        losses[name] = recorder.losses
        kinds = {(p.requires_grad, p.dtype) for p in task.parameters()}
        base = getattr(torch, dtype)
        assert kinds == {(True, base if adapters == "base" else torch.float32), (False, base)}
    for name in ("default", "half"):
        assert losses[name] == pytest.approx(losses["exact"], rel=0.02)
        assert losses[name] != losses["exact"]
    # What was saved in half precision goes on in half precision, or in float32.
    saved = str(tmp_path / "half" / "adapter")
    for adapters in ("base", "float32"):
        again = load_backbone(BackboneConfig(saved, dtype="bfloat16", adapter_dtype=adapters))  # type: ignore[arg-type]
        assert {p.dtype for p in again.parameters() if p.requires_grad} == {
            torch.bfloat16 if adapters == "base" else torch.float32
        }


def test_gradient_checkpointing_changes_no_gradient(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    gradients = []
    for switch in (False, True):
        torch.manual_seed(0)
        config = BackboneConfig(str(tiny_qwen), tuning="lora", train_vision=True, gradient_checkpointing=switch)
        recorder = Recorder()
        run = trainer(tmp_path, max_steps=1, limit_val_batches=0, precision="64-true", callbacks=[recorder])
        task = SFTTask(config)
        run.fit(task, datamodule=data(world_tars))
        assert task.net.base.is_gradient_checkpointing == switch
        gradients.append(recorder.gradients[0])
    assert float((gradients[0] - gradients[1]).abs().max()) < 1e-10


def test_learning_rates_by_part(tiny_qwen: Path) -> None:
    task = SFTTask(
        BackboneConfig(str(tiny_qwen), tuning="full", train_vision=True), OptimConfig(lr=1e-4, vision_lr=1e-6, merger_lr=1e-5)
    )
    task.configure_model()
    rates = {lr for lr, name, _ in task.grouped_parameters() if "visual.blocks" in name}
    assert rates == {1e-6}
    assert {lr for lr, name, _ in task.grouped_parameters() if "visual.merger" in name} == {1e-5}
    assert {lr for lr, name, _ in task.grouped_parameters() if "language_model" in name} == {1e-4}


def test_gradient_checkpointing_reaches_vision_adapters(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    config = BackboneConfig(str(tiny_qwen), tuning="lora", train_vision=True, gradient_checkpointing=True)
    task = SFTTask(config, OptimConfig(lr=1e-3))
    recorder = Recorder()
    trainer(tmp_path, max_steps=2, callbacks=[recorder]).fit(task, datamodule=data(world_tars))
    trained = [p for n, p in task.named_parameters() if p.requires_grad and ".visual.blocks." in n and "lora_B" in n]
    assert trained
    assert all(float(p.detach().abs().max()) > 0 for p in trained)


def test_a_fit_stopped_after_its_last_step_still_writes_its_adapter(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """The last checkpoint is there, the adapter is not yet: the same command again has no step left, and writes it."""

    def run(out: Path, checkpoint: Path | None = None) -> pl.Trainer:
        saver = ModelCheckpoint(dirpath=out, every_n_train_steps=2, save_top_k=-1, filename="{step}")
        fit = trainer(out, max_steps=2, enable_checkpointing=True, callbacks=[saver], limit_val_batches=0)
        fit.fit(lora_task(tiny_qwen), datamodule=data(world_tars), ckpt_path=checkpoint, weights_only=True)
        return fit

    run(tmp_path / "whole")
    again = run(tmp_path / "again", tmp_path / "whole" / "step=2.ckpt")
    assert again.global_step == 2
    written, expected = (load_file(tmp_path / out / "adapter" / "adapter_model.safetensors") for out in ("again", "whole"))
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
