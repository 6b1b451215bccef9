"""Contrastive training of a CLIP: the text and image similarity of the demo world's Table 5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from emo_lightning.core.errors import InputError
from emo_lightning.core.hub import cache_only
from emo_lightning.core.model_loading import foreign_files, quiet_library
from emo_lightning.data.batches import PairBatch
from emo_lightning.data.protocols import PairSample
from emo_lightning.metrics.clip import load_clip
from emo_lightning.models.weights import save_model
from emo_lightning.tasks.base import Task
from emo_lightning.tasks.optim import OptimConfig


class CLIPTask(Task[PairBatch]):
    """CLIP's own loss over the pairs of a rank's batch; writes `model/`.

    Args:
        path: model folder or Hugging Face id of a CLIP.
        optim: optimiser and schedule.
        seed: of dropout.
    """

    compares = "rank"

    def __init__(self, path: str, optim: OptimConfig | None = None, seed: int = 0) -> None:
        super().__init__(optim, seed)
        from transformers import AutoProcessor

        what = f"model.path={path!r}"
        local = cache_only(path)
        self.clip = load_clip(path, what, InputError, local=local).train()
        with quiet_library(), foreign_files(f"{what} is no CLIP that can be read", InputError):
            self.processor = AutoProcessor.from_pretrained(path, local_files_only=local, trust_remote_code=False)

    def through_backbone(self) -> bool:
        """For the data module (`ReadsPairs`): a CLIP takes pictures of any shape."""
        return False

    def collate(self, samples: Sequence[PairSample]) -> PairBatch:
        """For the data module (`ReadsPairs`): model inputs and fillers."""
        # A filler is no pair that the others are told from; where there are none but fillers, one stands for them.
        pairs = [sample for sample in samples if not sample.filler] or samples[:1]
        inputs = dict(
            self.processor(
                images=[pair.image for pair in pairs],
                text=[str(pair.record.description) for pair in pairs],
                return_tensors="pt",
                padding=True,
                truncation=True,
            )
        )
        batch: PairBatch = {
            "inputs": inputs,
            "filler": torch.tensor([pair.filler for pair in pairs]),
            "key": [pair.key for pair in pairs],
        }
        if faults := [(sample.key, sample.fault) for sample in samples if sample.fault is not None]:
            batch["faults"] = faults
        return batch

    @override
    def _step(self, batch: PairBatch, stage: str) -> tuple[Tensor, Tensor]:
        count = (~batch["filler"]).sum()
        loss = self.clip(**batch["inputs"], return_loss=True).loss
        return loss * count, count

    def on_fit_end(self) -> None:
        """Write the model (rank 0)."""
        self.check_weights(dict(self.named_parameters()))
        if self.trainer.is_global_zero:
            save_model(self.clip, self.processor, Path(self.trainer.default_root_dir) / "model")
