"""LightningDataModule over feature caches."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from emo_lightning.core.records import NO_EMOTION
from emo_lightning.data.embeddings import EmbeddingDataset
from emo_lightning.data.feature_parts import FeatureError
from emo_lightning.data.features import FeatureCache, collate_features
from emo_lightning.data.loader import ResumableLoader, check_counts, rank_loader
from emo_lightning.data.sampler import EpochBatches


class FeatureDataModule(pl.LightningDataModule):
    """Cached hidden states of a train, a validation and any number of evaluation sets.

    Validation and evaluation sets are read in key order, each sample once over all ranks (`filler` rows count nowhere).

    Args:
        train: folder of the training set's feature cache.
        val: folder of the validation set's feature cache.
        test: folder of the test set's feature cache.
        extra: further evaluation sets, by the name their metrics get, e.g. {"heldout": "cache/heldout"}.
        batch_size: samples per rank and step. Embeddings in memory are one batch, whatever this is: a linear problem on them has one
            optimum, which the noise of small batches would miss.
        num_workers: loader processes per rank; 0 reads in the main process.
        seed: of the training order.
    """

    def __init__(
        self,
        train: str,
        val: str,
        test: str | None = None,
        extra: dict[str, str] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        extra = extra or {}
        if taken := sorted({"train", "val", "test"} & extra.keys()):
            msg = f"data.extra has the names {taken}, which are taken; use others"
            raise ValueError(msg)
        self.paths = {"train": train, "val": val, **({"test": test} if test is not None else {}), **extra}
        self.evaluation_sets = [name for name in self.paths if name not in ("train", "val")]
        check_counts(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.caches: dict[str, FeatureCache] = {}
        self.embeddings: dict[str, EmbeddingDataset] = {}
        """In-memory embeddings that stand in for the caches of the same name: a task with a frozen DES head sets them."""

    def setup(self, stage: str) -> None:
        """Open the caches that `stage` needs and check that they fit together."""
        names = {"fit": ["train", "val"], "validate": ["val"]}.get(stage, self.evaluation_sets)
        for name in names:
            if name not in self.caches:
                self.caches[name] = FeatureCache(self.paths[name])
        shapes = {name: self.shape(name) for name in self.caches}
        if len(set(shapes.values())) > 1:
            msg = f"the caches differ in (num_layers, hidden_size): {shapes}; extract all with one backbone"
            raise FeatureError(msg)

    def summary(self) -> dict[str, Any]:
        """What is trained on, as JSON: `images` of the two splits."""
        return {"images": {name: len(self.caches[name]) for name in ("train", "val")}}

    def shape(self, name: str) -> tuple[int, int]:
        """(num_layers, hidden_size) of an open cache."""
        spec = self.caches[name].spec
        return spec.num_layers, spec.hidden_size

    @property
    def hidden_size(self) -> int:
        """Width of the backbone; after `setup`."""
        return self.shape(next(iter(self.caches)))[1]

    def require_labels(self, name: str) -> None:
        """Raise a ValueError if no sample of an open cache has an emotion category."""
        cache = self.caches[name]
        if all(cache.labels(row).emotion == NO_EMOTION for row in range(len(cache))):
            msg = f"no sample of the set {name!r} ({self.paths[name]}) has an emotion label"
            raise ValueError(msg)

    def train_batches(self, world_size: int) -> int:
        """Training steps per epoch on each rank."""
        return len(
            EpochBatches(len(self.caches["train"]), self._rows("train", world_size), seed=self.seed, world_size=world_size)
        )

    def _rows(self, name: str, world_size: int) -> int:
        """Samples per rank and step."""
        return -(-len(self.embeddings[name]) // world_size) if name in self.embeddings else self.batch_size

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled."""
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> ResumableLoader:
        """In key order."""
        return self.loader("val")

    def test_dataloader(self) -> list[ResumableLoader]:
        """One loader per name in `evaluation_sets`.

        Raises:
            ValueError: neither `test` nor `extra` is configured.
        """
        if not self.evaluation_sets:
            msg = "there is nothing to test on; set data.test or data.extra"
            raise ValueError(msg)
        return [self.loader(name) for name in self.evaluation_sets]

    def loader(self, name: str, shuffle: bool = False) -> ResumableLoader:
        """Batches of one set for this rank."""
        rows = self._rows(name, self.trainer.world_size if self.trainer is not None else 1)
        if name in self.embeddings:
            # It gives batches as they are.
            return rank_loader(
                self.trainer, self.embeddings[name], rows, seed=self.seed, shuffle=False, collate_fn=lambda batch: batch
            )
        return rank_loader(
            self.trainer,
            self.caches[name],
            rows,
            seed=self.seed,
            shuffle=shuffle,
            num_workers=self.num_workers,
            collate_fn=collate_features,
        )
