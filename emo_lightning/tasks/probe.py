"""ProbeTask: fresh linear probes on a frozen DES head (paper section 4.3.2, Table 6)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import CatMetric, MetricCollection
from typing_extensions import override

from emo_lightning.core.emotions import NUM_EMOTIONS
from emo_lightning.core.errors import InputError
from emo_lightning.core.file_names import EMBEDDINGS_FILE, METRICS_FILE, PREDICTIONS_FILE
from emo_lightning.core.files import write_text
from emo_lightning.core.model_folders import check_made_of, made_of, weights_hash, write_made_of
from emo_lightning.core.records import EMOTIONS, NO_EMOTION, Prediction, write_jsonl
from emo_lightning.data.batches import EmbeddingBatch
from emo_lightning.data.embeddings import EmbeddingDataset, EmbeddingTable
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.metrics.classification import classification_metrics, classification_scores
from emo_lightning.models.affect import AffectHead
from emo_lightning.models.des import DESHead
from emo_lightning.models.probe import LinearProbes
from emo_lightning.tasks.base import Task, refuse_limits
from emo_lightning.tasks.collectives import sum_over_ranks, world_size
from emo_lightning.tasks.finite import Fault, NotFiniteError, not_finite
from emo_lightning.tasks.optim import OptimConfig, total_steps
from emo_lightning.tasks.output import checked_out, output_folder

PROBE_FOLDER = "probe"

STATISTICS_ROWS = 65_536


class ProbeTask(Task[EmbeddingBatch]):
    """Trains a grid of linear probes at once, chooses one on validation, reports it on the evaluation sets.

    The DES of every set is computed once, shared among the ranks, before the first step; the probes then train in memory, on all
    images in every step.
    `train/loss` is the mean over the grid, `val/loss` the chosen probe's cross-entropy.
    The probe with the lowest validation cross-entropy is chosen after each validation, and once more before `test` where steps have been
    done since. (Accuracy on a small validation set hardly tells the points of a grid apart: on 128 images its standard error is
    four points.)

    `test` writes to `out`: metrics.json (percent; accuracy over all samples; precision, recall and F1 macro-averaged over the
    classes that occur), probe/ (weights and config of the chosen probe), des.parquet (DES of the evaluation sets),
    predictions.jsonl (its distribution over the eight for every image of the validation and evaluation sets; where an `affect` head was
    trained beside the DES head, also the valence, arousal and dominance that it gives). An evaluation set in which people rated images and
    gave none an emotion has predictions, and no metrics.

    Args:
        des_head: folder of the trained DES head.
        learning_rates: of the grid, as shares of a Newton step at zero (see `LinearProbes`). The curvature may grow to half the number
            of classes times that at zero (Böhning 1992): with this momentum, rates up to a third cannot diverge.
        weight_decays: of the grid: decay / 2 times the squared weights is added to the mean cross-entropy.
        momentum: of SGD with Nesterov's momentum.
        optim: the schedule (`schedule`, `warmup`, `final`); what else AdamW has does not apply.
        out: folder for the results; null is the trainer's default_root_dir.
        seed: unused by the probes, which start at zero; as in every task.
    """

    compares = "all"
    some_may_diverge = True
    probes: LinearProbes
    chosen: Tensor
    validation: Tensor

    def __init__(
        self,
        des_head: str,
        learning_rates: list[float] | None = None,
        weight_decays: list[float] | None = None,
        momentum: float = 0.9,
        optim: OptimConfig | None = None,
        out: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optim or OptimConfig(warmup=0.0), seed)
        if not 0 <= momentum < 1:
            msg = f"model.momentum: found {momentum}; expected from 0 to below 1"
            raise InputError(msg)
        rates = [0.1, 0.2] if learning_rates is None else learning_rates
        decays = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1] if weight_decays is None else weight_decays
        self.grid = [(rate, decay) for rate in rates for decay in decays]
        self.models_trained = len(self.grid)
        self.des_head, self.momentum, self.out = des_head, momentum, checked_out(out)
        self.embedded: dict[str, EmbeddingDataset] = {}
        # Index into the grid (-1 = none yet), and the chosen probe's validation cross-entropy, accuracy and macro-F1.
        self.register_buffer("chosen", torch.tensor(-1))
        self.register_buffer("validation", torch.zeros(3))
        # Left to itself it drops what is not a number, and the losses of other probes move up.
        self.val_losses = CatMetric(nan_strategy="disable")
        self.val_predicted, self.val_target = CatMetric(), CatMetric()
        self.test_metrics: dict[str, MetricCollection] = {}
        self._chosen_of_these = False
        """Whether the weights are those that the choice was made of."""

    @property
    def data(self) -> FeatureDataModule:
        """The trainer's data module."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, FeatureDataModule):
            msg = f"ProbeTask needs a FeatureDataModule, got {type(data).__name__}"
            raise TypeError(msg)
        return data

    def setup(self, stage: str) -> None:
        """Compute the DES that `stage` needs, and from the training set's the statistics of the probes."""
        if stage == "test":
            refuse_limits(self.trainer, "test on smaller caches")
        head = DESHead.from_pretrained(self.des_head).requires_grad_(False).to(self.device)
        # A probe of a head on another backbone's features would be trained on noise, with no error.
        check_made_of(f"DES head {self.des_head}", made_of(self.des_head), self.data.made_of)
        if "probes" not in self._modules:
            self.probes = LinearProbes(head.des_dim, NUM_EMOTIONS, self.grid)
        for name in {"fit": ["train", "val"], "validate": ["val"]}.get(stage, self.data.evaluation_sets):
            if name not in self.embedded:
                self.embedded[name] = self._embed(name, head)
            self.data.require_labels(name, rated=name in self.data.evaluation_sets)
        if stage == "fit":
            labelled = torch.tensor([label.emotion != NO_EMOTION for label in self.embedded["train"].labels])
            self.probes.fit_statistics(self.embedded["train"].des[labelled].split(STATISTICS_ROWS))
        if stage == "test":
            # Not registered: they hold nothing that a checkpoint should.
            felt = [name for name in self.data.evaluation_sets if self.data.label_counts(name).emotion]
            self.test_metrics = {name: classification_metrics().to(self.device) for name in felt}

    def embeddings(self) -> dict[str, EmbeddingDataset]:
        """For the data module (`ReadsFeatures`): what stands in for the caches."""
        return self.embedded

    @torch.no_grad()
    def _embed(self, name: str, head: DESHead) -> EmbeddingDataset:
        cache = self.data.caches[name]
        if cache.spec.num_layers < head.num_layers or cache.spec.hidden_size != head.hidden_size:
            msg = (
                f"{cache.directory} has {cache.spec.num_layers} layers of width {cache.spec.hidden_size}; the DES head "
                f"{self.des_head} needs {head.num_layers} of width {head.hidden_size}"
            )
            raise InputError(msg)
        row_of = {key: row for row, key in enumerate(cache.keys)}
        des = torch.zeros(len(cache), head.des_dim)
        for batch in self.data.feature_loader(name):
            hidden = batch["hidden_states"][-head.num_layers :].to(self.device)
            embedded = head(hidden, batch["mask"].to(self.device)).float().cpu()
            counted = ~batch["filler"]
            rows = torch.tensor([row_of[key] for key in batch["key"]])
            des[rows[counted]] = embedded[counted]
        if world_size() > 1:
            # Each rank filled its own rows, the rest is 0: the sum is exact.
            des = sum_over_ranks(des.to(self.device)).cpu()
        return EmbeddingDataset(cache.keys, des, [cache.labels(row) for row in range(len(cache))])

    def forward(self, des: Tensor) -> Tensor:
        """Logits of all probes: (batch, des_dim) to (grid, batch, classes)."""
        logits: Tensor = self.probes(des)
        return logits

    @override
    def validation_step(self, batch: EmbeddingBatch, batch_idx: int) -> None:
        """One validation batch."""
        self._step(batch, "val")

    @override
    def test_step(self, batch: EmbeddingBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """One batch of an evaluation set."""
        self._step(batch, self.data.evaluation_sets[dataloader_idx])

    def _step(self, batch: EmbeddingBatch, stage: str) -> tuple[Tensor, Tensor]:
        """(sum of the cross-entropy over labelled images and over the grid, how many images they are)."""
        counted = ~batch["filler"] & (batch["emotion"] != NO_EMOTION)
        target = batch["emotion"][counted]
        logits = self(batch["des"])[:, counted]  # (grid, labelled, classes)
        # (grid, labelled). The probes share no parameter: the gradient of the sum over the grid gives each its own.
        losses = functional.cross_entropy(logits.flatten(0, 1), target.repeat(len(logits)), reduction="none").unflatten(
            0, (len(logits), -1)
        )
        match stage:
            case "train":
                pass
            case "val":
                self.val_losses.update(losses.T)
                self.val_predicted.update(logits.argmax(-1).T)
                self.val_target.update(target)
            case _:
                # Of images without an emotion nothing is right or wrong, and torchmetrics takes no empty batch.
                if len(target):
                    self.test_metrics[stage].update(logits[int(self.chosen)], target)
        return losses.sum(), counted.sum()

    def on_validation_epoch_end(self) -> None:
        """Choose the probe; log its cross-entropy, accuracy and macro-F1 (percent).

        Raises:
            InputError: every probe has diverged.
        """
        loss, accuracy, f1 = self._choose()
        self.log("val/loss", loss)
        self.log("val/accuracy", accuracy, prog_bar=True)
        self.log("val/f1", f1)

    def _choose(self) -> tuple[Tensor, float, float]:
        """Cross-entropy, accuracy and macro-F1 of the best probe, by what the validation batches have added up."""
        losses = self.val_losses.compute().view(-1, len(self.grid)).double().mean(0)
        predicted = self.val_predicted.compute().long().view(-1, len(self.grid))
        target = self.val_target.compute().long().view(-1)
        for metric in (self.val_losses, self.val_predicted, self.val_target):
            metric.reset()
        best = int(losses.nan_to_num(nan=math.inf).argmin())
        if not bool(losses[best].isfinite()):
            msg = f"all probes of the grid {self.grid} diverge; take lower learning_rates"
            raise InputError(msg)
        scores = classification_scores(predicted[:, best], target)
        if not self.trainer.sanity_checking:
            self.chosen.fill_(best)
            self.validation.copy_(torch.tensor([float(losses[best]), scores["accuracy"], scores["f1"]]))
            self._chosen_of_these = True
        return losses[best].float(), scores["accuracy"], scores["f1"]

    @torch.no_grad()
    def on_test_start(self) -> None:
        """Choose by the weights that are left, where no validation followed the last step; refuse probes that were never trained.

        Raises:
            InputError: nothing was trained, or every probe has diverged.
            NotFiniteError: of a checkpoint, whose choice was made before its last step: the chosen one has diverged since.
        """
        if "val" in self.embedded and not self._chosen_of_these:
            for batch in self.data.val_dataloader():
                self._step(move_data_to_device(batch, self.device), "val")
            self._choose()
        if int(self.chosen) < 0 or not self.probes.fitted:
            msg = "no probe has been chosen: fit first, or give the checkpoint of a fit (ckpt_path)"
            raise InputError(msg)
        if bad := not_finite(self.probes.select(int(self.chosen)).state_dict().items()):
            raise NotFiniteError.at(Fault(f"the chosen probe is not finite, first: {bad[0]}", []), self.global_step)

    def on_test_epoch_end(self) -> None:
        """Log the metrics; write the results (rank 0)."""
        results = {
            f"{name}/{metric}": 100 * float(value)
            for name, metrics in self.test_metrics.items()
            for metric, value in metrics.compute().items()
        }
        self.log_dict(results)
        loss, accuracy, f1 = self.validation.tolist()
        rate, decay = self.grid[int(self.chosen)]
        report: dict[str, object] = {
            **results,
            "val/loss": loss,
            "val/accuracy": accuracy,
            "val/f1": f1,
            "chosen": {"learning_rate": rate, "weight_decay": decay},
        }
        if self.trainer.is_global_zero:
            self._write(report)

    def _write(self, report: dict[str, object]) -> None:
        out = output_folder(self.out, self.trainer)
        probe = self.probes.select(int(self.chosen))
        probe.save_pretrained(out / PROBE_FOLDER)
        write_made_of(out / PROBE_FOLDER, {**made_of(self.des_head), "head": weights_hash(self.des_head)})
        write_jsonl(out / PREDICTIONS_FILE, self._predictions(probe))
        tables = [embedding_table(self.embedded[name], name) for name in self.data.evaluation_sets]
        EmbeddingTable.concatenate(tables).write(out / EMBEDDINGS_FILE)
        write_text(out / METRICS_FILE, json.dumps(report, indent=2) + "\n")

    @torch.no_grad()
    def _predictions(self, probe: LinearProbes) -> Iterator[Prediction]:
        affect = AffectHead.beside(self.des_head)
        # Validation too: temperature and conformal sets are fitted on it. It is in memory after a fit alone.
        for name in [n for n in ("val", *self.data.evaluation_sets) if n in self.embedded]:
            dataset = self.embedded[name]
            for start in range(0, len(dataset), STATISTICS_ROWS):
                rows = slice(start, start + STATISTICS_ROWS)
                scores = probe(dataset.des[rows].to(self.device))[0].double().softmax(-1).cpu().tolist()
                points: list[dict[str, float]] = [{}] * len(scores)
                if affect is not None:
                    points = affect.said(dataset.des[rows])
                for key, row, point in zip(dataset.keys[rows], scores, points, strict=True):
                    said = max(range(NUM_EMOTIONS), key=row.__getitem__)
                    yield Prediction(
                        id=key,
                        split=name,
                        emotion=str(EMOTIONS[said]),
                        confidence=row[said],
                        emotion_scores={str(e): p for e, p in zip(EMOTIONS, row, strict=True)},
                        valence=point.get("valence"),
                        arousal=point.get("arousal"),
                        dominance=point.get("dominance"),
                    )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Average over the labelled images of all micro-batches and ranks, then precondition."""
        super().on_before_optimizer_step(optimizer)
        self._chosen_of_these = False
        self.probes.finish_gradients()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD with Nesterov's momentum and a learning rate per probe; warm-up and cosine over the whole fit."""
        optimizer = torch.optim.SGD(self.probes.parameter_groups(), momentum=self.momentum, nesterov=self.momentum > 0)
        total = total_steps(self.trainer)
        schedule = LambdaLR(optimizer, lambda step: self.optim.factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def embedding_table(dataset: EmbeddingDataset, split: str) -> EmbeddingTable:
    """The rows of a dataset as columns of `des.parquet`."""
    emotions = [None if label.emotion == NO_EMOTION else EMOTIONS[label.emotion].value for label in dataset.labels]
    return EmbeddingTable(list(dataset.keys), list(emotions), [split] * len(dataset), dataset.des.numpy())
