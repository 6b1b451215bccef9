"""Tars -> questions with answers, for supervised fine-tuning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Record
from emo_lightning.core.terminal import say
from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.chat import Objective, objective
from emo_lightning.data.collate import Collator, Question
from emo_lightning.data.images import check_shapes
from emo_lightning.data.leaks import check_leaks
from emo_lightning.data.loader import SlotDataset, check_counts
from emo_lightning.data.module import FitDataModule
from emo_lightning.data.protocols import LearnsAnswers
from emo_lightning.data.sampler import Slot
from emo_lightning.data.tar_index import TarIndex


class ConversationDataset(SlotDataset[Question]):
    """One question per image; which objective it serves is a pure function of (seed, epoch, row).

    Args:
        index: the images and their records.
        objectives: name -> weight; an image that lacks the labels of the chosen one is asked another that it has labels for.
        seed: of the choice.

    Raises:
        InputError: no weight is above 0, or one is below.
    """

    def __init__(self, index: TarIndex, objectives: dict[str, float], seed: int) -> None:
        self.index = index
        self.objectives = [objective(name) for name in objectives]
        weights = np.array(list(objectives.values()), dtype=float)
        if not len(weights) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
            msg = f"data.objectives={objectives}: weights must be 0 or more, and one above 0"
            raise InputError(msg)
        self.weights = weights / weights.sum()
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, slot: Slot) -> Question:
        record, image = self.index.sample(slot.index)
        keys = self._choose(slot, [o.available(record) for o in self.objectives])
        return Question(record.id, image, keys, record, slot.filler)

    def _choose(self, slot: Slot, available: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        weights = np.array([w if keys else 0.0 for w, keys in zip(self.weights, available, strict=True)])
        if weights.sum() == 0:
            return ()
        draw = np.random.Generator(np.random.PCG64([self.seed, slot.epoch, slot.index])).random()
        return available[int(np.searchsorted(np.cumsum(weights / weights.sum()), draw, side="right"))]


class ConversationDataModule(FitDataModule[LearnsAnswers, Question, ChatBatch]):
    """Loaders for `SFTTask`.

    Args:
        train: tars, folders of tars, globs or brace ranges.
        val: the same, for the validation loss and the samples that are logged.
        objectives: what is trained, name -> weight: round 1 is `{attributes: 1}`, round 2 `{emotion: 0.8, attributes: 0.2}`
            (replay of round 1 keeps what it taught).
        batch_size: samples per rank and micro-batch.
        val_batch_size: None takes `batch_size`.
        num_workers: processes that read ahead.
        max_length: tokens; a longer sample is an error.
        limit: use only the first so many training samples.
        seed: of the order and of the choice of objectives.
        allow_leaks: train although the training set holds images of a held-out split or of another set; it is said, not refused.
    """

    task_type = LearnsAnswers

    def __init__(
        self,
        train: list[str],
        val: list[str],
        objectives: dict[str, float],
        batch_size: int = 8,
        val_batch_size: int | None = None,
        num_workers: int = 0,
        max_length: int = 4096,
        limit: int | None = None,
        seed: int = 0,
        allow_leaks: bool = False,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        self.allow_leaks = allow_leaks
        check_counts(val_batch_size=val_batch_size, max_length=max_length, limit=limit)
        self.paths, self.objectives = {"train": train, "val": val}, objectives
        self.val_batch_size, self.max_length, self.limit = val_batch_size or batch_size, max_length, limit
        self._datasets: dict[str, ConversationDataset] = {}
        self.skipped: dict[str, int] = {}
        self._labels: dict[str, Counter[str]] = {}

    def dataset(self, name: str) -> ConversationDataset:
        """`train` or `val`, opened once; records without any label that is asked for are left out and counted in `skipped`.

        Raises:
            InputError: no record of the set has a label that is asked for.
        """
        if name not in self._datasets:
            whole = TarIndex.open(self.paths[name])
            asked: list[Objective] = [objective(wanted) for wanted in self.objectives]
            labels: list[list[str]] = []

            def usable(record: Record) -> bool:
                objectives = [o.name for o in asked if o.available(record)]
                if objectives:
                    labels.append([*objectives, *(["emotion_scores"] if record.emotion_scores is not None else [])])
                return bool(objectives)

            index = whole.select(usable)
            self.skipped[name] = len(whole) - len(index)
            if not len(index):
                msg = f"data.{name}: none of {len(whole)} records has labels for {', '.join(self.objectives)}"
                raise InputError(msg)
            if name == "train" and self.limit is not None:
                index = index.take(range(min(self.limit, len(index))))
            self._labels[name] = Counter(label for found in labels[: len(index)] for label in found)
            self._datasets[name] = ConversationDataset(index, self.objectives, self.seed)
        return self._datasets[name]

    def setup(self, stage: str) -> None:
        """Open and check all tars before the first step; rank 0 says what is skipped."""
        super().setup(stage)
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

    def rows_per_step(self, name: str, world_size: int) -> int:  # noqa: ARG002 (the base class's)
        """`batch_size`, or `val_batch_size` for validation."""
        return self.batch_size if name == "train" else self.val_batch_size

    def collate_fn(self) -> Callable[[list[Question]], ChatBatch]:
        """Built from the task's backbone, whose processor and coordinates it must use."""
        inputs = self.task.backbone_inputs()
        return Collator(
            inputs.processor,
            inputs.model_type,
            answers=True,
            max_length=self.max_length,
            distributions=self.task.wants_distributions(),
        )
