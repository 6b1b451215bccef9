"""Tars -> questions without answers, with annotations beside them: a policy answers them, and learns from what its replies are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Record
from emo_lightning.core.tar_labels import TarLabels
from emo_lightning.data.batches import ReplyTargets, RolloutBatch
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Collator, ImageQuestion
from emo_lightning.data.images import check_shapes
from emo_lightning.data.leaks import check_leaks
from emo_lightning.data.lengths import check_questions
from emo_lightning.data.loader import ResumableLoader, check_counts
from emo_lightning.data.module import FitDataModule
from emo_lightning.data.pictures import PictureDataset
from emo_lightning.data.protocols import LearnsByReward
from emo_lightning.data.sampler import Slot
from emo_lightning.data.skips import MAX_SKIPPED_BY_DEFAULT, OnError
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.data.workers import Workers

QuestionWithRecord = tuple[ImageQuestion, Record]
"""What is asked, and the annotation."""


class RolloutDataset(PictureDataset[QuestionWithRecord]):
    """(question, annotation) of every image."""

    def __init__(self, index: TarIndex, keys: tuple[str, ...], *, skip: bool = False) -> None:
        super().__init__(index, skip=skip)
        self.keys = keys

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, slot: Slot) -> QuestionWithRecord:
        record, image, key, fault = self.pictured(slot.index)
        filler = slot.filler or fault is not None
        # Without the record: nothing of the annotation may reach the model.
        return ImageQuestion(key, image, self.keys, filler=filler, fault=fault), record


class RolloutCollator:
    """Model inputs of the questions in one row, and what the replies are judged by."""

    def __init__(self, collator: Collator, *, images: bool) -> None:
        self.collator, self.images = collator, images

    def __call__(self, samples: Sequence[QuestionWithRecord]) -> RolloutBatch:
        """One batch."""
        questions = [question for question, _ in samples]
        pictures = [question.pixels for question in questions] if self.images else []
        return {**self.collator(questions), "asked": ReplyTargets([record for _, record in samples], pictures)}


class RolloutDataModule(FitDataModule[LearnsByReward, QuestionWithRecord, RolloutBatch]):
    """Loaders for `GRPOTask`.

    Args:
        train: tars, folders of tars, globs or brace ranges.
        val: the same, like the training set: in-domain accuracy.
        others: name -> the same, of other data sets: what the training costs there is logged at each validation.
        objective: what is asked (`emotion`, `explain`, `candidates`, …); rewards judge the keys of its answer.
        batch_size: images per rank and micro-batch; each is answered `model.sampling.replies` times.
        val_batch_size: images per rank and batch of validation; None takes four times `batch_size`.
        num_workers: processes that read ahead (`workers.worker_count`).
        max_length: tokens of a question; a longer one is an error, never cut.
        limit: use only the first so many training images.
        seed: of the order.
        allow_leaks: train although the training set holds images of a held-out split or of another set; it is said, not refused.
        on_error: `stop` at an image that cannot be read (damaged, no image, of another size than its record says), or `skip` it: its place
            stays, and counts nowhere. A record that cannot be read always stops.
        max_skipped: with `skip`, most images that all ranks together leave out before they stop all the same.
        labels: where tars without our record say what an image is labelled, and what it means.
    """

    task_type = LearnsByReward

    def __init__(
        self,
        train: list[str],
        val: list[str],
        others: dict[str, list[str]] | None = None,
        objective: str = "emotion",
        batch_size: int = 8,
        val_batch_size: int | None = None,
        num_workers: Workers = "auto",
        max_length: int = 4096,
        limit: int | None = None,
        seed: int = 0,
        allow_leaks: bool = False,
        on_error: OnError = "stop",
        max_skipped: int = MAX_SKIPPED_BY_DEFAULT,
        labels: TarLabels | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, on_error=on_error, max_skipped=max_skipped)
        check_counts(val_batch_size=val_batch_size, max_length=max_length, limit=limit)
        self.paths: dict[str, list[str]] = {"train": train, "val": val}
        if taken := self.paths.keys() & (others or {}):
            msg = f"data.others: found the name {sorted(taken)[0]!r}, which is taken; call the set otherwise"
            raise InputError(msg)
        self.paths |= others or {}
        self.objective, self.val_batch_size = objective, val_batch_size
        self.max_length, self.limit = max_length, limit
        self.allow_leaks, self.labels = allow_leaks, labels
        self._datasets: dict[str, RolloutDataset] = {}

    @property
    def keys(self) -> tuple[str, ...]:
        """That an answer should have."""
        return objective(self.objective).keys

    @property
    def evaluated(self) -> list[str]:
        """Sets that are answered at each validation, in the order of their loaders."""
        return [name for name in self.paths if name != "train"]

    def dataset(self, name: str) -> RolloutDataset:
        """A set, opened once; images without an emotion are left out: no reply to them can be right.

        Raises:
            InputError: none is left.
        """
        if name not in self._datasets:
            whole = self.open_tars(self.paths[name], self.labels)
            rows = np.flatnonzero(whole.has("emotion"))
            if not len(rows):
                msg = f"data: none of {len(whole)} records of the set {name!r} ({', '.join(self.paths[name])}) has an emotion"
                raise InputError(msg)
            if name == "train" and self.limit is not None:
                rows = rows[: self.limit]
            self._datasets[name] = RolloutDataset(whole.take(rows), self.keys, skip=self.skip)
        return self._datasets[name]

    def setup(self, stage: str) -> None:
        """Open and check all tars before the first step."""
        super().setup(stage)
        for name in self.paths:
            check_shapes(self.dataset(name).index)
        check_leaks({name: self.dataset(name).index for name in self.paths}, allowed=self.allow_leaks)

    def summary(self) -> dict[str, object]:
        """What is trained on, as JSON: images by set."""
        return {"images": {name: len(found) for name, found in self._datasets.items()}, **super().summary()}

    def rows_per_step(self, name: str, world_size: int) -> int:
        """`batch_size`, or for validation `val_batch_size`."""
        if name == "train":
            return super().rows_per_step(name, world_size)
        return 4 * self.batch_size if self.val_batch_size is None else self.val_batch_size

    def source(self, name: str) -> RolloutDataset:
        """See `FitDataModule.source`."""
        dataset = self.dataset(name)
        return dataset.reading(self.task.pictures(dataset.index, self))

    def val_dataloader(self) -> list[ResumableLoader[RolloutBatch]]:  # type: ignore[override]  # Lightning takes several
        """One loader for each of `evaluated`, in order."""
        return [self.loader(name) for name in self.evaluated]

    def train_dataloader(self) -> ResumableLoader[RolloutBatch]:
        """Shuffled, sized, resumable; a question that is too long, of any set, is refused first."""
        collate = self._collator()
        for name in self.paths:
            source = f"data.{name}" if name in ("train", "val") else f"data.others.{name}"
            check_questions(self.dataset(name).index, [self.keys], collate, source)
        return super().train_dataloader()

    def collate_fn(self) -> Callable[[list[QuestionWithRecord]], RolloutBatch]:
        """Built from the task's backbone, whose processor and coordinates it must use.

        Raises:
            InputError: the backbone does not take several samples in one row.
        """
        return RolloutCollator(self._collator(), images=self.task.wants_images())

    def _collator(self) -> Collator:
        inputs = self.task.backbone_inputs()
        if not inputs.packs:
            msg = "the replies to an image share one reading of it, in rows that this backbone cannot pack: set model.backbone.attention to sdpa"
            raise InputError(msg)
        return Collator(inputs.processor, inputs.model_type, answers=False, max_length=self.max_length, packed=True)
