"""Fine-tuning a small Qwen2.5-VL on tars, on this machine: `SFTTask` in rows of tokens against TRL's `SFTTrainer`.

Both get the same model, pictures (112 to 336 pixels a side), questions, answers (20 to 160 words), LoRA and number of samples; neither
checkpoints activations. The peer takes batches of eight, padded, as it refuses to pack pictures; our rows have as many tokens as eight
samples have on average. Rounds alternate, each of one epoch from the same weights; seconds are those of the training loop without
set-up, and the ratio is that of the medians. Both print the loss of all answers before and after.

    uv pip install --target benchmarks/.peers --no-deps -r benchmarks/requirements-peers.txt
    python benchmarks/sft_peers.py [--quick] [--full] [--samples 128] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image

from data_prep.demo.world import World
from data_prep.export import write_shards
from emo_lightning.core.records import Record
from emo_lightning.data.chat import answer, objective, prompt
from emo_lightning.data.collate import Collator
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.lengths import sample_lengths
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone import BackboneConfig, LoRA, load_backbone
from emo_lightning.models.tiny import TinyQwen, build_qwen, words_of
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.sft import SFTTask

PEERS = Path(__file__).parent / ".peers"
BATCH = 8
KEYS = ("description",)


def samples(count: int) -> Iterator[tuple[Record, bytes, str]]:
    """Drawn pictures of several sizes, described in 20 to 160 words."""
    draw = np.random.default_rng(0)
    words = sorted({word for sample in World(seed=0).samples("train", 40) for word in (sample.truth.description or "").split()})
    for sample in World(seed=0).samples("train", count):
        size = tuple(int(side) for side in draw.integers(112, 337, 2))
        data = io.BytesIO()
        Image.open(io.BytesIO(sample.image)).convert("RGB").resize(size).save(data, "JPEG", quality=90)
        text = " ".join(draw.choice(words, int(draw.integers(20, 161))))
        changes = {"width": size[0], "height": size[1], "description": text, "objects": [], "triplets": []}
        record = sample.truth.model_copy(update={**changes, "sha256": hashlib.sha256(data.getvalue()).hexdigest()})
        yield record, data.getvalue(), "jpg"


@dataclass
class Setting:
    """What both sides share."""

    tars: str
    model: str
    full: bool
    row: int
    """Tokens of eight samples on average."""


class Clock(pl.Callback):
    """Seconds of the training loop."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.begin, self.cpu = time.perf_counter(), time.process_time()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seconds, self.cpu = time.perf_counter() - self.begin, time.process_time() - self.cpu


def lora() -> LoRA:
    return LoRA(rank=16, alpha=32, dropout=0.0)


def ours(setting: Setting, folder: str) -> float:
    """Seconds of an epoch."""
    torch.manual_seed(0)
    tuning: Any = "full" if setting.full else "lora"
    backbone = BackboneConfig(setting.model, tuning=tuning, lora=None if setting.full else lora())
    data = ConversationDataModule([setting.tars], [setting.tars], {"caption": 1.0}, max_tokens=setting.row, allow_leaks=True)
    clock = Clock()
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[clock],
        default_root_dir=folder,
        gradient_clip_val=1.0,
        **quiet,
    )
    trainer.fit(SFTTask(backbone, OptimConfig(lr=1e-4, warmup=0.0)), datamodule=data)
    print(
        f"ours: loss of the last row {float(trainer.callback_metrics['train/loss']):.3f}, {trainer.global_step} steps, {clock.cpu:.1f} s of CPU"
    )
    return clock.seconds


def theirs(setting: Setting, folder: str) -> float:
    """The same by TRL."""
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature
    from peft import LoraConfig
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from emo_lightning.models.families.qwen2_5_vl import QWEN2_5_VL

    torch.manual_seed(0)
    index = TarIndex.open(setting.tars)
    codec = QWEN2_5_VL.codec
    rows = []
    for row in range(len(index)):
        record = index.record(row)
        question = [{"role": "user", "content": prompt(KEYS)}]
        said = [{"role": "assistant", "content": answer(KEYS, record, codec, (record.width, record.height))}]
        rows.append({"images": [{"bytes": index.image_bytes(row)[0], "path": None}], "prompt": question, "completion": said})
    turns = [{"role": Value("string"), "content": Value("string")}]
    data = Dataset.from_list(rows, features=Features({"images": [ImageFeature()], "prompt": turns, "completion": turns}))

    class Timed(TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            self.begin, self.cpu = time.perf_counter(), time.process_time()

        def on_train_end(self, *_: object, **__: object) -> None:
            self.seconds, self.cpu = time.perf_counter() - self.begin, time.process_time() - self.cpu

    clock = Timed()
    config = SFTConfig(
        folder,
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=1e-4,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        max_length=None,
        dataloader_pin_memory=False,
    )
    adapter = LoraConfig(
        r=16,
        lora_alpha=32,
        lora_dropout=0.0,
        target_modules=QWEN2_5_VL.lora_targets["language"] + "|" + QWEN2_5_VL.lora_targets["merger"],
    )
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(setting.model, dtype="float32")
    if setting.full:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(QWEN2_5_VL.part_of(name) != "vision")
    trainer = SFTTrainer(
        model,
        config,
        train_dataset=data,
        processing_class=AutoProcessor.from_pretrained(setting.model),
        callbacks=[clock],
        peft_config=None if setting.full else adapter,
    )
    loss = trainer.train().training_loss
    print(f"TRL: mean loss {loss:.3f}, {trainer.state.global_step} steps, {clock.cpu:.1f} s of CPU")
    return clock.seconds


def main() -> None:
    """Rounds in turn; the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few samples, one round: that it runs, not how fast")
    parser.add_argument("--full", action="store_true", help="all weights but the vision tower's learn, in place of LoRA")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    count, rounds = (16, 1) if given.quick else (given.samples, given.rounds)
    sys.path.append(str(PEERS))
    with tempfile.TemporaryDirectory() as folder:
        write_shards(samples(count), folder, "world", count)
        tars = f"{folder}/*.tar"
        sizes = TinyQwen(hidden_size=256, layers=6, heads=8, vision_hidden=128, vision_layers=4, vocabulary=16000)
        model = build_qwen(Path(folder) / "model", words_of([tars]), sizes, max_pixels=336 * 336, seed=0)
        backbone = load_backbone(BackboneConfig(str(model), tuning="frozen"))
        collate = Collator(backbone.processor, backbone.model_type, answers=True)
        lengths = sample_lengths(TarIndex.open(tars), [objective("caption")], collate)
        setting = Setting(tars, str(model), given.full, int(BATCH * lengths.mean()) + int(lengths.max()) // 2)
        print(
            f"{count} samples of {lengths.min()} to {lengths.max()} tokens, {lengths.mean():.0f} on average; rows of {setting.row}"
        )
        seconds: dict[str, list[float]] = {"ours": [], "trl": []}
        for number in range(rounds):
            for name, side in (("ours", ours), ("trl", theirs)):
                seconds[name].append(side(setting, f"{folder}/{name}{number}"))
            print("  ".join(f"{name} {count / times[-1]:.2f} samples/s" for name, times in seconds.items()), flush=True)
    rate = {name: count / statistics.median(times) for name, times in seconds.items()}
    found = {
        "samples_per_s": rate,
        "ratio": rate["ours"] / rate["trl"],
        "tuning": "full" if given.full else "lora",
        "samples": count,
    }
    print(f"ours {rate['ours']:.2f} samples/s, TRL {rate['trl']:.2f}, ratio {found['ratio']:.2f}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
