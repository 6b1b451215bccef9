"""What only a CUDA device shows: bf16, 4 bits, checkpointing, one-rank DDP and FSDP over nccl, features and heads, against the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import DoublePrecision
from safetensors.torch import load_file
from torch import Tensor

from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import Collator
from emo_lightning.data.emotion_words import EmotionWords
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.data.features import FeatureCache
from emo_lightning.data.labelled import LabelledDataModule
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.data.sampler import Slot
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig, LoRA, Tuning
from emo_lightning.models.des import DESHead
from emo_lightning.models.loading import load_backbone
from emo_lightning.models.tiny import TinyQwen, build_qwen
from emo_lightning.models.vision_facts import vision_facts
from emo_lightning.tasks.des import DESHeadArgs, DESTask
from emo_lightning.tasks.features import FeatureTask
from emo_lightning.tasks.fsdp import ShardedStrategy
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.probe import ProbeTask
from emo_lightning.tasks.sft import SFTTask
from tests.models.test_backbone import asked
from tests.models.test_des import inputs, reference
from tests.tasks.test_sft import Recorder, data, trainer
from tests.worded import worded_qwen  # noqa: F401 - fixture

pytestmark = pytest.mark.gpu

DEVICE = "cuda"


@pytest.fixture(autouse=True)
def no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The convolution of the patches would be computed with ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(autouse=True)
def no_process_group_is_left() -> Iterator[None]:
    """A strategy of one test must not reach the next one."""
    yield
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def lora(path: Path, **options: object) -> BackboneConfig:
    """Adapters on all parts, without dropout."""
    defaults: dict[str, Any] = {"tuning": "lora", "train_vision": True, "lora": LoRA(rank=4, alpha=8, dropout=0.0)}
    return BackboneConfig(str(path), **(defaults | options))


def begun(model: Path, folder: Path) -> Path:
    """An adapter to start from: fresh ones are drawn by the device that a strategy initialises on, so no two would be equal."""
    torch.manual_seed(0)
    return load_backbone(lora(model)).save(folder / "begun")


def fit(
    tars: Path, out: Path, config: BackboneConfig, device: str = DEVICE, start: Path | None = None, **options: object
) -> tuple[SFTTask, list[float]]:
    """Four clipped steps of four samples, from a checkpoint if there is one; the task and its losses."""
    torch.manual_seed(0)  # of the adapters
    task, recorder = SFTTask(config, OptimConfig(lr=5e-3, warmup=0)), Recorder()
    defaults: dict[str, Any] = {"max_steps": 4, "gradient_clip_val": 1.0, "limit_val_batches": 0}
    callbacks = [recorder, *cast(list[pl.Callback], options.pop("callbacks", []))]
    run = trainer(out, **(defaults | {"accelerator": device, "callbacks": callbacks} | options))
    run.fit(task, datamodule=data(tars), ckpt_path=start, weights_only=True)
    return task, recorder.losses


def on_device(batch: ChatBatch) -> ChatBatch:
    """What can be moved is, as the Trainer moves it."""
    return cast(ChatBatch, {k: v.to(DEVICE) if hasattr(v, "to") else v for k, v in batch.items()})


def relative(found: Tensor, expected: Tensor) -> float:
    """Length of the difference as a share of the length."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())


# SFT


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_float32_learns_what_the_cpu_learns(tuning: Tuning, world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    config = lora(begun(tiny_qwen, tmp_path) if tuning == "lora" else tiny_qwen, tuning=tuning)
    task, found = fit(world_tars, tmp_path / "cuda", config)
    _, expected = fit(world_tars, tmp_path / "cpu", config, "cpu")
    assert found == pytest.approx(expected, rel=1e-3)
    assert found[-1] < found[0]
    saved = next(tmp_path.glob("cuda/*/*.safetensors"))
    assert load_file(saved).keys() == load_file(tmp_path / "cpu" / saved.relative_to(tmp_path / "cuda")).keys()
    assert isinstance(task, SFTTask)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_bf16_keeps_adapters_in_float32_and_learns_the_same(
    checkpointing: bool, world_tars: Path, tiny_qwen: Path, tmp_path: Path
) -> None:
    """As configs/model/qwen2_5_vl_3b.yaml has it: a base in bfloat16 under bf16-mixed."""
    start = begun(tiny_qwen, tmp_path)
    _, expected = fit(world_tars, tmp_path / "cpu", lora(start), "cpu")
    config = lora(start, dtype="bfloat16", gradient_checkpointing=checkpointing)
    task, found = fit(world_tars, tmp_path / "cuda", config, precision="bf16-mixed")
    assert found == pytest.approx(expected, rel=0.03)
    assert found != expected
    assert {(p.requires_grad, p.dtype) for p in task.parameters()} == {(True, torch.float32), (False, torch.bfloat16)}


def test_full_tuning_in_bf16_mixed_keeps_float32_weights(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """As experiments/authors.yaml has it: weights in float32, products in bf16."""
    config = lora(tiny_qwen, tuning="full", train_vision=False, dtype="float32", gradient_checkpointing=True)
    _, expected = fit(world_tars, tmp_path / "cpu", config, "cpu")
    task, found = fit(world_tars, tmp_path / "cuda", config, precision="bf16-mixed")
    assert found == pytest.approx(expected, rel=0.03)
    assert {p.dtype for p in task.parameters()} == {torch.float32}
    assert not any(p.requires_grad for n, p in task.named_parameters() if ".visual.blocks." in n)


def gradient(tars: Path, model: Path, out: Path, **config: object) -> Tensor:
    """Of one batch of eight, in float64."""
    torch.manual_seed(0)
    recorder = Recorder()
    options: dict[str, Any] = {
        "max_steps": 1,
        "limit_val_batches": 0,
        "precision": "64-true",
        "accelerator": DEVICE,
        "callbacks": [recorder],
    }
    micro = config.pop("micro_batches", 1)
    assert isinstance(micro, int)
    run = trainer(out, accumulate_grad_batches=micro, **options)
    run.fit(SFTTask(lora(model, **config)), datamodule=data(tars, batch_size=8 // micro, limit=8))
    return recorder.gradients[-1].cpu()


def test_micro_batches_and_checkpointing_change_no_gradient(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    whole = gradient(world_tars, tiny_qwen, tmp_path / "a")
    assert float(whole.abs().max()) > 1e-4
    for options in (
        {"micro_batches": 4},
        {"gradient_checkpointing": True},
        {"micro_batches": 2, "gradient_checkpointing": True},
    ):
        other = gradient(world_tars, tiny_qwen, tmp_path / "b", **options)
        assert float((whole - other).abs().max()) < 1e-8, options


def test_checkpointing_saves_memory(world_tars: Path, tmp_path: Path) -> None:
    """A deep model, whose activations outweigh its weights."""
    sizes = TinyQwen(hidden_size=128, layers=16, heads=4, vision_hidden=32, vision_layers=2, vocabulary=900)
    model = build_qwen(tmp_path / "deep", ["dog"], sizes, max_pixels=168 * 168)
    peaks = []
    for switch in (False, True):
        config = lora(model, gradient_checkpointing=switch, dtype="bfloat16")
        backbone = load_backbone(config).to(DEVICE).train()
        dataset = data(world_tars).dataset("train")
        collate = Collator(backbone.processor, backbone.model_type, answers=True)
        batch = on_device(collate([dataset[Slot(i, False)] for i in range(16)]))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.autocast(DEVICE, torch.bfloat16):
            total, count = backbone.answer_loss(batch)
        (total / count).backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        assert all(p.grad is not None for _, _, p in backbone.parameter_groups())
        del backbone, total
    assert peaks[1] < 0.7 * peaks[0], peaks


def test_dropout_resumes_in_mid_epoch(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """Dropout is drawn on the device, and a resumed run draws what the uninterrupted one drew.

    Not to the last bit: some CUDA kernels add in no fixed order. Another draw differs in the third digit.
    """
    config = lora(tiny_qwen, lora=LoRA(rank=4, alpha=32, dropout=0.3))

    def run(out: Path, start: Path | None = None) -> list[float]:
        saver = ModelCheckpoint(dirpath=out, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        _, losses = fit(world_tars, out, config, max_steps=5, enable_checkpointing=True, callbacks=[saver], start=start)
        return losses

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", tmp_path / "whole" / "step=3.ckpt")
    assert resumed == pytest.approx(whole[3:], rel=1e-5)
    _, undropped = fit(world_tars, tmp_path / "none", lora(tiny_qwen, lora=LoRA(rank=4, alpha=32, dropout=0.0)), max_steps=5)
    assert whole[3:] != pytest.approx(undropped[3:], rel=1e-4)


def test_qlora_learns_resumes_and_loads_again(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    config = lora(tiny_qwen, tuning="qlora", dtype="bfloat16", gradient_checkpointing=True)

    def run(out: Path, start: Path | None = None) -> tuple[SFTTask, list[float]]:
        saver = ModelCheckpoint(dirpath=out, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        options: dict[str, Any] = {"precision": "bf16-mixed", "enable_checkpointing": True, "callbacks": [saver]}
        return fit(world_tars, out, config, max_steps=12, max_epochs=2, start=start, **options)

    task, whole = run(tmp_path / "whole")
    # Two epochs over the same images: the second is compared with the first.
    assert sum(whole[6:]) < 0.95 * sum(whole[:6])
    linear = [m for m in task.net.base.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(linear) == 4 * 7
    assert {m.weight.dtype for m in linear} == {torch.uint8}
    _, resumed = run(tmp_path / "resumed", tmp_path / "whole" / "step=8.ckpt")
    assert resumed == pytest.approx(whole[8:], rel=0.02)
    again = (
        load_backbone(BackboneConfig(str(tmp_path / "whole" / "adapter"), tuning="qlora", dtype="bfloat16")).to(DEVICE).eval()
    )
    batch = on_device(asked(again, world_tars, range(4)))
    with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
        found, expected = again.last_hidden_state(batch), task.net.to(DEVICE).eval().last_hidden_state(batch)
    assert relative(found, expected) < 0.02


# More than one rank, as far as one device shows it: wrapping, nccl, checkpoints


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_one_rank_of_a_strategy_equals_none(name: str, world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """In float64: the adapter that is written, and the checkpoint, which any strategy takes up."""
    config = lora(begun(tiny_qwen, tmp_path), gradient_checkpointing=True)

    def run(out: Path, strategy: str | ShardedStrategy, start: Path | None = None) -> dict[str, Tensor]:
        saver = ModelCheckpoint(dirpath=out, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        options: dict[str, Any] = {"enable_checkpointing": True, "callbacks": [saver], "plugins": [DoublePrecision()]}
        fit(world_tars, out, config, strategy=strategy, start=start, **options)
        return load_file(out / "adapter" / "adapter_model.safetensors")

    def strategy() -> str | ShardedStrategy:
        return ShardedStrategy() if name == "fsdp" else name

    expected = run(tmp_path / "one", "auto")
    found = run(tmp_path / name, strategy())
    resumed = run(tmp_path / "resumed", strategy(), tmp_path / "one" / "step=2.ckpt")
    assert found.keys() == resumed.keys() == expected.keys()
    for key, value in expected.items():
        # transformers' norms compute in float32 whatever they are given.
        assert relative(found[key], value) < 1e-4, key
        # DDP takes up in float32 what it loads, before it turns to float64.
        assert relative(resumed[key], value) < 1e-3, key


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_strategies_train_in_bf16(name: str, tuning: Tuning, world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    config = lora(tiny_qwen, tuning=tuning, gradient_checkpointing=True)
    _, expected = fit(world_tars, tmp_path / "one", config, precision="bf16-mixed")
    strategy = ShardedStrategy() if name == "fsdp" else name
    _, found = fit(world_tars, tmp_path / name, config, precision="bf16-mixed", strategy=strategy)
    assert found == pytest.approx(expected, rel=0.02)
    (written,) = (tmp_path / name).glob("*/*.safetensors")
    assert load_file(written).keys() == load_file(tmp_path / "one" / written.relative_to(tmp_path / name)).keys()


# What is read from a frozen backbone


def frozen(model: Path, dtype: Literal["auto", "float32", "bfloat16"] = "auto") -> Backbone:
    """On the device."""
    return load_backbone(BackboneConfig(str(model), tuning="frozen", dtype=dtype)).to(DEVICE).eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.03)])
def test_features_alone_equal_those_in_a_batch(
    dtype: Literal["float32", "bfloat16"], tolerance: float, world_tars: Path, tiny_qwen: Path
) -> None:
    """Hidden states and DES of images of unequal sizes, padded left and right; bf16 within its 8 bits over four layers."""
    backbone = frozen(tiny_qwen, dtype=dtype)
    torch.manual_seed(0)
    head = DESHead(backbone.hidden_size).to(DEVICE).eval()

    def features(rows: list[int], side: str) -> list[tuple[Tensor, Tensor]]:
        batch = on_device(asked(backbone, world_tars, rows, side))
        with torch.no_grad():
            hidden = backbone.hidden_states(batch)
            des = head(hidden, batch["attention_mask"])
        return [(hidden[:, i, batch["attention_mask"][i].bool()], des[i]) for i in range(len(rows))]

    rows = list(range(8))
    left, right = features(rows, "left"), features(rows, "right")
    assert len({hidden.shape[1] for hidden, _ in left}) > 1, "the test needs padding"
    for row in rows:
        ((alone, des),) = features([row], "left")
        for hidden, embedding in (left[row], right[row]):
            assert relative(hidden, alone) < tolerance
            assert relative(embedding, des) < tolerance
            assert embedding.dtype == torch.float32
    assert relative(left[0][1], left[1][1]) > 3e-4, "all images look the same"


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_host_never_waits_in_a_step_over_a_row(world_tars: Path, tiny_qwen: Path, tuning: Tuning) -> None:
    """Loss and gradients; CUDA itself says where it is waited for."""
    config = lora(tiny_qwen, tuning=tuning, dtype="bfloat16")
    backbone = load_backbone(config).to(DEVICE).train()
    dataset = data(world_tars).dataset("train")
    collate = Collator(backbone.processor, backbone.model_type, answers=True, packed=True)
    batch = on_device(collate([dataset[Slot(row, False)] for row in range(6)]))
    with torch.autocast(DEVICE, torch.bfloat16):
        backbone.answer_loss(batch)[0].backward()  # what is made once
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            backbone.answer_loss(batch)[0].backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_features_in_bf16_are_near_float32(world_tars: Path, tiny_qwen: Path) -> None:
    exact = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen")).eval()
    batch = asked(exact, world_tars, range(6))
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        expected = exact.hidden_states(batch)[:, real]
        tolerances: dict[Literal["float32", "bfloat16"], float] = {"float32": 1e-4, "bfloat16": 0.05}
        for dtype, tolerance in tolerances.items():
            found = frozen(tiny_qwen, dtype=dtype).hidden_states(on_device(batch))[:, real.to(DEVICE)]
            assert relative(found, expected) < tolerance, dtype


def test_emotion_scores_and_replies_are_those_of_the_cpu(world_tars: Path, worded_qwen: Path) -> None:  # noqa: F811
    exact, ours = load_backbone(BackboneConfig(str(worded_qwen), tuning="frozen")).eval(), frozen(worded_qwen)
    batch = asked(exact, world_tars, range(6))
    words = EmotionWords.of_question(exact.processor.tokenizer)
    found, share = ours.emotion_scores(on_device(batch), words)
    expected, expected_share = exact.emotion_scores(batch, words)
    assert torch.allclose(found.cpu(), expected, atol=1e-4)
    assert torch.allclose(share.cpu(), expected_share, rtol=1e-2)
    replies = ours.generate(on_device(batch), 8)
    assert len(replies) == 6
    # The first token alone: a tie that falls otherwise would change all that follow.
    assert ours.generate(on_device(batch), 1) == exact.generate(batch, 1)


# The DES head and the probe


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_des_head_equals_equations_2_to_4(heads: int, dtype: torch.dtype, tolerance: float) -> None:
    """Against the NumPy evaluation; with NaN at padding, and no matter what else is in the batch."""
    lengths = (5, 9, 1)
    hidden, mask = inputs(lengths)
    torch.manual_seed(3)
    head = DESHead(hidden.shape[-1], num_heads=heads).double().eval()
    expected = [torch.from_numpy(reference(head, hidden, tokens, row)) for row, tokens in enumerate(lengths)]
    head, hidden, mask = head.to(DEVICE, dtype), hidden.to(DEVICE, dtype), mask.to(DEVICE)
    des = head(hidden.masked_fill(~mask[None, :, :, None], torch.nan), mask)
    for row, tokens in enumerate(lengths):
        assert torch.allclose(des[row].double().cpu(), expected[row], atol=tolerance, rtol=0)
        alone = head(hidden[:, row : row + 1, :tokens], mask[row : row + 1, :tokens])
        assert torch.allclose(des[row : row + 1], alone, atol=1e-5, rtol=0)
    des.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in head.parameters())


def test_des_and_probe_on_the_device(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """Features by the device equal those by the CPU; the head learns the same from them, and along with the backbone; probes fit."""
    tars = {split: [f"{world_tars}/*-{split}-*.tar"] for split in ("train", "val", "test")}
    for device in (DEVICE, "cpu"):
        run = trainer(tmp_path / device, accelerator=device)
        run.test(
            FeatureTask(BackboneConfig(str(tiny_qwen))), QuestionDataModule(tars, ["emotion"], batch_size=7), verbose=False
        )
    caches = [FeatureCache(tmp_path / device / "train") for device in (DEVICE, "cpu")]
    assert len(caches[0]) == len(caches[1]) == 24
    for row in range(24):
        assert relative(*(cache[row].hidden for cache in caches)) < 1e-4

    def losses(
        out: Path,
        source: FeatureDataModule | LabelledDataModule,
        device: str,
        backbone: BackboneConfig | None = None,
        **options: object,
    ) -> list[float]:
        recorder = Recorder()
        task = DESTask(
            DESHeadArgs(dropout=0.0),
            OptimConfig(lr=1e-3),
            contrastive_weight=0.2,
            intensity_weight=0.5,
            backbone=backbone,
            seed=4,
        )
        # One epoch of five batches.
        trainer(out, max_epochs=1, gradient_clip_val=1.0, accelerator=device, callbacks=[recorder], **options).fit(task, source)
        return recorder.losses

    def cached(device: str) -> FeatureDataModule:
        folder = tmp_path / device
        return FeatureDataModule(str(folder / "train"), str(folder / "val"), str(folder / "test"), batch_size=5, seed=2)

    def along() -> LabelledDataModule:
        return LabelledDataModule(tars["train"], tars["val"], batch_size=5, seed=2)

    expected = losses(tmp_path / "des-cpu", cached("cpu"), "cpu")
    assert losses(tmp_path / "des", cached(DEVICE), DEVICE) == pytest.approx(expected, rel=1e-3)
    frozen_backbone = BackboneConfig(str(tiny_qwen), tuning="frozen")
    assert losses(tmp_path / "online", along(), DEVICE, frozen_backbone) == pytest.approx(expected, rel=1e-3)
    half = BackboneConfig(str(tiny_qwen), tuning="frozen", dtype="bfloat16")
    assert losses(tmp_path / "bf16", along(), DEVICE, half, precision="bf16-mixed") == pytest.approx(expected, rel=0.05)

    found = {}
    for device in (DEVICE, "cpu"):
        probe = ProbeTask(str(tmp_path / "des" / "head"), [0.1, 1.0], [1e-3])
        run = trainer(tmp_path / f"probe-{device}", max_epochs=5, accelerator=device)
        run.fit(probe, datamodule=cached("cpu"))
        found[device] = float(run.callback_metrics["val/loss"])
    assert found[DEVICE] == pytest.approx(found["cpu"], rel=1e-3)


def test_the_key_of_a_vision_cache_names_gpu_and_kernels(tiny_qwen: Path) -> None:
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen"))
    facts = vision_facts(backbone, "vision", torch.zeros(1, 1, device=DEVICE))
    assert facts["device"] == f"cuda, {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
