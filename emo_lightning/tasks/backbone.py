"""What the trainings of a backbone share: loading it, rates of its parts, checkpoints of what trains, and what is written at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import LightningModule
from torch import nn
from typing_extensions import override

from emo_lightning.core.model_folders import check_made_of
from emo_lightning.data.module import DataModule
from emo_lightning.data.protocols import BackboneInputs
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.data.vision_cache import VisionCache
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.loading import load_backbone
from emo_lightning.models.sharding import gather_trained, shard
from emo_lightning.tasks.base import BatchT, Task, TrainingError, weights_of
from emo_lightning.tasks.frozen_vision import FrozenVision
from emo_lightning.tasks.optim import OptimConfig

if TYPE_CHECKING:
    from torch.nn.modules.module import _IncompatibleKeys


_MADE_OF = "emo_made_of"
"""In a checkpoint: content of the model that the training began with, as `Backbone.made_of`."""


class WithBackbone(LightningModule):
    """What every task with a backbone has for its data module; it is loaded in `configure_model`, once, on every rank."""

    backbone: Backbone | None
    frozen_vision: FrozenVision

    def expect(self, config: BackboneConfig) -> None:
        """Say in `__init__` which backbone it will be."""
        self.backbone_config = config
        self.backbone = None
        self.frozen_vision = FrozenVision()

    @property
    def net(self) -> Backbone:
        """The backbone, loaded."""
        if self.backbone is None:
            msg = "the backbone is loaded in configure_model, which the Trainer has not called yet"
            raise RuntimeError(msg)
        return self.backbone

    def backbone_inputs(self) -> BackboneInputs:
        """For the data module (`LearnsAnswers`, `AsksQuestions`)."""
        return BackboneInputs(self.net.processor, self.net.model_type, self.net.packs)

    def pictures(self, index: TarIndex, data: DataModule[Any]) -> VisionCache | None:
        """For a data module of images (`ReadsImages`)."""
        return self.frozen_vision.pictures(index, data, self.trainer, self.net)


class BackboneTask(WithBackbone, Task[BatchT]):
    """A training of the backbone; writes `adapter/` or `model/`.

    Args:
        backbone: which model, and what of it trains.
        optim: optimiser and schedule; the vision tower and the merger may have their own rates.
        seed: of what is drawn.
    """

    def __init__(self, backbone: BackboneConfig, optim: OptimConfig | None = None, seed: int = 0) -> None:
        super().__init__(optim, seed)
        self.expect(backbone)

    def configure_model(self) -> None:
        """Load the backbone, once, on every rank."""
        if self.backbone is None:
            self.backbone = load_backbone(self.backbone_config)
            # `from_pretrained` returns eval mode and Lightning leaves modes alone: dropout would be off.
            self.backbone.train()
            # A mesh is there under `--trainer.strategy fsdp` alone.
            if self.device_mesh is not None:
                shard(self.backbone, self.device_mesh)

    def grouped_parameters(self) -> Iterable[tuple[float, str, nn.Parameter]]:
        """As the base class, with the parts' own rates."""
        rates = {"vision": self.optim.vision_lr, "merger": self.optim.merger_lr, "language": None}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                # What a task puts beside the backbone is none of its parts.
                own = rates[self.net.part_of(name)] if name.startswith("backbone.") else None
                yield self.optim.lr if own is None else own, name, parameter

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Keep only what trains: a checkpoint of a LoRA run on 3B is megabytes, the base is where it came from."""
        trainable = {name for name, p in self.named_parameters() if p.requires_grad}
        if trainable:
            checkpoint["state_dict"] = {k: v for k, v in weights_of(checkpoint).items() if k in trainable}
        checkpoint[_MADE_OF] = dict(self.net.made_of)
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Refuse a checkpoint that lacks something that trains, holds something unknown, or began with another model than is loaded now.

        What is frozen and, in round 3, the policy that the KL is to are not in the checkpoint: they are read again from `model.backbone.path`.
        """
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
        if self.net.made_of:
            # One from before has none, and is taken with a warning.
            said = cast("Mapping[str, str]", checkpoint.get(_MADE_OF, {}))
            check_made_of(f"the checkpoint of a training that began with {self.backbone_config.path}", said, self.net.made_of)

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
