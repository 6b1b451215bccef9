"""Optimiser and schedule: their settings, and how many steps a training has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from lightning.pytorch import Trainer

from emo_lightning.core.errors import InputError


@dataclass
class OptimConfig:
    """AdamW and its schedule."""

    lr: float = 1e-4
    """Peak learning rate."""
    vision_lr: float | None = None
    """Peak for the vision tower; null takes `lr`."""
    merger_lr: float | None = None
    """Peak for the merger; null takes `lr`."""
    weight_decay: float = 0.01
    """On matrices; vectors (norms, biases) get none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Of the rate after the warm-up."""
    warmup: float = 0.03
    """Share of all steps in which the rate rises linearly from zero."""
    final: float = 0.0
    """Rate at the end as a share of the peak."""

    def __post_init__(self) -> None:
        rates = {"lr": self.lr, "vision_lr": self.vision_lr, "merger_lr": self.merger_lr, "weight_decay": self.weight_decay}
        for name, value in rates.items():
            if value is not None and not 0 <= value < math.inf:
                msg = f"optim.{name}: found {value}; expected 0 or more"
                raise InputError(msg)
        for name, share in {"warmup": self.warmup, "final": self.final}.items():
            if not 0 <= share <= 1:
                msg = f"optim.{name}: found {share}; expected a share, 0 to 1"
                raise InputError(msg)
        if not all(0 <= beta < 1 for beta in self.betas):
            msg = f"optim.betas: found {list(self.betas)}; expected two numbers from 0 to below 1"
            raise InputError(msg)
        if self.schedule not in ("cosine", "linear", "constant"):
            msg = f"optim.schedule={self.schedule!r}; allowed: cosine, linear, constant"
            raise InputError(msg)

    def factor(self, step: int, total: int) -> float:
        """Learning rate at an optimiser step as a share of the peak."""
        rise = max(1, round(self.warmup * total)) if self.warmup > 0 else 0
        if step < rise:
            return (step + 1) / (rise + 1)
        done = min(1.0, (step - rise) / max(1, total - rise))
        match self.schedule:
            case "cosine":
                shape = 0.5 * (1 + math.cos(math.pi * done))
            case "linear":
                shape = 1 - done
            case "constant":
                shape = 1.0
        return self.final + (1 - self.final) * shape


@runtime_checkable
class CountsBatches(Protocol):
    """A data module that knows the length of an epoch without making a loader."""

    def train_batches(self, world_size: int) -> int:
        """Micro-batches per rank and epoch."""
        ...


def total_steps(trainer: Trainer) -> int:
    """Optimiser steps of the whole fit, without building a loader.

    `Trainer.estimated_stepping_batches` would build it before a checkpoint is restored, and its place in the epoch would be lost.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, CountsBatches):
        msg = f"{type(data).__name__} has no method train_batches, which the schedule needs"
        raise TypeError(msg)
    batches = data.train_batches(trainer.world_size)
    limit = trainer.limit_train_batches
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
    bounds = []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        bounds.append(per_epoch * trainer.max_epochs)
    if trainer.max_steps >= 0:
        bounds.append(trainer.max_steps)
    if not bounds:
        msg = "trainer.max_epochs and trainer.max_steps are both unlimited; the schedule needs one of them"
        raise InputError(msg)
    return max(1, min(bounds))
