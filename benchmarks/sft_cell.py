"""One configuration of `sft_3b.py`, measured in the process that calls it: ours, TRL's `SFTTrainer`, or transformers in a plain loop."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from benchmarks.sft_counts import Counts, count
from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.sft import SFTTask

LR = 1e-6


@dataclass(frozen=True)
class Cell:
    """A configuration."""

    side: Literal["ours", "trl", "transformers"]
    tuning: Literal["lora", "qlora", "full"] = "lora"
    vision: Literal["live", "cached"] = "live"
    pixels: int = 448
    """Side of a picture."""
    tokens: int = 8192
    """Of a row; the peers take as many samples a step as have so many on average, and pad them."""
    checkpointing: bool | str = True
    compile: bool = False
    train_vision: bool = False
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    rank: int = 64
    dropout: float = 0.05
    workers: int = 0
    warmup: int = 2
    steps: int = 6

    @property
    def device(self) -> str:
        """Where it runs."""
        return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Place:
    """Where the run's files are."""

    model: Path
    tars: str
    cache: Path
    """Of the frozen tower's features."""
    mean: float
    """Tokens of a sample."""


@dataclass
class Measured:
    """What came out."""

    rates: dict[str, float]
    """As `perf/` has them."""
    loss: float
    """Mean of the counted steps."""
    padding: float
    """Share of a step's tokens that went through the model for nothing."""
    counts: Counts = field(default_factory=Counts)

    def row(self) -> dict[str, object]:
        """For the table."""
        return {**self.rates, **asdict(self)}


def measure(cell: Cell, place: Place) -> dict[str, object]:
    """Train for some steps and say how it went.

    Raises:
        ImportError: a peer is not installed, or bitsandbytes where it is asked for.
    """
    from benchmarks import sft_cell_peers as peers

    sides = {"ours": _ours, "trl": peers.trl, "transformers": peers.transformers}
    with tempfile.TemporaryDirectory() as out:
        return sides[cell.side](cell, place, out).row()


def settle(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def padding_of(batch: Mapping[str, Any]) -> float:
    """Share of a batch's tokens that are none of a sample."""
    real = sum(batch["lengths"]) if "lengths" in batch else int(batch["attention_mask"].sum())
    return 1.0 - real / float(batch["input_ids"].numel())


class _Watch(pl.Callback):
    """Starts the count after the warm-up, and keeps losses and a batch."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.losses: list[Tensor] = []
        self.batch: ChatBatch | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, SFTTask)
        settle(pl_module.device.type)
        if trainer.global_step == self.warmup:
            pl_module.throughput.restart(trainer)
            self.batch = cast(ChatBatch, batch)
        elif trainer.global_step > self.warmup:
            self.losses.append(trainer.callback_metrics["train/loss"])


class _Unsaved(SFTTask):
    def on_fit_end(self) -> None:
        """Nothing is kept."""


def _config(cell: Cell, place: Place) -> BackboneConfig:
    cache: dict[str, Any] = {"vision_cache": str(place.cache)} if cell.vision == "cached" else {}
    return BackboneConfig(
        str(place.model),
        tuning=cell.tuning,
        train_vision=cell.train_vision,
        lora=None if cell.tuning == "full" else LoRA(cell.rank, 2 * cell.rank, cell.dropout),
        dtype=cell.dtype,
        gradient_checkpointing=cast(Any, cell.checkpointing),
        compile=cell.compile,
        **cache,
    )


def _ours(cell: Cell, place: Place, out: str) -> Measured:
    """`SFTTask` on `ConversationDataModule`, by the Trainer."""
    data = ConversationDataModule(
        [place.tars],
        [place.tars],
        {"caption": 1.0},
        max_tokens=cell.tokens,
        max_length=cell.tokens,
        num_workers=cell.workers,
        allow_leaks=True,
    )
    watch, task = _Watch(cell.warmup), _Unsaved(_config(cell, place), OptimConfig(lr=LR, warmup=0.0))
    off: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = pl.Trainer(
        accelerator=cell.device,
        devices=1,
        precision="bf16-mixed" if cell.device == "cuda" else "32-true",
        max_steps=cell.warmup + cell.steps,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        callbacks=[watch],
        default_root_dir=out,
        use_distributed_sampler=False,
        **off,
    )
    trainer.fit(task, datamodule=data)
    rates = cast("dict[str, float]", task.throughput.summary()["perf"])
    batch = watch.batch
    assert batch is not None
    # `fit` leaves the model on the CPU.
    net = task.net.to(cell.device)
    with torch.autocast(cell.device, torch.bfloat16, enabled=cell.device == "cuda"):
        counts = count(net, lambda: net.answer_loss(batch))
    return Measured(rates, float(torch.stack(watch.losses).mean()), padding_of(batch), counts)
