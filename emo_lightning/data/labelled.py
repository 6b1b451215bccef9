"""Tars -> questions with labels beside them, for training the DES head on a backbone that runs along (no feature cache)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from emo_lightning.core.records import DIMENSIONS
from emo_lightning.core.tar_labels import TarLabels
from emo_lightning.data.batches import LabelledBatch
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Collator, ImageQuestion
from emo_lightning.data.images import check_shapes
from emo_lightning.data.leaks import check_leaks
from emo_lightning.data.lengths import check_questions
from emo_lightning.data.loader import ResumableLoader, check_counts
from emo_lightning.data.module import FitDataModule
from emo_lightning.data.pictures import PictureDataset
from emo_lightning.data.protocols import ReadsImages
from emo_lightning.data.sampler import Slot
from emo_lightning.data.skips import MAX_SKIPPED_BY_DEFAULT, OnError
from emo_lightning.data.supervision import LabelCounts, Supervision, collate_supervision, label_summary
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.data.workers import Workers

LabelledSample = tuple[ImageQuestion, Supervision]


class LabelledDataset(PictureDataset[LabelledSample]):
    """(question, labels) of every image, ordered by id as a feature cache is: the same seed gives the same batches."""

    def __init__(self, index: TarIndex, keys: tuple[str, ...], *, skip: bool = False) -> None:
        super().__init__(index.take(sorted(range(len(index)), key=index.id)), skip=skip)
        self.keys = keys

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, slot: Slot) -> LabelledSample:
        record, image, key, fault = self.pictured(slot.index)
        filler = slot.filler or fault is not None
        # Without the record: at this prompt nothing of the annotation may reach the model.
        return ImageQuestion(key, image, self.keys, filler=filler, fault=fault), Supervision.of(record)


class LabelledCollator:
    """Model inputs of the questions, and `collate_supervision`'s keys."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, samples: Sequence[LabelledSample]) -> LabelledBatch:
        """One batch."""
        questions = [question for question, _ in samples]
        labels = collate_supervision([q.key for q in questions], [s for _, s in samples], [q.filler for q in questions])
        return {
            **self.collator(questions),
            "target": labels["target"],
            "emotion": labels["emotion"],
            "intensity": labels["intensity"],
            "affect": labels["affect"],
        }


class LabelledDataModule(FitDataModule[ReadsImages, LabelledSample, LabelledBatch]):
    """Loaders for `DESTask` with `model.backbone` (online mode).

    Args:
        train: tars, folders of tars, globs or brace ranges.
        val: the same.
        objective: the prompt at which hidden states are taken; a cache that shall equal this one has the same.
        batch_size: images per rank and step.
        num_workers: processes that read ahead (`workers.worker_count`).
        max_length: tokens; a longer sample is an error.
        seed: of the order.
        allow_leaks: train although the training set holds images of a held-out split or of another set; it is said, not refused.
        on_error: `stop` at an image that cannot be read (damaged, no image, of another size than its record says), or `skip` it: its place
            stays, and counts nowhere. A record that cannot be read always stops.
        max_skipped: with `skip`, most images that all ranks together leave out before they stop all the same.
        labels: where tars without our record say what an image is labelled, and what it means.
    """

    task_type = ReadsImages

    def __init__(
        self,
        train: list[str],
        val: list[str],
        objective: str = "emotion",
        batch_size: int = 64,
        num_workers: Workers = "auto",
        max_length: int = 4096,
        seed: int = 0,
        allow_leaks: bool = False,
        on_error: OnError = "stop",
        max_skipped: int = MAX_SKIPPED_BY_DEFAULT,
        labels: TarLabels | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, on_error=on_error, max_skipped=max_skipped)
        self.allow_leaks, self.labels = allow_leaks, labels
        check_counts(max_length=max_length)
        self.paths = {"train": train, "val": val}
        self.objective, self.max_length = objective, max_length
        self._datasets: dict[str, LabelledDataset] = {}

    def dataset(self, name: str) -> LabelledDataset:
        """`train` or `val`, opened once."""
        if name not in self._datasets:
            index = self.open_tars(self.paths[name], self.labels)
            self._datasets[name] = LabelledDataset(index, objective(self.objective).keys, skip=self.skip)
        return self._datasets[name]

    def setup(self, stage: str) -> None:
        """Open and check all tars before the first step."""
        super().setup(stage)
        for name in self.paths:
            check_shapes(self.dataset(name).index)
        check_leaks({name: self.dataset(name).index for name in self.paths}, allowed=self.allow_leaks)

    def label_counts(self, name: str) -> LabelCounts:
        """What the images of a set are labelled with; no record is read."""
        index = self.dataset(name).index
        ratings = np.stack([index.has(dimension) for dimension in DIMENSIONS], axis=-1)
        return LabelCounts.of(index.has("emotion"), index.has("emotion_scores"), ratings)

    def require_labels(self, name: str, *, rated: bool = False) -> None:
        """Refuse a set whose images have no label; see `LabelCounts.require`."""
        self.label_counts(name).require(f"{name!r} ({', '.join(self.paths[name])})", rated=rated)

    def summary(self) -> dict[str, object]:
        """See `FitDataModule.summary`; also `labels`, where people rated some images."""
        return {**super().summary(), **label_summary({name: self.label_counts(name) for name in self.paths})}

    def source(self, name: str) -> LabelledDataset:
        """See `FitDataModule.source`."""
        dataset = self.dataset(name)
        return dataset.reading(self.task.pictures(dataset.index, self))

    def train_dataloader(self) -> ResumableLoader[LabelledBatch]:
        """Shuffled, sized, resumable; a question that is too long, of either set, is refused first."""
        collate = self._collator()
        for name in self.paths:
            dataset = self.dataset(name)
            check_questions(dataset.index, [dataset.keys], collate, f"data.{name}")
        return super().train_dataloader()

    def collate_fn(self) -> Callable[[list[LabelledSample]], LabelledBatch]:
        """In one row, or padded on the right; a head sees them as a cached batch, so that its dropout draws the same for the same place."""
        return LabelledCollator(self._collator())

    def _collator(self) -> Collator:
        inputs = self.task.backbone_inputs()
        return Collator(
            inputs.processor,
            inputs.model_type,
            answers=False,
            max_length=self.max_length,
            padding_side="right",
            packed=inputs.packs,
        )
