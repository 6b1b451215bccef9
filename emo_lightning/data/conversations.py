"""Tars -> questions with answers, for supervised fine-tuning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset

from emo_lightning.core.records import Record
from emo_lightning.data.chat import Objective, objective
from emo_lightning.data.collate import Collator, Question
from emo_lightning.data.loader import check_counts, rank_loader
from emo_lightning.data.sampler import EpochBatches, Slot
from emo_lightning.data.tar_index import TarIndex


class ConversationDataset(Dataset[Question]):
    """One question per image; which objective it serves is a pure function of (seed, epoch, row).

    Args:
        index: the images and their records.
        objectives: name -> weight; an image that lacks the labels of the chosen one is asked another that it has labels for.
        seed: of the choice.
    """

    def __init__(self, index: TarIndex, objectives: dict[str, float], seed: int) -> None:
        self.index = index
        self.objectives = [objective(name) for name in objectives]
        weights = np.array(list(objectives.values()), dtype=float)
        if not len(weights) or (weights < 0).any() or weights.sum() <= 0:
            msg = f"data.objectives={objectives}: weights must be 0 or more, and one above 0"
            raise ValueError(msg)
        self.weights = weights / weights.sum()
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, slot: Slot) -> Question:
        record = self.index.record(slot.index)
        keys = self._choose(slot, [o.available(record) for o in self.objectives])
        return Question(record.id, self.index.image(slot.index), keys, record, slot.filler)

    def _choose(self, slot: Slot, available: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        weights = np.array([w if keys else 0.0 for w, keys in zip(self.weights, available, strict=True)])
        if weights.sum() == 0:
            return ()
        draw = np.random.Generator(np.random.PCG64([self.seed, slot.epoch, slot.index])).random()
        return available[int(np.searchsorted(np.cumsum(weights / weights.sum()), draw, side="right"))]


class ConversationDataModule(LightningDataModule):
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
    """

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
    ) -> None:
        super().__init__()
        self.train, self.val, self.objectives = train, val, objectives
        check_counts(
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            num_workers=num_workers,
            max_length=max_length,
            limit=limit,
            seed=seed,
        )
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or batch_size
        self.num_workers, self.max_length, self.limit, self.seed = num_workers, max_length, limit, seed
        self._datasets: dict[str, ConversationDataset] = {}
        self.skipped: dict[str, int] = {}
        self._labels: dict[str, Counter[str]] = {}

    def dataset(self, split: str) -> ConversationDataset:
        """`train` or `val`, opened once; records without any label that is asked for are left out and counted in `skipped`."""
        if split not in self._datasets:
            whole = TarIndex.open(self.train if split == "train" else self.val)
            asked: list[Objective] = [objective(name) for name in self.objectives]
            labels: list[list[str]] = []

            def usable(record: Record) -> bool:
                objectives = [o.name for o in asked if o.available(record)]
                if objectives:
                    labels.append([*objectives, *(["emotion_scores"] if record.emotion_scores is not None else [])])
                return bool(objectives)

            index = whole.select(usable)
            self.skipped[split] = len(whole) - len(index)
            if not len(index):
                msg = f"data.{split}: none of {len(whole)} records has labels for {', '.join(self.objectives)}"
                raise ValueError(msg)
            if split == "train" and self.limit is not None:
                index = index.take(range(min(self.limit, len(index))))
            self._labels[split] = Counter(name for names in labels[: len(index)] for name in names)
            self._datasets[split] = ConversationDataset(index, self.objectives, self.seed)
        return self._datasets[split]

    def setup(self, stage: str) -> None:
        """Open and check all tars before the first step; rank 0 says what is skipped."""
        for split in ("train", "val"):
            self.dataset(split)
            if self.skipped[split] and self.trainer is not None and self.trainer.is_global_zero:
                print(f"{split}: {self.skipped[split]} records have no label for {', '.join(self.objectives)} and are skipped")
        if self.trainer is not None and self.trainer.is_global_zero:
            for remark in self.summary()["remarks"]:
                print(remark)

    def summary(self) -> dict[str, Any]:
        """What is trained on, as JSON: `images`, `skipped` and `labels` (objective or `emotion_scores` -> records that have them),
        each by split, and `remarks`: switches that these records leave without effect.
        """
        labels = self._labels["train"]
        remarks = [
            f"train: no record has a label for the objective {name!r}: its share goes to the others"
            for name, weight in self.objectives.items()
            if weight > 0 and not labels[name]
        ]
        task = self.trainer.lightning_module if self.trainer is not None else None
        if getattr(task, "wants_distributions", False) and not labels["emotion_scores"]:
            remarks.append(
                "train: no record has emotion_scores: soft labels are hard ones, a distribution loss has one word to aim at"
            )
        return {
            "images": {split: len(dataset) for split, dataset in self._datasets.items()},
            "skipped": dict(self.skipped),
            "labels": {
                split: {name: found[name] for name in (*self.objectives, "emotion_scores")}
                for split, found in self._labels.items()
            },
            "remarks": remarks,
        }

    def train_batches(self, world_size: int) -> int:
        """Micro-batches per rank and epoch."""
        return len(EpochBatches(len(self.dataset("train")), self.batch_size, seed=self.seed, world_size=world_size))

    def _loader(self, split: str) -> Any:
        training = split == "train"
        task: Any = self.trainer.lightning_module if self.trainer is not None else None
        return rank_loader(
            self.trainer,
            self.dataset(split),
            self.batch_size if training else self.val_batch_size,
            seed=self.seed,
            shuffle=training,
            num_workers=self.num_workers,
            collate_fn=self.collator(task),
        )

    def collator(self, task: Any) -> Collator:
        """Built from the task's backbone, whose processor and coordinates it must use."""
        return Collator(
            task.net.processor,
            task.net.model_type,
            answers=True,
            max_length=self.max_length,
            distributions=getattr(task, "wants_distributions", False),
        )

    def train_dataloader(self) -> Any:
        """Shuffled, sized, resumable."""
        return self._loader("train")

    def val_dataloader(self) -> Any:
        """In order."""
        return self._loader("val")
