"""Tars -> questions with labels beside them, for training the DES head on a backbone that runs along (no feature cache)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset

from emo_lightning.core.records import NO_EMOTION
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Collator, Question
from emo_lightning.data.loader import check_counts, rank_loader
from emo_lightning.data.sampler import EpochBatches, Slot
from emo_lightning.data.supervision import Supervision, collate_supervision
from emo_lightning.data.tar_index import TarIndex


class LabelledDataset(Dataset[tuple[Question, Supervision]]):
    """(question, labels) of every image, ordered by id as a feature cache is: the same seed gives the same batches."""

    def __init__(self, index: TarIndex, keys: tuple[str, ...]) -> None:
        self.index = index.take(sorted(range(len(index)), key=lambda row: index.key(row).rpartition("/")[2]))
        self.keys = keys

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, slot: Slot) -> tuple[Question, Supervision]:
        record = self.index.record(slot.index)
        # Without the record: at this prompt nothing of the annotation may reach the model.
        return Question(record.id, self.index.image(slot.index), self.keys, filler=slot.filler), Supervision.of(record)


class _Collate:
    """Model inputs of the questions, and `collate_supervision`'s keys."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, samples: Sequence[tuple[Question, Supervision]]) -> dict[str, Any]:
        questions = [question for question, _ in samples]
        labels = collate_supervision([q.key for q in questions], [s for _, s in samples], [q.filler for q in questions])
        return {**self.collator(questions), **labels}


class LabelledDataModule(LightningDataModule):
    """Loaders for `DESTask` with `model.backbone` (online mode).

    Args:
        train: tars, folders of tars, globs or brace ranges.
        val: the same.
        objective: the prompt at which hidden states are taken; a cache that shall equal this one has the same.
        batch_size: images per rank and step.
        num_workers: processes that read ahead.
        max_length: tokens; a longer sample is an error.
        seed: of the order.
    """

    def __init__(
        self,
        train: list[str],
        val: list[str],
        objective: str = "emotion",
        batch_size: int = 64,
        num_workers: int = 0,
        max_length: int = 4096,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_counts(batch_size=batch_size, num_workers=num_workers, max_length=max_length, seed=seed)
        self.paths = {"train": train, "val": val}
        self.objective, self.batch_size, self.num_workers = objective, batch_size, num_workers
        self.max_length, self.seed = max_length, seed
        self._datasets: dict[str, LabelledDataset] = {}

    def dataset(self, split: str) -> LabelledDataset:
        """`train` or `val`, opened once."""
        if split not in self._datasets:
            self._datasets[split] = LabelledDataset(TarIndex.open(self.paths[split]), objective(self.objective).keys)
        return self._datasets[split]

    def setup(self, stage: str) -> None:
        """Open and check all tars before the first step."""
        for split in self.paths:
            self.dataset(split)

    def require_labels(self, name: str) -> None:
        """Raise a ValueError if no image of a set has an emotion category."""
        index = self.dataset(name).index
        if all(Supervision.of(index.record(row)).emotion == NO_EMOTION for row in range(len(index))):
            msg = f"no sample of the set {name!r} ({', '.join(self.paths[name])}) has an emotion label"
            raise ValueError(msg)

    def train_batches(self, world_size: int) -> int:
        """Training steps per epoch on each rank."""
        return len(EpochBatches(len(self.dataset("train")), self.batch_size, seed=self.seed, world_size=world_size))

    def _loader(self, split: str) -> Any:
        if self.trainer is None:
            msg = "loaders are made by the Trainer"
            raise RuntimeError(msg)
        net: Any = self.trainer.lightning_module.backbone
        if net is None:
            msg = "data are images and model.backbone is null: set model.backbone.path, or use the kind `des` on a cache"
            raise ValueError(msg)
        # Padded as a cached batch is, so that dropout of the head draws the same for the same place.
        collate = _Collate(
            Collator(net.processor, net.model_type, answers=False, max_length=self.max_length, padding_side="right")
        )
        return rank_loader(
            self.trainer,
            self.dataset(split),
            self.batch_size,
            seed=self.seed,
            shuffle=split == "train",
            num_workers=self.num_workers,
            collate_fn=collate,
        )

    def train_dataloader(self) -> Any:
        """Shuffled, sized, resumable."""
        return self._loader("train")

    def val_dataloader(self) -> Any:
        """In order of ids."""
        return self._loader("val")
