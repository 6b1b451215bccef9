"""Supervised fine-tuning of Qwen2.5-VL: both rounds of section 3.3, and the neutral base of the demo world.

A round is a YAML: it chooses the objectives (`data.objectives`) and where to start (`model.backbone.path`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emo_lightning.data.collate import IGNORE
from emo_lightning.models.backbone import Backbone, BackboneConfig, load_backbone, part_of
from emo_lightning.models.loss import supervised_loss
from emo_lightning.tasks.base import OptimConfig, Task


class SFTTask(Task):
    """Cross-entropy on the answer's tokens (equation 1).

    Args:
        backbone: which model, and what of it trains.
        optim: optimiser and schedule; the vision tower and the merger may have their own rates.
        seed: of dropout.
    """

    def __init__(self, backbone: BackboneConfig, optim: OptimConfig | None = None, seed: int = 0) -> None:
        super().__init__(optim, seed)
        self.backbone_config = backbone
        self.backbone: Backbone | None = None

    def configure_model(self) -> None:
        """Load the backbone, once, on every rank."""
        if self.backbone is None:
            self.backbone = load_backbone(self.backbone_config)
            # `from_pretrained` returns eval mode and Lightning leaves modes alone: dropout would be off.
            self.backbone.train()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Check the batch while it is on the CPU."""
        check_batch(batch, self.net)
        return batch

    @property
    def net(self) -> Backbone:
        """The backbone, loaded."""
        if self.backbone is None:
            raise RuntimeError("the backbone is loaded in configure_model, which the Trainer has not called yet")
        return self.backbone

    def _step(self, batch: dict[str, Any], stage: str) -> tuple[Tensor, Tensor]:
        hidden = self.net.last_hidden_state(batch)
        return supervised_loss(hidden, batch["labels"], self.net.base.lm_head)

    def grouped_parameters(self) -> Iterable[tuple[float, str, nn.Parameter]]:
        """As the base class, with the parts' own rates."""
        rates = {"vision": self.optim.vision_lr, "merger": self.optim.merger_lr, "language": None}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                own = rates[part_of(name)]
                yield self.optim.lr if own is None else own, name, parameter

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what trains: a checkpoint of a LoRA run on 3B is megabytes, the base is where it came from."""
        trainable = {name for name, p in self.named_parameters() if p.requires_grad}
        if trainable:
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trainable}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fill in what `on_save_checkpoint` left out, after checking that nothing else is missing."""
        own = self.state_dict()
        trainable = {name for name, p in self.named_parameters() if p.requires_grad}
        lost = trainable - checkpoint["state_dict"].keys()
        foreign = checkpoint["state_dict"].keys() - own.keys()
        if lost or foreign:
            first = sorted(lost or foreign)[0]
            raise RuntimeError(
                f"checkpoint does not fit this model: {len(lost)} trained weights missing, {len(foreign)} unknown, first: {first}. "
                "Was model.backbone changed since it was written?"
            )
        checkpoint["state_dict"] = own | checkpoint["state_dict"]

    def on_fit_end(self) -> None:
        """Write the adapter (or the model) where the next stage looks for it."""
        if self.trainer.is_global_zero:
            self.net.save(Path(self.trainer.default_root_dir))


def check_batch(batch: dict[str, Any], backbone: Backbone) -> None:
    """Refuse a batch on which the model would train wrongly in silence.

    Raises:
        ValueError: `mm_token_type_ids` missing (positions would be 1-D), image tokens that do not match the image, or a batch with
            nothing supervised.
    """
    if "mm_token_type_ids" not in batch:
        raise ValueError(
            "batch lacks 'mm_token_type_ids': without it Qwen2.5-VL uses 1-D positions for images; pass the collator's batch"
        )
    merge = backbone.processor.image_processor.merge_size
    expected = int((batch["image_grid_thw"].prod(-1) // merge**2).sum())
    image_token = backbone.processor.image_token_id
    for name, found in (
        ("input_ids", int((batch["input_ids"] == image_token).sum())),
        ("mm_token_type_ids", int((batch["mm_token_type_ids"] == 1).sum())),
    ):
        if found != expected:
            raise ValueError(f"batch[{name!r}] marks {found} image tokens, the images have {expected}: was the sequence cut?")
    if "labels" in batch:
        supervised = (batch["labels"][:, 1:] != IGNORE).any(dim=1)
        real = ~batch["filler"] if "filler" in batch else torch.ones_like(supervised)
        if not bool(supervised[real].all()):
            row = int((real & ~supervised).nonzero()[0, 0])
            key = batch.get("key", [row] * (row + 1))[row]
            raise ValueError(f"sample {key!r} has zero supervised tokens: every label is {IGNORE}")
