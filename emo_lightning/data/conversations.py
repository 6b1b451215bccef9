"""Tars -> questions with answers, for supervised fine-tuning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from emo_lightning.core.errors import InputError
from emo_lightning.core.tar_labels import TarLabels
from emo_lightning.core.terminal import say
from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Collator, ImageQuestion
from emo_lightning.data.conversation_dataset import ConversationDataset, shares_of
from emo_lightning.data.images import check_shapes
from emo_lightning.data.leaks import check_leaks
from emo_lightning.data.loader import ResumableLoader, check_counts
from emo_lightning.data.module import FitDataModule
from emo_lightning.data.packing import Lengths, PackedRows
from emo_lightning.data.protocols import LearnsAnswers
from emo_lightning.data.skips import MAX_SKIPPED_BY_DEFAULT, OnError
from emo_lightning.data.workers import Workers

_BATCH_SIZE = 8


class ConversationDataModule(FitDataModule[LearnsAnswers, ImageQuestion, ChatBatch]):
    """Loaders for `SFTTask`.

    Args:
        train: tars, folders of tars, globs or brace ranges.
        val: the same, for the validation loss and the samples that are logged.
        objectives: what is trained, name -> weight: round 1 is `{attributes: 1}`, round 2 `{emotion: 0.8, attributes: 0.2}`
            (replay of round 1 keeps what it taught).
        batch_size: samples per rank and micro-batch, in place of `max_tokens`; 8 where neither is set.
        val_batch_size: samples per rank and batch of validation; None takes `max_tokens`, else `batch_size`.
        max_tokens: per rank and micro-batch, whose samples stand in one row without padding (`data/packing.py`).
        global_tokens: of an optimiser step, on all ranks: how many micro-batches are accumulated follows from it and the number of ranks.
        all_questions: ask all objectives of each image, which is read once for them; an answer counts by its objective's weight, so that
            the loss is the mean of what would be drawn. Needs `max_tokens`.
        num_workers: processes that read ahead (`workers.worker_count`).
        max_length: tokens of a question with its picture and answer; a longer one is an error.
        limit: use only the first so many training samples.
        seed: of the order and of the choice of objectives.
        allow_leaks: train although the training set holds images of a held-out split or of another set; it is said, not refused.
        on_error: `stop` at an image that cannot be read (damaged, no image, of another size than its record says), or `skip` it: its place
            stays, and counts nowhere. A record that cannot be read always stops.
        max_skipped: with `skip`, most images that all ranks together leave out before they stop all the same.
        labels: where tars without our record say what an image is labelled, and what it means.
    """

    task_type = LearnsAnswers

    def __init__(
        self,
        train: list[str],
        val: list[str],
        objectives: dict[str, float],
        batch_size: int | None = None,
        val_batch_size: int | None = None,
        max_tokens: int | None = None,
        global_tokens: int | None = None,
        all_questions: bool = False,
        num_workers: Workers = "auto",
        max_length: int = 4096,
        limit: int | None = None,
        seed: int = 0,
        allow_leaks: bool = False,
        on_error: OnError = "stop",
        max_skipped: int = MAX_SKIPPED_BY_DEFAULT,
        labels: TarLabels | None = None,
    ) -> None:
        if batch_size is not None and max_tokens is not None:
            msg = (
                f"data.batch_size={batch_size} and data.max_tokens={max_tokens}: a micro-batch is counted in samples or in tokens; "
                "set one of the two to null"
            )
            raise InputError(msg)
        size = _BATCH_SIZE if batch_size is None else batch_size
        super().__init__(size, num_workers, seed, on_error=on_error, max_skipped=max_skipped)
        self.allow_leaks, self.labels = allow_leaks, labels
        check_counts(
            val_batch_size=val_batch_size,
            max_length=max_length,
            limit=limit,
            max_tokens=max_tokens,
            global_tokens=global_tokens,
        )
        if global_tokens is not None and max_tokens is None:
            msg = f"data.global_tokens: found {global_tokens} without data.max_tokens; set both, or data.batch_size"
            raise InputError(msg)
        if all_questions and max_tokens is None:
            msg = "data.all_questions: found true without data.max_tokens; questions share an image in packed rows alone"
            raise InputError(msg)
        self.max_tokens, self.global_tokens, self.all_questions = max_tokens, global_tokens, all_questions
        self.paths, self.objectives = {"train": train, "val": val}, objectives
        self.val_batch_size, self.max_length, self.limit = val_batch_size, max_length, limit
        self._datasets: dict[str, ConversationDataset] = {}
        self.skipped: dict[str, int] = {}
        self._labels: dict[str, Counter[str]] = {}
        self._plans: dict[tuple[int, int], PackedRows] = {}
        self._lengths: Lengths | None = None

    def dataset(self, name: str) -> ConversationDataset:
        """`train` or `val`, opened once; records without any label that is asked for are left out and counted in `skipped`.

        Raises:
            InputError: no record of the set has a label that is asked for.
        """
        if name not in self._datasets:
            shares = shares_of(self.objectives)
            asked_at_all = [name for name, share in zip(self.objectives, shares, strict=True) if share > 0]
            whole = self.open_tars(self.paths[name], self.labels)
            labelled = {wanted: objective(wanted).labelled(whole) for wanted in self.objectives}
            rows = np.flatnonzero(np.any([labelled[wanted] for wanted in asked_at_all], axis=0))
            self.skipped[name] = len(whole) - len(rows)
            if not len(rows):
                msg = f"data.{name}: none of {len(whole)} records has labels for {', '.join(asked_at_all)}"
                raise InputError(msg)
            if name == "train" and self.limit is not None:
                rows = rows[: self.limit]
            index = whole.take(rows)
            labelled["emotion_scores"] = whole.has("emotion_scores")
            self._labels[name] = Counter({label: int(found[rows].sum()) for label, found in labelled.items()})
            self._datasets[name] = ConversationDataset(index, self.objectives, self.seed, self.all_questions, self.skip)
        return self._datasets[name]

    def setup(self, stage: str) -> None:
        """Open and check all tars before the first step; rank 0 says what is skipped."""
        super().setup(stage)
        self._accumulate()
        for name in self.paths:
            check_shapes(self.dataset(name).index)
            if self.skipped[name] and self.trainer is not None and self.trainer.is_global_zero:
                say(f"{name}: {self.skipped[name]} records have no label for {', '.join(self.objectives)} and are skipped")
        check_leaks({name: self.dataset(name).index for name in self.paths}, allowed=self.allow_leaks)
        if self.trainer is not None and self.trainer.is_global_zero:
            for remark in self.remarks():
                say(remark)

    def summary(self) -> dict[str, object]:
        """What is trained on, as JSON.

        Returns:
            `images`, `skipped` and `labels` (objective or `emotion_scores` -> records that have them), each by split, and `remarks`.
        """
        return {
            "images": {name: len(dataset) for name, dataset in self._datasets.items()},
            "skipped": dict(self.skipped),
            "labels": {
                name: {label: found[label] for label in (*self.objectives, "emotion_scores")}
                for name, found in self._labels.items()
            },
            "remarks": self.remarks(),
            **super().summary(),
        }

    def remarks(self) -> list[str]:
        """What was asked for and these records leave without effect."""
        labels = self._labels["train"]
        remarks = [
            f"train: no record has a label for the objective {name!r}: its share goes to the others"
            for name, weight in self.objectives.items()
            if weight > 0 and not labels[name]
        ]
        if self.trainer is not None and self.task.wants_distributions() and not labels["emotion_scores"]:
            remarks.append(
                "train: no record has emotion_scores: soft labels are hard ones, a distribution loss has one word to aim at"
            )
        return remarks

    @property
    def most_rows(self) -> int:
        """See `FitDataModule.most_rows`; a micro-batch in tokens is one row."""
        return self.batch_size if self.max_tokens is None else 1

    def rows_per_step(self, name: str, world_size: int) -> int:
        """`batch_size`, or `val_batch_size` for validation; of training in tokens one row."""
        if name == "train":
            return super().rows_per_step(name, world_size) if self.max_tokens is None else 1
        return self.batch_size if self.val_batch_size is None else self.val_batch_size

    def train_batches(self, world_size: int) -> int:
        """See `FitDataModule.train_batches`."""
        if self.max_tokens is None:
            return super().train_batches(world_size)
        # That of this rank is needed anyway, and all ranks have as many.
        return len(self._rows(world_size, self.rank if world_size == self.world_size else 0))

    def train_dataloader(self) -> ResumableLoader[ChatBatch]:
        """Shuffled, sized, resumable."""
        collate = self._collator(packed=self.max_tokens is not None)
        self._check_validation(collate)
        if self.max_tokens is None:
            self.dataset("train").check_lengths(collate, "train", None)
            return super().train_dataloader()
        return self.loader_of(self.source("train"), self._rows(self.world_size, self.rank), self._planned(collate))

    def val_dataloader(self) -> ResumableLoader[ChatBatch]:
        """In order; planned rows have room for the longest that any epoch asks, so that they are the same in all."""
        if self.max_tokens is None or self.val_batch_size is not None:
            return super().val_dataloader()
        dataset, collate = self.source("val"), self._collator(packed=True)
        dataset.check_lengths(collate, "val", self.max_tokens)
        rows = PackedRows(
            dataset.longest(collate),
            self.max_tokens,
            epochs=1,
            seed=self.seed,
            rank=self.rank,
            world_size=self.world_size,
            shuffle=False,
        )
        return self.loader_of(dataset, rows, self._planned(collate))

    def _planned(self, collate: Collator) -> Collator:
        """The same for rows of a plan, which have at most `max_tokens`."""
        return replace(collate, max_tokens=self.max_tokens)

    def _check_validation(self, collate: Collator) -> None:
        """Validation may begin after hours of training: what it cannot take is refused now."""
        if self.trainer is None or self.trainer.limit_val_batches:
            planned = self.max_tokens if self.val_batch_size is None else None
            self.dataset("val").check_lengths(collate, "val", planned)

    def source(self, name: str) -> ConversationDataset:
        """See `FitDataModule.source`."""
        dataset = self.dataset(name)
        return dataset.reading(self.task.pictures(dataset.index, self))

    def collate_fn(self) -> Callable[[list[ImageQuestion]], ChatBatch]:
        """Built from the task's backbone, whose processor and coordinates it must use."""
        return self._collator(packed=self.max_tokens is not None)

    def _collator(self, *, packed: bool) -> Collator:
        inputs = self.task.backbone_inputs()
        if packed and not inputs.packs:
            msg = (
                f"data.max_tokens: found {self.max_tokens}; this backbone cannot pack samples into rows: expected null, which pads steps of "
                "data.batch_size samples, or model.backbone.attention: sdpa of a family that packs"
            )
            raise InputError(msg)
        return Collator(
            inputs.processor,
            inputs.model_type,
            answers=True,
            max_length=self.max_length,
            distributions=self.task.wants_distributions(),
            packed=packed,
        )

    def _rows(self, world_size: int, rank: int) -> PackedRows:
        """The plan of training in tokens; the same for all ranks but for whose rows they are."""
        if self.max_tokens is None:
            msg = "rows are planned where data.max_tokens is set"
            raise RuntimeError(msg)
        if (world_size, rank) not in self._plans:
            if self._lengths is None:
                collate = self._collator(packed=True)
                self.dataset("train").check_lengths(collate, "train", self.max_tokens)
                self._lengths = self.dataset("train").lengths(collate)
            lengths = self._lengths
            together = self.global_tokens // self.max_tokens if self.global_tokens else world_size * self.accumulated("train")
            self._plans[world_size, rank] = PackedRows(
                lengths,
                self.max_tokens,
                epochs=self.most_epochs,
                batches=self.most_batches,
                seed=self.seed,
                rank=rank,
                world_size=world_size,
                together=together,
            )
        return self._plans[world_size, rank]

    def _accumulate(self) -> None:
        """Have the Trainer accumulate as many micro-batches as `global_tokens` asks for.

        Raises:
            InputError: they are not whole micro-batches on all ranks, or the Trainer was told another number.
        """
        if self.trainer is None or self.max_tokens is None or self.global_tokens is None:
            return
        each = self.max_tokens * self.world_size
        batches, rest = divmod(self.global_tokens, each)
        if rest or not batches:
            rows, over = divmod(self.global_tokens, self.max_tokens)
            fits = ", ".join(str(n) for n in range(1, rows + 1) if rows % n == 0) if rows and not over else "none"
            msg = (
                f"data.global_tokens: found {self.global_tokens}; expected a multiple of {each}, which {self.world_size} "
                f"processes take in one micro-batch of data.max_tokens={self.max_tokens} (numbers of processes that it fits: {fits})"
            )
            raise InputError(msg)
        if self.trainer.accumulate_grad_batches not in (1, batches):
            msg = (
                f"trainer.accumulate_grad_batches: found {self.trainer.accumulate_grad_batches}; data.global_tokens={self.global_tokens} "
                f"means {batches}: leave one of the two out"
            )
            raise InputError(msg)
        self.trainer.accumulate_grad_batches = batches
