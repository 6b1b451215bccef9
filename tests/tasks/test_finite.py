"""What is no finite number ends a training, with its step and samples; the last checkpoint of numbers is kept, and no model is written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from emo_lightning.data.batches import PairBatch
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.tasks.base import Task
from emo_lightning.tasks.des import DESTask
from emo_lightning.tasks.finite import Fault as Found
from emo_lightning.tasks.finite import NotFiniteError, all_finite, not_finite
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.sft import SFTTask
from tests.ranks import run_ranks

Fault = Literal["loss", "gradient", "weight", "val"]


class _Break(torch.autograd.Function):
    """A finite loss with a gradient of NaN."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        """The value."""
        return value.clone()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        """No number."""
        return gradients[0] * math.nan


class Line(Task[PairBatch]):
    """One weight; what it does wrong in step 3."""

    def __init__(self, fault: Fault | None, tolerant: bool = False, rank: int = 0) -> None:
        super().__init__(OptimConfig(lr=0.1, warmup=0.0))
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.fault, self.some_may_diverge, self.rank = fault, tolerant, rank

    def _step(self, batch: PairBatch, stage: str) -> tuple[Tensor, Tensor]:
        loss = (self.weight * batch["inputs"]["x"]).square().sum()
        broken = batch["key"] == ["s6", "s7"] and self.global_rank == self.rank
        if broken and self.fault == "gradient" and stage == "train":
            loss = _Break.apply(loss)
        if broken and self.fault == ("loss" if stage == "train" else "val"):
            loss = loss * math.nan
        return loss, torch.tensor(len(batch["key"]))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """As the base class; a weight that the step cannot mend, for the third fault."""
        super().on_before_optimizer_step(optimizer)
        if self.fault == "weight" and self.global_step == 3:
            self.weight.data.fill_(math.inf)


class Pairs(pl.LightningDataModule):
    """Six batches of two samples, in order."""

    def train_batches(self, world_size: int) -> int:
        """For the schedule."""
        return 6 // world_size

    def _loader(self) -> DataLoader[PairBatch]:
        def batches() -> Iterator[PairBatch]:
            for n in range(6):
                keys = [f"s{2 * n}", f"s{2 * n + 1}"]
                yield {"inputs": {"x": torch.ones(2)}, "filler": torch.tensor([False, False]), "key": keys}

        return DataLoader(list(batches()), batch_size=None)  # type: ignore[arg-type]

    train_dataloader = val_dataloader = _loader


def fit(task: Line, out: Path, ranks: int = 1, every: int = 1, validate: int = 6, **options: Any) -> Path:  # noqa: ANN401  # the trainer's
    """Train on the CPU with a checkpoint after every so many steps, and a validation; the file."""
    saver = ModelCheckpoint(out, save_last=True, save_top_k=0, every_n_train_steps=every)
    options["callbacks"] = [saver, *options.get("callbacks", [])]
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    more: dict[str, Any] = {"devices": ranks, "strategy": "ddp" if ranks > 1 else "auto", "use_distributed_sampler": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        val_check_interval=validate,
        num_sanity_val_steps=0,
        default_root_dir=out,
        **more,
        **quiet,
        **options,
    )
    trainer.fit(task, datamodule=Pairs())
    return out / "last.ckpt"


MESSAGES = {
    "loss": r"step 3: the loss is nan\. Samples of this step: s6, s7\. The last checkpoint before it is kept",
    "gradient": r"step 3: 1 of 1 gradients are not finite, first: weight\. Samples of this step: s6, s7\.",
    "weight": r"step 4: 1 of 1 weights are not finite, first: weight; they are not saved\. Samples of the step before: s6, s7\.",
    "val": r"step 6: the validation loss is nan\. Samples of this step: s6, s7\.",
}


@pytest.mark.parametrize("fault", MESSAGES)
def test_training_stops_and_keeps_the_last_checkpoint_of_numbers(fault: Fault, tmp_path: Path) -> None:
    with pytest.raises(NotFiniteError, match=MESSAGES[fault]):
        fit(Line(fault), tmp_path)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == (6 if fault == "val" else 3)
    assert bool(saved["state_dict"]["weight"].isfinite())


@pytest.mark.parametrize("validate", [6, 4], ids=["in the next step", "in a validation"])
def test_a_weight_that_is_found_later(validate: int, tmp_path: Path) -> None:
    """Whatever is computed with it is no number: its samples are those that made it so."""
    with pytest.raises(NotFiniteError, match=MESSAGES["weight"]):
        fit(Line("weight"), tmp_path, every=3, validate=validate)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


def every_rank_stops(out: Path) -> None:
    """One rank of two that see the same batches; the second alone finds no number, in its loss and later in validation."""
    for fault, message in {"loss": MESSAGES["loss"], "val": MESSAGES["val"]}.items():
        with pytest.raises(NotFiniteError, match=message):
            fit(Line(cast("Fault", fault), rank=1), out / fault, ranks=2)


def test_all_ranks_stop_when_one_has_to(tmp_path: Path) -> None:
    run_ranks(partial(every_rank_stops, tmp_path))
    saved = torch.load(tmp_path / "loss" / "last.ckpt", weights_only=True)
    assert (saved["global_step"], bool(saved["state_dict"]["weight"].isfinite())) == (3, True)


def test_a_grid_of_which_some_diverge_goes_on(tmp_path: Path) -> None:
    assert fit(Line("gradient", tolerant=True), tmp_path).is_file()


def test_a_mean_leaves_out_no_loss_that_is_no_number(tmp_path: Path) -> None:
    task = Line("val", tolerant=True)
    fit(task, tmp_path)
    assert math.isnan(task.trainer.callback_metrics["val/loss"])


class Gradients(pl.Callback):
    """Of the weight, as each step has taken them."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        grad = cast("Line", pl_module).weight.grad
        assert grad is not None
        self.found.append(float(grad))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_whatever_the_precision(precision: str, tmp_path: Path) -> None:
    """Lightning would refuse it with a fused optimiser under mixed precision, though nothing is scaled in bfloat16."""
    task, seen = Line(None), Gradients()
    fit(task, tmp_path, callbacks=[seen], precision=precision, gradient_clip_val=0.125)
    assert task.trainer.optimizers[0].defaults["fused"]
    assert seen.found == pytest.approx([0.125] * 6, rel=1e-4)


def test_what_is_counted() -> None:
    named = {"a": torch.ones(2), "b": torch.tensor([1.0, math.inf]), "c": torch.tensor([1]), "d": torch.tensor(math.nan)}
    assert not_finite([*named.items(), ("e", "text")]) == ["b", "d"]
    assert all_finite([])
    assert all_finite([torch.full((3,), 60000.0, dtype=torch.float16)])
    # Numbers whose squares are none.
    for kind, value in ((torch.float32, 1e30), (torch.bfloat16, 1e30), (torch.float16, 6e4)):
        for wrong in (math.inf, -math.inf, math.nan):
            assert all_finite([torch.full((3,), value, dtype=kind), torch.ones(2)])
            assert not all_finite([torch.tensor([value, wrong], dtype=kind), torch.ones(2)])
    many = str(NotFiniteError.at(Found("x", [f"k{n}" for n in range(20)]), 1))
    assert "k0, k1, k2, k3, k4, k5, k6, k7 and 12 more" in many


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_weights_of_losses_are_numbers(value: float) -> None:
    with pytest.raises(ValueError, match="distribution_weight"):
        SFTTask(BackboneConfig("m"), distribution_weight=value)
    for key in ("contrastive_weight", "contrastive_temperature", "intensity_weight"):
        given: dict[str, Any] = {key: value}
        with pytest.raises(ValueError, match=key):
            DESTask(**given)
