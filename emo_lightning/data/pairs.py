"""Tars -> (image, record) pairs, for a CLIP and for a vision tower alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emo_lightning.data.batches import PairBatch, SeenBatch
from emo_lightning.data.images import check_shapes
from emo_lightning.data.leaks import check_leaks
from emo_lightning.data.module import FitDataModule
from emo_lightning.data.pictures import PictureDataset, read_pictured
from emo_lightning.data.protocols import PairSample, ReadsPairs
from emo_lightning.data.sampler import Slot
from emo_lightning.data.skips import MAX_SKIPPED_BY_DEFAULT, OnError
from emo_lightning.data.workers import Workers


class PairDataset(PictureDataset[PairSample]):
    """Every record that has a description."""

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, slot: Slot) -> PairSample:
        record, image, key, fault = read_pictured(self.index, slot.index, skip=self.skip)
        return PairSample(image, record, slot.filler or fault is not None, key, fault)


class PairDataModule(FitDataModule[ReadsPairs, PairSample, PairBatch | SeenBatch]):
    """Loaders for `CLIPTask` and `VisionTask`.

    Args:
        train: tars, folders of tars, globs or brace ranges.
        val: the same.
        batch_size: pairs per rank and step; each image is told from the texts of the others.
        num_workers: processes that read ahead (`workers.worker_count`).
        seed: of the order.
        allow_leaks: train although the training set holds images of a held-out split or of another set; it is said, not refused.
        on_error: `stop` at an image that cannot be read (damaged, no image, of another size than its record says), or `skip` it: it is no
            pair then. A record that cannot be read always stops.
        max_skipped: with `skip`, most images that all ranks together leave out before they stop all the same.
    """

    task_type = ReadsPairs

    def __init__(
        self,
        train: list[str],
        val: list[str],
        batch_size: int = 64,
        num_workers: Workers = "auto",
        seed: int = 0,
        allow_leaks: bool = False,
        on_error: OnError = "stop",
        max_skipped: int = MAX_SKIPPED_BY_DEFAULT,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, on_error=on_error, max_skipped=max_skipped)
        self.allow_leaks = allow_leaks
        self.paths = {"train": train, "val": val}
        self._datasets: dict[str, PairDataset] = {}

    def dataset(self, name: str) -> PairDataset:
        """`train` or `val`, opened once."""
        if name not in self._datasets:
            index = self.open_tars(self.paths[name], sized=self._sized)
            self._datasets[name] = PairDataset(index.take(np.flatnonzero(index.has("described"))), skip=self.skip)
        return self._datasets[name]

    @property
    def _sized(self) -> bool:
        return self.trainer is not None and self.task.through_backbone()

    def setup(self, stage: str) -> None:
        """Open and check all tars before the first step."""
        super().setup(stage)
        if self._sized:
            for name in self.paths:
                check_shapes(self.dataset(name).index)
        check_leaks({name: self.dataset(name).index for name in self.paths}, allowed=self.allow_leaks)

    def collate_fn(self) -> Callable[[list[PairSample]], PairBatch | SeenBatch]:
        """The task's, which has the model's processor."""
        return self.task.collate
