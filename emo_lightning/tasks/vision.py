"""Training of a backbone's vision tower alone: it learns to see before the language model learns to say.

The towers of published backbones come out of a training of their own, too. Without the language model an image costs a few
milliseconds, so a tower made from nothing sees some hundred thousand images in the time in which the whole model would see a tenth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import TRIPLET_PARTS
from emo_lightning.data.batches import SeenBatch
from emo_lightning.data.collate import IGNORE_INDEX
from emo_lightning.data.protocols import PairSample
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.seen import SeenHeads
from emo_lightning.tasks.backbone import BackboneTask
from emo_lightning.tasks.optim import OptimConfig


class VisionTask(BackboneTask[SeenBatch]):
    """Cross-entropy of the values of some fields, read off the tower's tokens by heads that are thrown away; writes `model/`.

    Args:
        backbone: of which tower and merger train; nothing else does.
        fields: field (background, attribute, subject) -> its values.
        optim: optimiser and schedule.
        seed: of the heads and of dropout.
    """

    def __init__(
        self, backbone: BackboneConfig, fields: dict[str, list[str]], optim: OptimConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(backbone, optim, seed)
        if backbone.tuning != "full" or backbone.train_language or not backbone.train_vision:
            msg = "model.backbone: the tower trains alone; set tuning: full, train_vision: true and train_language: false"
            raise InputError(msg)
        if not fields or not set(fields) <= set(TRIPLET_PARTS) or not all(fields.values()):
            msg = f"model.fields has {', '.join(fields) or 'nothing'}; expected values for one or more of {', '.join(TRIPLET_PARTS)}"
            raise InputError(msg)
        self.numbers = {name: {value: number for number, value in enumerate(values)} for name, values in fields.items()}
        self.heads: SeenHeads | None = None

    def configure_model(self) -> None:
        """Load the backbone and make the heads, once, on every rank."""
        super().configure_model()
        if self.heads is None:
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                self.heads = SeenHeads(self.net.hidden_size, {name: len(values) for name, values in self.numbers.items()})

    def through_backbone(self) -> bool:
        """For the data module (`ReadsPairs`)."""
        return True

    def collate(self, samples: Sequence[PairSample]) -> SeenBatch:
        """For the data module (`ReadsPairs`): pictures, and the numbers of what is seen in them."""
        vision = self.net.family.vision_inputs(self.net.processor, [sample.image for sample in samples])
        batch: SeenBatch = {
            "inputs": cast("dict[str, Tensor]", vision.tensors),
            "tokens": vision.tokens,
            "seen": {name: torch.tensor([self._number(sample, name) for sample in samples]) for name in self.numbers},
            "filler": torch.tensor([sample.filler for sample in samples]),
            "key": [sample.key for sample in samples],
        }
        if faults := [(sample.key, sample.fault) for sample in samples if sample.fault is not None]:
            batch["faults"] = faults
        return batch

    def _number(self, sample: PairSample, field: str) -> int:
        value: str | None = getattr(sample.record, field)
        if value is None or sample.filler:
            return IGNORE_INDEX
        if value not in self.numbers[field]:
            allowed = ", ".join(self.numbers[field])
            msg = f"record {sample.key!r} has {field} {value!r}; model.fields.{field} has {allowed}"
            raise InputError(msg)
        return self.numbers[field][value]

    def _step(self, batch: SeenBatch, stage: str) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - the same in both
        assert self.heads is not None
        states = self.net.family.picture_states(self.net.base, batch["inputs"], "merger")
        logits = self.heads(states, batch["tokens"])
        losses = [
            cross_entropy(logits[name].float(), wanted, ignore_index=IGNORE_INDEX, reduction="sum")
            for name, wanted in batch["seen"].items()
        ]
        return torch.stack(losses).sum(), (~batch["filler"]).sum()
