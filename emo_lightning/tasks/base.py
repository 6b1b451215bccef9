"""What all tasks share: exact averaging over what is supervised, and dropout that resumes to the bit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric
from typing_extensions import override

from emo_lightning.core.endings import ENDING
from emo_lightning.core.errors import InputError, UserError
from emo_lightning.data.module import DataModule
from emo_lightning.data.skips import Skips
from emo_lightning.data.step_cut import ComparesSamples
from emo_lightning.tasks.collectives import objects_of_all_ranks, world_size
from emo_lightning.tasks.finite import Fault, NotFiniteError, SeenMicroBatch, all_finite, first_of_ranks, not_finite
from emo_lightning.tasks.optim import OptimConfig, total_steps

BatchT = TypeVar("BatchT")
"""One of the batches in `data/batches.py`."""


class TrainingError(UserError, RuntimeError):
    """A training cannot go on as it is configured; the message names what does not fit."""


def refuse_limits(trainer: Trainer, instead: str) -> None:
    """Refuse what would leave images out of a result that then counts as whole.

    Args:
        trainer: that is about to test.
        instead: what to do.

    Raises:
        InputError: `limit_test_batches` or `fast_dev_run` of the Trainer.
    """
    limit = getattr(trainer, "limit_test_batches", 1.0)
    # Lightning takes 1.0 for all batches, and 1 for one.
    if not isinstance(limit, float) or limit != 1.0:
        msg = f"trainer.limit_test_batches (and fast_dev_run) would leave images out of the result; {instead}"
        raise InputError(msg)


class Task(LightningModule, ComparesSamples, Generic[BatchT]):
    """A LightningModule whose loss is a *sum* over supervised items, averaged exactly before each optimiser step.

    `_step` of a subclass returns (sum of losses, number of items). Gradients of the sum are accumulated over micro-batches and
    ranks and divided by the number of items of all of them: averaging the averages would weigh a token of a short answer more.
    """

    models_trained = 1
    """How many models share the sum; `train/loss` is their mean."""
    some_may_diverge = False
    """Whether a loss, a gradient or a weight that is not finite is no reason to stop: the task chooses among its models."""

    def __init__(self, optim: OptimConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.optim = optim or OptimConfig()
        self.seed = seed
        self._items: Tensor | None = None
        self._seen: list[SeenMicroBatch] = []
        """Micro-batches since the last optimiser step."""
        self._stepped: list[SeenMicroBatch] = []
        """Those of the last optimiser step: a weight that is not finite comes from them."""
        self._bad_validation: Fault | None = None
        """The first of this rank."""
        # Left to itself it drops what is not a number, and a mean of the others would stand for all.
        self.val_loss = MeanMetric(nan_strategy=math.nan)

    def _step(self, batch: BatchT, stage: str) -> tuple[Tensor, Tensor]:
        """(sum of losses, number of items) of one micro-batch of `train` or `val`."""
        raise NotImplementedError

    @override
    def training_step(self, batch: BatchT, batch_idx: int) -> Tensor:
        """One micro-batch; returns the loss that Lightning differentiates (a sum, see the class)."""
        total, count = self._step(batch, "train")
        self._seen.append(SeenMicroBatch.of(batch, total))
        self._items = count.detach() if self._items is None else self._items + count.detach()
        average = total.detach() / count.clamp(min=1) / self.models_trained
        # Of each step alone: a size of the batch, which weighs means over epochs, would have to be waited for.
        self.log("train/loss", average, prog_bar=True, on_step=True, batch_size=1)
        # Lightning divides by the number of micro-batches and DDP by the number of ranks: both are undone here.
        return total * self.trainer.accumulate_grad_batches * self.trainer.world_size

    @override
    def validation_step(self, batch: BatchT, batch_idx: int) -> None:
        """One batch of the validation set."""
        total, count = self._step(batch, "val")
        if not self.some_may_diverge and self._bad_validation is None and not bool(total.isfinite()):
            seen = SeenMicroBatch.of(batch, total)
            fault = Fault(f"the validation loss is {float(seen.loss)}", seen.samples())
            self._bad_validation = self._fault_of(self._trained()) or fault
            if world_size() == 1:
                raise NotFiniteError.at(self._bad_validation, self.global_step)
        self.val_loss.update(total / count.clamp(min=1), count)

    def on_validation_epoch_end(self) -> None:
        """Log `val/loss`, averaged over the items of all batches and ranks.

        `self.log(…, sync_dist=True)` would average the ranks' item counts as whole numbers, that is, round them.
        """
        self.check_validation()
        self.log("val/loss", self.val_loss.compute(), prog_bar=True)
        self.val_loss.reset()

    def check_validation(self) -> None:
        """Refuse what the validation batches of all ranks have added up, before anything is made of it; every rank has to call this.

        Raises:
            NotFiniteError: something in the validation of a rank is no finite number; names its samples.
        """
        if not self.some_may_diverge and (fault := first_of_ranks(self._bad_validation)) is not None:
            raise NotFiniteError.at(fault, self.global_step)

    @override
    def on_train_batch_start(self, batch: BatchT, batch_idx: int) -> None:
        """Seed dropout by the place in training, so that a resumed run draws what the uninterrupted one drew.

        The place is that of the micro-batch among those of all ranks: where another number of ranks has micro-batches of the same size,
        the same one draws the same.
        """
        micro_batch = batch_idx * self.trainer.world_size + self.global_rank
        place = (self.current_epoch * 1_000_003 + micro_batch) * 4099
        torch.manual_seed((self.seed * 7_368_787 + place) % 2**63)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Divide the accumulated gradients by the items of all micro-batches and ranks; runs before clipping."""
        if self._items is None:
            msg = "optimiser step without a training step before it"
            raise RuntimeError(msg)
        if self.global_step == 0:
            self._check_gradients()
        fault = self._fault()
        skips = self._skips()
        # One sum for all: where a rank stopped alone, the others would wait for it.
        own = [float(fault is not None), float(skips is not None and skips.has_untold), *ENDING.wishes()]
        totals = torch.cat([self._items.float().reshape(1), self._items.new_tensor(own, dtype=torch.float32)])
        totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        # Alone there is nothing to wait for the device for.
        faults, untold, *wishes = totals[1:].tolist() if world_size() > 1 else own
        ENDING.agree(wishes)
        if faults:
            named = first_of_ranks(fault)
            assert named is not None
            raise NotFiniteError.at(named, self.global_step)
        if skips is not None:
            if untold:
                # In a step that has left out something alone: all others wait for nothing more than the sum.
                for met in objects_of_all_ranks(skips.untold()):
                    skips.take(met)
            self.log("data/skipped", float(len(skips.met)), on_step=True, batch_size=1)
        items = totals[0]
        self._items = None
        self._stepped, self._seen = self._seen, []
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.div_(items.to(parameter.grad.device).clamp(min=1))

    def _skips(self) -> Skips | None:
        """What is left out, where anything may be."""
        data = getattr(self.trainer, "datamodule", None)
        return data.skips if isinstance(data, DataModule) and data.skip else None

    def _fault(self) -> Fault | None:
        """What of this step is not finite on this rank."""
        if self.some_may_diverge:
            return None
        if not all_finite(one.loss for one in self._seen):
            bad = next(one.loss for one in self._seen if not bool(one.loss.isfinite()))
            return self._fault_of(self._trained()) or Fault(f"the loss is {float(bad)}", _keys(self._seen))
        # Under float16 a gradient that overflows is how the scaler finds its scale: it leaves the step out itself.
        if self._scaled():
            return None
        gradients = {name: p.grad for name, p in self._trained().items() if p.grad is not None}
        if all_finite(gradients.values()):
            return None
        wrong = not_finite(gradients.items())
        found = Fault(f"{len(wrong)} of {len(gradients)} gradients are not finite, first: {wrong[0]}", _keys(self._seen))
        return self._fault_of(self._trained()) or found

    def _scaled(self) -> bool:
        """Whether the loss is scaled, as under float16."""
        plugin = self.trainer.precision_plugin
        return isinstance(plugin, MixedPrecision) and plugin.scaler is not None

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def _fault_of(self, weights: Mapping[str, object]) -> Fault | None:
        """What of weights is not finite: the step before has made it so, and whatever is computed with them is no number either."""
        if not (bad := not_finite(weights.items())):
            return None
        what = f"{len(bad)} of {len(weights)} weights are not finite, first: {bad[0]}; they are not saved"
        return Fault(what, _keys(self._stepped), "the step before")

    def check_weights(self, weights: Mapping[str, object]) -> None:
        """Refuse to write weights that are not finite.

        Args:
            weights: name -> tensor; anything else is passed over.

        Raises:
            NotFiniteError: names the first, and the samples of the last step.
        """
        if not self.some_may_diverge and (fault := self._fault_of(weights)) is not None:
            raise NotFiniteError.at(fault, self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Keep the last checkpoint whose weights are numbers: nothing has been written when this raises."""
        self.check_weights(weights_of(checkpoint))

    def _check_gradients(self) -> None:
        silent = [name for name, p in self.named_parameters() if p.requires_grad and p.grad is None]
        if silent:
            msg = (
                f"{len(silent)} parameters should train and got no gradient in the first step, first: {silent[0]}. "
                "Freeze the part they belong to, or check gradient checkpointing and the loss weights"
            )
            raise TrainingError(msg)

    def grouped_parameters(self) -> Iterable[tuple[float, str, nn.Parameter]]:
        """(peak learning rate, name, parameter) of what trains; subclasses give parts their own rates."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                yield self.optim.lr, name, parameter

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with one group per (rate, decayed or not), and the schedule per optimiser step."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for lr, _, parameter in self.grouped_parameters():
            decay = self.optim.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": ps, "lr": lr, "weight_decay": decay} for (lr, decay), ps in groups.items()],
            lr=self.optim.lr,
            betas=self.optim.betas,
            fused=not self._scaled(),
        )
        # Lightning refuses to clip what a fused optimiser steps under mixed precision, as it may undo the scale itself: here is none.
        optimizer._step_supports_amp_scaling = False
        total = total_steps(self.trainer)
        schedule = LambdaLR(optimizer, lambda step: self.optim.factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": 1}}


def _keys(seen: Iterable[SeenMicroBatch]) -> list[str]:
    return [key for one in seen for key in one.samples()]


def weights_of(checkpoint: dict[str, object]) -> dict[str, Tensor]:
    """The weights in a Lightning checkpoint, by name; what is deleted from them is deleted from the checkpoint.

    Raises:
        TypeError: it is no checkpoint of a LightningModule.
    """
    state = checkpoint["state_dict"]
    if not isinstance(state, dict):
        msg = f"checkpoint: found {type(state).__name__} under 'state_dict'; expected a dict"
        raise TypeError(msg)
    return state
