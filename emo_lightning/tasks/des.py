"""DESTask: trains the DES head on a frozen backbone's features, cached or computed on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS, NO_EMOTION
from emo_lightning.data.batches import FeatureBatch, LabelledBatch
from emo_lightning.data.embeddings import EmbeddingDataset
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.data.labelled import LabelledDataModule
from emo_lightning.data.protocols import BackboneInputs
from emo_lightning.models.backbone import Backbone, BackboneConfig, load_frozen
from emo_lightning.models.des import DESHead, Fusion, Pooling
from emo_lightning.models.des_losses import intensity_squared_error, soft_cross_entropy, supervised_contrastive
from emo_lightning.tasks.base import OptimConfig, Task
from emo_lightning.tasks.ranks import rows_of_all_ranks, world_size

HEAD_FOLDER = "head"


class FeatureSource(Protocol):
    """What the online mode needs of a backbone."""

    hidden_size: int

    def hidden_states(self, batch: Mapping[str, object], num_layers: int) -> Tensor:
        """(num_layers, batch, tokens, hidden); index -1 is the last layer."""
        ...


@dataclass
class DESHeadArgs:
    """Arguments of `DESHead`.

    Args:
        hidden_size: width of the backbone; null takes it from the feature cache or the backbone.
        num_layers: how many of the backbone's last layers are summed.
        des_dim: width of the embedding; null is half of hidden_size.
        num_heads: attention heads.
        dropout: probability between the two projection layers.
        fusion: attention parts that are on (both, self, cross, none).
        pooling: learned token weights (weighted) or the plain mean.
    """

    hidden_size: int | None = None
    num_layers: int = 4
    des_dim: int | None = None
    num_heads: int = 1
    dropout: float = 0.1
    fusion: Fusion = "both"
    pooling: Pooling = "weighted"


class DESTask(Task):
    """Trains a `DESHead` through a temporary linear classifier; the backbone stays frozen.

    Loss of an image = cross-entropy against its emotion distribution + contrastive_weight · supervised contrastive
    + intensity_weight · squared error of intensity on a 0–1 scale; a label it lacks adds nothing. It is averaged exactly over
    the labelled images of all micro-batches and ranks; fillers count nowhere. The contrastive term compares the images of one
    micro-batch on all ranks. `val/loss` leaves it out, as it depends on how batches are cut.

    At the end of the fit the head with the best monitored checkpoint (else the last one) is written to `out`/head.

    Args:
        head: shape of the DES head.
        optim: optimiser and schedule; null is the defaults with lr 1e-3.
        contrastive_weight: weight of the supervised contrastive term; 0 switches it off.
        contrastive_temperature: its temperature.
        intensity_weight: weight of the intensity term; 0 switches it off.
        backbone: computes hidden states from model inputs (online mode), frozen; null reads cached features.
        out: folder that gets head/; null is the trainer's default_root_dir.
        seed: of the initial weights and of dropout.
    """

    head: DESHead
    classifier: nn.Linear
    intensity: nn.Linear

    def __init__(
        self,
        head: DESHeadArgs | None = None,
        optim: OptimConfig | None = None,
        contrastive_weight: float = 0.0,
        contrastive_temperature: float = 0.1,
        intensity_weight: float = 0.0,
        backbone: BackboneConfig | None = None,
        out: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optim or OptimConfig(lr=1e-3), seed)
        for name, value in {"contrastive_weight": contrastive_weight, "intensity_weight": intensity_weight}.items():
            if value < 0:
                msg = f"model.{name} is {value}; expected at least 0"
                raise ValueError(msg)
        if contrastive_temperature <= 0:
            msg = f"model.contrastive_temperature is {contrastive_temperature}; expected more than 0"
            raise ValueError(msg)
        self.head_args = head or DESHeadArgs()
        self.contrastive_weight, self.contrastive_temperature = contrastive_weight, contrastive_temperature
        self.intensity_weight = intensity_weight
        self.backbone_config = backbone
        self.backbone: nn.Module | None = None
        self.out = out
        self.val_accuracy = MulticlassAccuracy(len(EMOTIONS), average="micro")

    def configure_model(self) -> None:
        """Load the backbone, if one is configured, and build the head; once, before DDP wraps the module."""
        if "head" in self._modules:
            return
        data = getattr(self._trainer, "datamodule", None)
        if self.backbone_config is not None and isinstance(data, FeatureDataModule):
            msg = (
                f"model.backbone={self.backbone_config.path!r} would compute what the feature cache {data.paths['train']!r} holds; "
                "leave it null, or use the kind `des_online` with tars"
            )
            raise ValueError(msg)
        if self.backbone_config is not None and self.backbone is None:
            # Not as configured for fine-tuning: a fresh adapter on a frozen backbone would be noise to carry along.
            self.backbone = load_frozen(self.backbone_config)
        if self.backbone is not None:
            self.backbone.requires_grad_(False).eval()
        hidden_size = self.head_args.hidden_size
        if hidden_size is None:
            source = self.backbone if self.backbone is not None else data
            hidden_size = getattr(source, "hidden_size", None)
        if hidden_size is None:
            msg = "model.head.hidden_size is null, and neither a backbone nor the data module tells it; set it"
            raise ValueError(msg)
        # Own random state, the CPU's: heads on different backbones of one width start from the same weights, on any device.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(self.seed)
            self.head = DESHead(**{**asdict(self.head_args), "hidden_size": hidden_size})
            self.classifier = nn.Linear(self.head.des_dim, len(EMOTIONS))
            if self.intensity_weight:
                self.intensity = nn.Linear(self.head.des_dim, 1)

    def backbone_inputs(self) -> BackboneInputs:
        """For a data module of images (`ReadsImages`).

        Raises:
            InputError: there is no backbone.
        """
        if self.backbone is None:
            msg = "data are images and model.backbone is null: set model.backbone.path, or use the kind `des` on a cache"
            raise InputError(msg)
        net = cast(Backbone, self.backbone)  # what `configure_model` has loaded
        return BackboneInputs(net.processor, net.model_type)

    def embeddings(self) -> dict[str, EmbeddingDataset]:
        """For a data module of features (`ReadsFeatures`): none, the head learns on the features themselves."""
        return {}

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but the frozen backbone stays in eval mode."""
        super().train(mode)
        if self.backbone is not None:
            self.backbone.eval()
        return self

    def forward(self, batch: FeatureBatch | LabelledBatch) -> Tensor:
        """DES of a batch, (batch, des_dim): cached (`hidden_states`, `mask`) or, with a backbone, model inputs."""
        layers = self.head.num_layers
        if "hidden_states" in batch:
            hidden, mask = batch["hidden_states"], batch["mask"]
            if len(hidden) < layers:
                msg = f"the feature cache has {len(hidden)} layers; model.head.num_layers is {layers}"
                raise ValueError(msg)
            return self.head(hidden[-layers:], mask)
        if self.backbone is None:
            msg = "the batch has no key 'hidden_states'; use a feature cache, or set model.backbone"
            raise ValueError(msg)
        # no_grad and not inference_mode: inference tensors cannot be saved for the head's backward.
        with torch.no_grad():
            hidden = cast(FeatureSource, self.backbone).hidden_states(batch, layers)
        return self.head(hidden, batch["attention_mask"])

    def on_fit_start(self) -> None:
        """Refuse sets without a label, before the first step."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, FeatureDataModule | LabelledDataModule):
            for name in ("train", "val"):
                data.require_labels(name)

    def _step(self, batch: FeatureBatch | LabelledBatch, stage: str) -> tuple[Tensor, Tensor]:
        """(sum of the loss over images with a label, how many they are)."""
        des = self(batch)
        counted = ~batch["filler"]
        logits = self.classifier(des)
        total, labelled = soft_cross_entropy(logits, batch["target"], counted)
        if self.intensity_weight:
            error, has_intensity = intensity_squared_error(self.intensity(des).squeeze(-1), batch["intensity"], counted)
            total, labelled = total + self.intensity_weight * error, labelled | has_intensity
        if stage == "train" and self.contrastive_weight:
            total = total + self.contrastive_weight * self._contrastive(des, batch["emotion"], counted)
        if stage == "val":
            known = counted & (batch["emotion"] != NO_EMOTION)
            self.val_accuracy.update(logits[known], batch["emotion"][known])
        return total, labelled.sum()

    def _contrastive(self, des: Tensor, emotion: Tensor, counted: Tensor) -> Tensor:
        """This rank's share of the sum over the anchors of all ranks.

        Its gradients, summed over ranks, are those of the whole: each rank differentiates the whole by its own rows.
        """
        des, emotion, counted = (rows_of_all_ranks(tensor) for tensor in (des, emotion, counted))
        whole = supervised_contrastive(des, emotion, counted, self.contrastive_temperature)
        return whole - whole.detach() * (1 - 1 / world_size())

    def on_validation_epoch_end(self) -> None:
        """Log `val/loss` and `val/accuracy` (percent), exact over ranks.

        Raises:
            ValueError: the validation set has no label.
        """
        if self.val_loss.compute().isnan() and not float(self.val_loss.weight):
            msg = "no validation image has an emotion label; validate on labelled images"
            raise ValueError(msg)
        super().on_validation_epoch_end()
        self.log("val/accuracy", 100 * self.val_accuracy.compute(), prog_bar=True)
        self.val_accuracy.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen backbone out of the checkpoint."""
        state = checkpoint["state_dict"]
        for name in [name for name in state if name.startswith("backbone.")]:
            del state[name]

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Strict but for the frozen backbone, which checkpoints do not hold."""
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [name for name in result.missing_keys if not name.startswith("backbone.")]
        if strict and (missing or result.unexpected_keys):
            msg = f"checkpoint does not fit: tensors missing {missing}, unexpected {result.unexpected_keys}"
            raise RuntimeError(msg)
        return result

    def on_fit_end(self) -> None:
        """Write the head (rank 0)."""
        if not self.trainer.is_global_zero or getattr(self.trainer, "fast_dev_run", False):
            return
        folder = Path(self.out or self.trainer.default_root_dir) / HEAD_FOLDER
        head = DESHead(**self.head.config).to(self.head.layer_logits.dtype)
        best = best_checkpoint(self.trainer)
        state = self.state_dict() if best is None else torch.load(best, map_location="cpu", weights_only=False)["state_dict"]
        head.load_state_dict({k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")})
        head.save_pretrained(folder)
        rank_zero_info(f"DES head written to {folder} (weights: {best or 'last step'})")


def best_checkpoint(trainer: pl.Trainer) -> str | None:
    """Path of the best checkpoint of the first callback that monitors something, or None."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None and callback.best_model_path:
            return callback.best_model_path
    return None
