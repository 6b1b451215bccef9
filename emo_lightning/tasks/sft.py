"""Supervised fine-tuning of the backbone: both rounds of section 3.3, and the neutral base of the demo world.

A round is a YAML: it chooses the objectives (`data.objectives`) and where to start (`model.backbone.path`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from emo_lightning.core.errors import InputError
from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import IGNORE
from emo_lightning.data.module import DataModule
from emo_lightning.data.protocols import BackboneInputs
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.data.vision_cache import VisionCache
from emo_lightning.models.backbone import Backbone, BackboneConfig, load_backbone
from emo_lightning.models.sharding import gather_trained, shard
from emo_lightning.tasks.base import Task, TrainingError, weights_of
from emo_lightning.tasks.frozen_vision import FrozenVision
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.throughput import Throughput

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from torch.nn.modules.module import _IncompatibleKeys


class SFTTask(Task[ChatBatch]):
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
        super().__init__(optim, seed)
        if not 0 <= distribution_weight < math.inf:
            msg = f"model.distribution_weight is {distribution_weight}; expected at least 0"
            raise InputError(msg)
        self.soft_labels, self.distribution_weight = soft_labels, distribution_weight
        self.backbone_config = backbone
        self.backbone: Backbone | None = None
        self.throughput = Throughput()
        self.frozen_vision = FrozenVision()

    def configure_model(self) -> None:
        """Load the backbone, once, on every rank."""
        if self.backbone is None:
            self.backbone = load_backbone(self.backbone_config)
            # `from_pretrained` returns eval mode and Lightning leaves modes alone: dropout would be off.
            self.backbone.train()
            # A mesh is there under `--trainer.strategy fsdp` alone.
            if self.device_mesh is not None:
                shard(self.backbone, self.device_mesh)

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

    @property
    def net(self) -> Backbone:
        """The backbone, loaded."""
        if self.backbone is None:
            msg = "the backbone is loaded in configure_model, which the Trainer has not called yet"
            raise RuntimeError(msg)
        return self.backbone

    def _step(self, batch: ChatBatch, stage: str) -> tuple[Tensor, Tensor]:
        if stage != "train":
            return self.net.answer_loss(batch)
        return self.net.answer_loss(batch, soft=self.soft_labels, distribution_weight=self.distribution_weight)

    def backbone_inputs(self) -> BackboneInputs:
        """For the data module (`LearnsAnswers`)."""
        return BackboneInputs(self.net.processor, self.net.model_type, self.net.packs)

    def pictures(self, index: TarIndex, data: DataModule[Any]) -> VisionCache | None:
        """For a data module of images (`ReadsImages`)."""
        return self.frozen_vision.pictures(index, data, self.trainer, self.net)

    def wants_distributions(self) -> bool:
        """Whether training batches must say where the emotion's word stands."""
        return self.soft_labels or self.distribution_weight > 0

    def grouped_parameters(self) -> Iterable[tuple[float, str, nn.Parameter]]:
        """As the base class, with the parts' own rates."""
        rates = {"vision": self.optim.vision_lr, "merger": self.optim.merger_lr, "language": None}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                own = rates[self.net.part_of(name)]
                yield self.optim.lr if own is None else own, name, parameter

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Keep only what trains: a checkpoint of a LoRA run on 3B is megabytes, the base is where it came from."""
        trainable = {name for name, p in self.named_parameters() if p.requires_grad}
        if trainable:
            checkpoint["state_dict"] = {k: v for k, v in weights_of(checkpoint).items() if k in trainable}
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Refuse a checkpoint that lacks something that trains, or holds something unknown."""
        trainable = {name for name, p in self.named_parameters() if p.requires_grad}
        found = weights_of(checkpoint).keys()
        lost = trainable - found
        foreign = found - {name for name, _ in self.named_parameters()}
        if lost or foreign:
            first = sorted(lost or foreign)[0]
            msg = (
                f"checkpoint does not fit this model: {len(lost)} trained weights missing, {len(foreign)} unknown, first: {first}. "
                "Was model.backbone changed since it was written?"
            )
            raise TrainingError(msg)

    @override
    def load_state_dict(self, state_dict: Mapping[str, object], strict: bool = True, assign: bool = False) -> _IncompatibleKeys:
        """Not strict: what is frozen (4-bit weights among it) was loaded with the backbone, the rest has been checked."""
        result: _IncompatibleKeys = super().load_state_dict(state_dict, strict=False, assign=assign)
        return result

    def on_fit_end(self) -> None:
        """Write the adapter (or the model) where the next stage looks for it."""
        weights = gather_trained(self.net)
        self.check_weights(dict(self.named_parameters()))
        if self.trainer.is_global_zero:
            self.net.save(Path(self.trainer.default_root_dir), weights)


def check_batch(batch: ChatBatch, backbone: Backbone) -> None:
    """Refuse a batch on which the model would train wrongly in silence.

    Raises:
        ValueError: image tokens that do not match the image or have no positions, or a batch with nothing supervised.
    """
    backbone.family.check_images(backbone.processor, batch)
    if "labels" in batch:
        counts = batch["labels"] != IGNORE
        rows = counts[0].split(batch["lengths"]) if "lengths" in batch else counts.unbind()
        supervised = torch.stack([row[1:].any() for row in rows])
        real = ~batch["filler"]
        if not bool(supervised[real].all()):
            row = int((real & ~supervised).nonzero()[0, 0])
            msg = f"sample {batch['key'][row]!r} has zero supervised tokens: every label is {IGNORE}"
            raise ValueError(msg)
