"""LightningDataModule over feature caches."""

from __future__ import annotations

from collections.abc import Mapping

from emo_lightning.core.errors import InputError
from emo_lightning.core.model_folders import check_made_of, warn_once
from emo_lightning.core.records import NO_EMOTION
from emo_lightning.data.batches import EmbeddingBatch, FeatureBatch
from emo_lightning.data.embeddings import EmbeddingDataset
from emo_lightning.data.feature_parts import FeatureError
from emo_lightning.data.feature_rows import FeatureRows
from emo_lightning.data.features import FeatureCache
from emo_lightning.data.leaks import check_origins
from emo_lightning.data.loader import ResumableLoader
from emo_lightning.data.module import FitDataModule
from emo_lightning.data.protocols import ReadsFeatures
from emo_lightning.data.sampler import Slot
from emo_lightning.data.supervision import LabelCounts, label_summary
from emo_lightning.data.workers import Workers


class FeatureDataModule(FitDataModule[ReadsFeatures, Slot, FeatureBatch | EmbeddingBatch]):
    """Cached hidden states of a train, a validation and any number of evaluation sets.

    Validation and evaluation sets are read in key order, each sample once over all ranks (`filler` rows count nowhere).

    Args:
        train: folder of the training set's feature cache.
        val: folder of the validation set's feature cache.
        test: folder of the test set's feature cache.
        extra: further evaluation sets, by the name their metrics get, e.g. {"heldout": "cache/heldout"}.
        batch_size: samples per rank and step. Embeddings in memory are one batch, whatever this is: a linear problem on them has one
            optimum, which the noise of small batches would miss.
        num_workers: processes that read ahead; `auto` is 0: a mapped cache is read faster than a batch is handed over.
        seed: of the training order.
        allow_leaks: train although `train` holds images of a held-out split or of another set.
    """

    task_type = ReadsFeatures

    def __init__(
        self,
        train: str,
        val: str,
        test: str | None = None,
        extra: dict[str, str] | None = None,
        batch_size: int = 64,
        num_workers: Workers = "auto",
        seed: int = 0,
        allow_leaks: bool = False,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        self.allow_leaks = allow_leaks
        extra = extra or {}
        if taken := sorted({"train", "val", "test"} & extra.keys()):
            msg = f"data.extra has the names {taken}, which are taken; use others"
            raise InputError(msg)
        self.paths = {"train": train, "val": val, **({"test": test} if test is not None else {}), **extra}
        self.evaluation_sets = [name for name in self.paths if name not in ("train", "val")]
        self.caches: dict[str, FeatureCache] = {}

    def setup(self, stage: str) -> None:
        """Open the caches that `stage` needs and check that they fit together."""
        super().setup(stage)
        names = {"fit": ["train", "val"], "validate": ["val"]}.get(stage, self.evaluation_sets)
        for name in names:
            if name not in self.caches:
                self.caches[name] = FeatureCache(self.paths[name])
        shapes = {name: self.shape(name) for name in self.caches}
        if len(set(shapes.values())) > 1:
            msg = f"the caches differ in (num_layers, hidden_size): {shapes}; extract all with one backbone"
            raise FeatureError(msg)
        if nameless := {
            self.paths[name].rstrip("/").rpartition("/")[0] for name, cache in self.caches.items() if not cache.spec.made_of
        }:
            warn_once(
                f"the feature caches below {', '.join(sorted(nameless))} name no content hash of their backbone (version 0.2 wrote none); "
                "taken as they are"
            )
        named = {name: cache.spec.made_of for name, cache in self.caches.items() if cache.spec.made_of}
        for name, made in named.items():
            check_made_of(f"the feature cache {self.paths[name]}", made, next(iter(named.values())))
        first = next(iter(self.caches.values())).spec
        for name, cache in self.caches.items():
            first.check_computed(cache.spec, f"the feature cache {self.paths[name]}")
        check_origins({name: cache.origins for name, cache in self.caches.items()}, allowed=self.allow_leaks)

    @property
    def made_of(self) -> Mapping[str, str]:
        """What the features of the open caches are of (`FeatureSpec.made_of`); empty where none says it."""
        return next((cache.spec.made_of for cache in self.caches.values() if cache.spec.made_of), {})

    def summary(self) -> dict[str, object]:
        """What is trained on, as JSON: `images` of the two splits, and where people rated some, `labels`."""
        counts = {name: self.label_counts(name) for name in ("train", "val")}
        return {"images": {name: found.images for name, found in counts.items()}, **label_summary(counts)}

    def shape(self, name: str) -> tuple[int, int]:
        """(num_layers, hidden_size) of an open cache."""
        spec = self.caches[name].spec
        return spec.num_layers, spec.hidden_size

    @property
    def hidden_size(self) -> int:
        """Width of the backbone; after `setup`."""
        return self.shape(next(iter(self.caches)))[1]

    def label_counts(self, name: str) -> LabelCounts:
        """What the samples of an open cache are labelled with."""
        columns = self.caches[name].columns
        return LabelCounts.of(
            (columns.emotion != NO_EMOTION).numpy(), ~columns.target.isnan().any(-1).numpy(), ~columns.affect.isnan().numpy()
        )

    def require_labels(self, name: str, *, rated: bool = False) -> None:
        """Refuse an open cache whose samples have no label; see `LabelCounts.require`."""
        self.label_counts(name).require(f"{name!r} ({self.paths[name]})", rated=rated)

    def workers(self, samples: int) -> int:
        """See `DataModule.workers`."""
        return 0 if self.num_workers == "auto" else super().workers(samples)

    @property
    def embeddings(self) -> Mapping[str, EmbeddingDataset]:
        """Sets that the task has embedded, which are read in place of the caches of these names."""
        return {} if self.trainer is None else self.task.embeddings()

    def dataset(self, name: str) -> FeatureRows:
        """The open cache `name`."""
        return FeatureRows(self.caches[name])

    def rows_per_step(self, name: str, world_size: int) -> int:
        """See `FitDataModule.rows_per_step`; or this rank's share of all embeddings in memory."""
        if name in self.embeddings:
            return -(-len(self.embeddings[name]) // world_size)
        return super().rows_per_step(name, world_size)

    def accumulated(self, name: str) -> int:
        """See `FitDataModule.accumulated`; embeddings in memory are one batch."""
        return 1 if name in self.embeddings else super().accumulated(name)

    def loader(self, name: str, *, shuffle: bool = False) -> ResumableLoader[FeatureBatch | EmbeddingBatch]:
        """Batches of one set for this rank: its embeddings where the task has them, in the cache's order, else its features."""
        if name not in self.embeddings:
            return self.feature_loader(name, shuffle=shuffle)
        dataset = self.embeddings[name]
        rows = self.rows_per_step(name, self.world_size)
        return self.rank_loader(dataset, dataset.collate, rows, shuffle=False, num_workers=0)

    def feature_loader(self, name: str, *, shuffle: bool = False) -> ResumableLoader[FeatureBatch]:
        """Cached features of one set for this rank."""
        dataset = self.dataset(name)
        if not shuffle:
            return self.rank_loader(dataset, dataset.collate, self.batch_size, shuffle=False)
        rows, accumulate = self.rows_per_step(name, self.world_size), self.accumulated(name)
        return self.rank_loader(dataset, dataset.collate, rows, shuffle=True, accumulate=accumulate)

    def test_dataloader(self) -> list[ResumableLoader[FeatureBatch | EmbeddingBatch]]:
        """One loader per name in `evaluation_sets`.

        Raises:
            InputError: neither `test` nor `extra` is configured.
        """
        if not self.evaluation_sets:
            msg = "there is nothing to test on; set data.test or data.extra"
            raise InputError(msg)
        return [self.loader(name) for name in self.evaluation_sets]
