"""Supervised fine-tuning of the backbone: both rounds of section 3.3, and the neutral base of the demo world.

A round is a YAML: it chooses the objectives (`data.objectives`) and where to start (`model.backbone.path`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import override

from emo_lightning.core.errors import InputError
from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import IGNORE_INDEX
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.tasks.backbone import BackboneTask
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.throughput import Throughput

if TYPE_CHECKING:
    from lightning.pytorch import Callback


class SFTTask(BackboneTask[ChatBatch]):
    """Cross-entropy on the answer's tokens (equation 1).

    Fine-tuning on hard emotion words costs a model what it knew of other data sets: `soft_labels`, `distribution_weight` and a
    replay of other objectives (`data.objectives`) are there against that. `val/loss` is equation 1 whatever these are set to.

    Args:
        backbone: which model, and what of it trains.
        optim: optimiser and schedule; the vision tower and the merger may have their own rates.
        seed: of dropout.
        soft_labels: learn the annotated distribution (`emotion_scores`) at the emotion's word; one-hot where there is none.
        distribution_weight: of KL(annotated || model) over the eight words, in answer tokens; 0 switches it off.
    """

    def __init__(
        self,
        backbone: BackboneConfig,
        optim: OptimConfig | None = None,
        seed: int = 0,
        soft_labels: bool = False,
        distribution_weight: float = 0.0,
    ) -> None:
        super().__init__(backbone, optim, seed)
        if not 0 <= distribution_weight < math.inf:
            msg = f"model.distribution_weight is {distribution_weight}; expected at least 0"
            raise InputError(msg)
        self.soft_labels, self.distribution_weight = soft_labels, distribution_weight
        self.throughput = Throughput()

    @override
    def on_before_batch_transfer(self, batch: ChatBatch, dataloader_idx: int) -> ChatBatch:
        """Check the batch while it is on the CPU."""
        check_batch(batch, self.net)
        if self.trainer.training:
            self.throughput.see(self.net, batch)
        return batch

    def configure_callbacks(self) -> list[Callback]:
        """What counts and logs the speed of training."""
        return [self.throughput]

    def _step(self, batch: ChatBatch, stage: str) -> tuple[Tensor, Tensor]:
        if stage != "train":
            return self.net.answer_loss(batch)
        return self.net.answer_loss(batch, soft=self.soft_labels, distribution_weight=self.distribution_weight)

    def wants_distributions(self) -> bool:
        """Whether training batches must say where the emotion's word stands."""
        return self.soft_labels or self.distribution_weight > 0


def check_batch(batch: ChatBatch, backbone: Backbone) -> None:
    """Refuse a batch on which the model would train wrongly in silence.

    Raises:
        ValueError: image tokens that do not match the image or have no positions, or a batch with nothing supervised.
    """
    backbone.family.check_images(backbone.processor, batch)
    if "labels" in batch:
        counts = batch["labels"] != IGNORE_INDEX
        rows = counts[0].split(batch["lengths"]) if "lengths" in batch else counts.unbind()
        supervised = torch.stack([row[1:].any() for row in rows])
        real = ~batch["filler"]
        if not bool(supervised[real].all()):
            row = int((real & ~supervised).nonzero()[0, 0])
            msg = f"sample {batch['key'][row]!r} has zero supervised tokens: every label is {IGNORE_INDEX}"
            raise ValueError(msg)
