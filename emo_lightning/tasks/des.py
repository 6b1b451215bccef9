"""DESTask: trains the DES head on a frozen backbone's features, cached or computed on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self, get_args

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from emo_lightning.core.errors import InputError
from emo_lightning.core.model_folders import write_made_of
from emo_lightning.core.records import DIMENSIONS, EMOTIONS, NO_EMOTION
from emo_lightning.data.batches import FeatureBatch, LabelledBatch
from emo_lightning.data.embeddings import EmbeddingDataset
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.data.labelled import LabelledDataModule
from emo_lightning.data.module import DataModule
from emo_lightning.data.protocols import BackboneInputs
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.data.vision_cache import VisionCache
from emo_lightning.metrics.emotion_space import read_anchors
from emo_lightning.models.affect import remove_beside
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.des import DESHead, Fusion, Pooling
from emo_lightning.models.des_losses import DES_LOSSES, DESLoss, LossInputs, soft_cross_entropy
from emo_lightning.models.loading import load_frozen
from emo_lightning.tasks.base import Task, TrainingError, weights_of
from emo_lightning.tasks.best import best_checkpoint, read_best
from emo_lightning.tasks.collectives import rows_of_all_ranks, world_size
from emo_lightning.tasks.des_affect import AffectMetrics, dimensions_with_targets, save_affect_head, sentence_of
from emo_lightning.tasks.frozen_vision import FrozenVision
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.output import checked_out, output_folder

if TYPE_CHECKING:
    from torch.nn.modules.module import _IncompatibleKeys

HEAD_FOLDER = "head"


@dataclass
class DESHeadArgs:
    """Shape of the `DESHead`."""

    hidden_size: int | None = None
    """Width of the backbone; null takes it from the feature cache or the backbone."""
    num_layers: int = 4
    """How many of the backbone's last layers are summed."""
    des_dim: int | None = None
    """Width of the embedding; null is half of hidden_size."""
    num_heads: int = 1
    """Attention heads."""
    dropout: float = 0.1
    """Probability between the two projection layers."""
    fusion: Fusion = "both"
    """Attention parts that are on: both (the paper's), self, queries (cross-attention alone, asked by learned queries), none."""
    pooling: Pooling = "weighted"
    """Learned token weights (weighted) or the plain mean."""


class DESTask(Task[FeatureBatch | LabelledBatch]):
    """Trains a `DESHead` through a temporary linear classifier; the backbone stays frozen.

    Loss of an image = cross-entropy against its emotion distribution + weight · each other loss of `DES_LOSSES` that has one
    (supervised contrastive; squared error of intensity on a 0–1 scale, and of valence, arousal and dominance from -1 to 1); a label that
    it lacks adds nothing. It is averaged exactly over the labelled images of all micro-batches and ranks; fillers count nowhere. A loss
    that compares images sees those of one micro-batch on all ranks. `val/loss` leaves it out, as it depends on how batches are cut.
    With `va_weight`, an image that people rated and gave no emotion is labelled: it counts in that term, and in no accuracy.

    At the end of the fit the head with the best monitored checkpoint (else the last one) is written to `out`/head.

    Args:
        head: shape of the DES head.
        optim: optimiser and schedule; null is the defaults with lr 1e-3.
        contrastive_weight: weight of the supervised contrastive term; 0 switches it off.
        contrastive_temperature: its temperature.
        intensity_weight: weight of the intensity term; 0 switches it off.
        va_weight: weight of the term of valence, arousal and dominance, of which a linear layer on the DES is trained with the head and kept
            beside it (`affect/`, an `AffectHead`); 0 switches it off. Its targets are people's ratings.
        anchors: targets of an image that nobody rated: where the eight lie, weighed by its distribution. A name of `configs/anchors` (`ddes`,
            `eemo_logic`), or a file with `source` and `points`; null leaves such an image out. Norms disagree, so there is no default.
        losses: further losses of `DES_LOSSES`, name -> weight.
        backbone: computes hidden states from model inputs (online mode), frozen; null reads cached features.
        out: folder that gets head/; null is the trainer's default_root_dir.
        seed: of the initial weights and of dropout.
    """

    head: DESHead
    classifier: nn.Linear
    anchor_points: Tensor | None

    def __init__(
        self,
        head: DESHeadArgs | None = None,
        optim: OptimConfig | None = None,
        contrastive_weight: float = 0.0,
        contrastive_temperature: float = 0.1,
        intensity_weight: float = 0.0,
        va_weight: float = 0.0,
        anchors: str | None = None,
        losses: dict[str, float] | None = None,
        backbone: BackboneConfig | None = None,
        out: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optim or OptimConfig(lr=1e-3), seed)
        own = {"contrastive": contrastive_weight, "intensity": intensity_weight, "va": va_weight}
        self.loss_weights = _loss_weights(own, losses or {})
        if anchors is not None and not va_weight:
            msg = f"model.anchors is {anchors!r}, and model.va_weight 0: nothing asks where the emotions lie"
            raise InputError(msg)
        self.anchors = None if anchors is None else read_anchors(anchors)
        points = None if self.anchors is None else torch.from_numpy(self.anchors.array(len(DIMENSIONS))).float()
        # No part of a checkpoint: it is read from its file again.
        self.register_buffer("anchor_points", points, persistent=False)
        self.val_affect = AffectMetrics(measured=va_weight > 0)
        self.dimensions = list(DIMENSIONS)
        """Of valence, arousal and dominance, those that the training set has targets of."""
        self._measures_accuracy = True
        if any(DES_LOSSES[name].compares_images for name in self.loss_weights):
            self.compares = "ranks"
        if not 0 < contrastive_temperature < math.inf:
            msg = f"model.contrastive_temperature is {contrastive_temperature}; expected more than 0"
            raise InputError(msg)
        self.contrastive_temperature = contrastive_temperature
        self.head_args = head or DESHeadArgs()
        if self.head_args.fusion not in get_args(Fusion):
            msg = f"model.head.fusion is {self.head_args.fusion!r}; allowed: {', '.join(get_args(Fusion))}"
            raise InputError(msg)
        self.backbone_config = backbone
        self.backbone: Backbone | None = None
        self.out = checked_out(out)
        self.frozen_vision = FrozenVision()
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
            raise InputError(msg)
        if self.backbone_config is not None and self.backbone is None:
            # Not as configured for fine-tuning: a fresh adapter on a frozen backbone would be noise to carry along.
            self.backbone = load_frozen(self.backbone_config)
        if self.backbone is not None:
            self.backbone.requires_grad_(False).eval()
        hidden_size = self._hidden_size(data)
        # Own random state, the CPU's: heads on different backbones of one width start from the same weights, on any device.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(self.seed)
            self.head = DESHead(**{**asdict(self.head_args), "hidden_size": hidden_size})
            self.classifier = nn.Linear(self.head.des_dim, len(EMOTIONS))
            for name in self.loss_weights:
                if width := DES_LOSSES[name].readout:
                    self.add_module(name, nn.Linear(self.head.des_dim, width))

    def _hidden_size(self, data: object) -> int:
        if self.head_args.hidden_size is not None:
            return self.head_args.hidden_size
        if self.backbone is not None:
            return self.backbone.hidden_size
        if isinstance(data, FeatureDataModule):
            return data.hidden_size
        msg = "model.head.hidden_size is null, and neither a backbone nor the data module tells it; set it"
        raise InputError(msg)

    def backbone_inputs(self) -> BackboneInputs:
        """For a data module of images (`ReadsImages`).

        Raises:
            InputError: there is no backbone.
        """
        if self.backbone is None:
            msg = "data are images and model.backbone is null: set model.backbone.path, or use the kind `des` on a cache"
            raise InputError(msg)
        return BackboneInputs(self.backbone.processor, self.backbone.model_type, self.backbone.packs)

    def pictures(self, index: TarIndex, data: DataModule[Any]) -> VisionCache | None:
        """For a data module of images (`ReadsImages`)."""
        if self.backbone is None:
            return None
        return self.frozen_vision.pictures(index, data, self.trainer, self.backbone)

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
                raise InputError(msg)
            return self._embedded(hidden[-layers:], mask)
        if self.backbone is None:
            msg = "the batch has no key 'hidden_states'; use a feature cache, or set model.backbone"
            raise InputError(msg)
        # no_grad and not inference_mode: inference tensors cannot be saved for the head's backward.
        with torch.no_grad():
            hidden, mask = self.backbone.features(batch, layers)
        return self._embedded(hidden, mask)

    def _embedded(self, hidden: Tensor, mask: Tensor) -> Tensor:
        des: Tensor = self.head(hidden, mask)
        return des

    def on_fit_start(self) -> None:
        """Refuse sets without a label, before the first step; say of how many images ratings are the only one."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, FeatureDataModule | LabelledDataModule):
            return
        rated = "va" in self.loss_weights
        for name in ("train", "val"):
            data.require_labels(name, rated=rated)
            if said := sentence_of(name, data.label_counts(name), learnt=rated):
                rank_zero_info(said)
        if rated:
            self.dimensions = dimensions_with_targets(data.label_counts("train"), self.anchors)
        self._measures_accuracy = data.label_counts("val").emotion > 0

    def _step(self, batch: FeatureBatch | LabelledBatch, stage: str) -> tuple[Tensor, Tensor]:
        """(sum of the loss over images with a label, how many they are)."""
        des = self(batch)
        counted = ~batch["filler"]
        logits = self.classifier(des)
        total, labelled = soft_cross_entropy(logits, batch["target"], counted)
        for name, weight in self.loss_weights.items():
            loss = DES_LOSSES[name]
            if loss.compares_images and stage != "train":
                continue
            readout = self.get_submodule(name)(des) if loss.readout else None
            inputs = LossInputs(
                des,
                readout,
                batch["target"],
                batch["emotion"],
                batch["intensity"],
                counted,
                self.contrastive_temperature,
                batch.get("affect"),
                self.anchor_points,
            )
            if name == "va" and stage == "val" and readout is not None:
                self.val_affect.update(readout, inputs)
            value, has_label = _over_all_ranks(loss, inputs) if loss.compares_images else loss.compute(inputs)
            total = total + weight * value
            labelled = labelled if has_label is None else labelled | has_label
        if stage == "val":
            known = counted & (batch["emotion"] != NO_EMOTION)
            # torchmetrics takes no empty batch.
            if bool(known.any()):
                self.val_accuracy.update(logits[known], batch["emotion"][known])
        return total, labelled.sum()

    def check_validation(self) -> None:
        """As in every task; a mean over no label is no number either.

        Raises:
            NotFiniteError: something in the validation of a rank is no finite number; names its samples.
            InputError: the validation set has no label.
        """
        super().check_validation()
        if self.val_loss.compute().isnan():
            msg = "no validation image has an emotion label; validate on labelled images"
            raise InputError(msg)

    def on_validation_epoch_end(self) -> None:
        """Log `val/loss` and, where validation images have emotions, `val/accuracy` (percent), exact over ranks."""
        super().on_validation_epoch_end()
        if self._measures_accuracy:
            self.log("val/accuracy", 100 * self.val_accuracy.compute(), prog_bar=True)
            self.val_accuracy.reset()
        self.val_affect.log(self.log)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Leave the frozen backbone out of the checkpoint."""
        state = weights_of(checkpoint)
        for name in [name for name in state if name.startswith("backbone.")]:
            del state[name]
        super().on_save_checkpoint(checkpoint)

    def load_state_dict(self, state_dict: Mapping[str, object], strict: bool = True, assign: bool = False) -> _IncompatibleKeys:
        """Strict but for the frozen backbone, which checkpoints do not hold."""
        result: _IncompatibleKeys = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [name for name in result.missing_keys if not name.startswith("backbone.")]
        if strict and (missing or result.unexpected_keys):
            msg = f"checkpoint does not fit: tensors missing {missing}, unexpected {result.unexpected_keys}"
            raise TrainingError(msg)
        return result

    def _made_of(self) -> Mapping[str, str]:
        """What the head has learnt to read (`FeatureSpec.made_of`)."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, FeatureDataModule):
            return data.made_of
        if self.backbone is None or self.backbone_config is None or not isinstance(data, LabelledDataModule):
            return {}
        return {**self.backbone.sources(self.backbone_config.path), "prompt": data.objective, "source": "prompt"}

    def on_fit_end(self) -> None:
        """Write the head (rank 0)."""
        if not self.trainer.is_global_zero or getattr(self.trainer, "fast_dev_run", False):
            return
        folder = output_folder(self.out, self.trainer) / HEAD_FOLDER
        head = DESHead(**self.head.config).to(self.head.layer_logits.dtype)
        best = best_checkpoint(self.trainer)
        state = self.state_dict() if best is None else weights_of(read_best(best, folder.parent))
        head.load_state_dict({k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")})
        self.check_weights(head.state_dict())
        head.save_pretrained(folder)
        remove_beside(folder)
        if "va" in self.loss_weights:
            save_affect_head(state, folder, head.des_dim, self.anchors, self.dimensions)
        write_made_of(folder, self._made_of())
        rank_zero_info(f"DES head written to {folder} (weights: {best or 'last step'})")


def _loss_weights(own: dict[str, float], further: dict[str, float]) -> dict[str, float]:
    """Weights of the losses that are on, in the order of `DES_LOSSES`.

    Args:
        own: of the losses that have a key of their own, `model.NAME_weight`.
        further: `model.losses`.

    Raises:
        InputError: a negative weight, an unknown loss, or one that has a key of its own.
    """
    for name, weight in further.items():
        if name in own:
            msg = f"model.losses: {name!r} has a key of its own; set model.{name}_weight"
            raise InputError(msg)
        if name not in DES_LOSSES:
            allowed = sorted(DES_LOSSES.keys() - own.keys())
            msg = f"model.losses: found {name!r}; allowed: {', '.join(allowed) or 'none'}"
            raise InputError(msg)
        if not 0 <= weight < math.inf:
            msg = f"model.losses.{name} is {weight}; expected at least 0"
            raise InputError(msg)
    for name, weight in own.items():
        if not 0 <= weight < math.inf:
            msg = f"model.{name}_weight is {weight}; expected at least 0"
            raise InputError(msg)
    weights = own | further
    return {name: weights[name] for name in DES_LOSSES if weights.get(name)}


def _over_all_ranks(loss: DESLoss, inputs: LossInputs) -> tuple[Tensor, Tensor | None]:
    """This rank's share of a loss over the images of all ranks.

    Its gradients, summed over ranks, are those of the whole: each rank differentiates the whole by its own rows.
    """
    whole, _ = loss.compute(
        LossInputs(
            rows_of_all_ranks(inputs.des),
            None if inputs.readout is None else rows_of_all_ranks(inputs.readout),
            rows_of_all_ranks(inputs.target),
            rows_of_all_ranks(inputs.emotion),
            rows_of_all_ranks(inputs.intensity),
            rows_of_all_ranks(inputs.counted),
            inputs.temperature,
            None if inputs.affect is None else rows_of_all_ranks(inputs.affect),
            inputs.anchors,
        )
    )
    return whole - whole.detach() * (1 - 1 / world_size()), None
