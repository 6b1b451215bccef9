"""Tars -> questions without answers, for features and predictions: the model's input is the image and the prompt, nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset

from emo_lightning.core.records import Record
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Collator, Question
from emo_lightning.data.images import grey
from emo_lightning.data.loader import check_counts, rank_loader
from emo_lightning.data.sampler import Slot
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.families import Family, Processor, family_of


class QuestionDataset(Dataset[tuple[int, Question]]):
    """(row, image) pairs of an index; the question is put by the collator. `blind`: grey of the image's size in its place."""

    def __init__(self, index: TarIndex, rows: Sequence[int], blind: bool = False) -> None:
        self.index, self.rows, self.blind = index, rows, blind

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, slot: Slot) -> tuple[int, Question]:
        row = self.rows[slot.index]
        image = self.index.image(row)
        return row, Question(self.index.record(row).id, grey(image.size) if self.blind else image, (), filler=slot.filler)


class _AskAll:
    """Collates the same images once per objective."""

    def __init__(self, collator: Collator, objectives: Sequence[str]) -> None:
        self.collator = collator
        self.keys = {name: objective(name).keys for name in objectives}

    def __call__(self, samples: Sequence[tuple[int, Question]]) -> dict[str, Any]:
        rows = [row for row, _ in samples]
        asked = {
            name: self.collator([Question(q.key, q.image, keys, filler=q.filler) for _, q in samples])
            for name, keys in self.keys.items()
        }
        return {"rows": rows, "inputs": asked, "filler": [q.filler for _, q in samples]}


class QuestionDataModule(LightningDataModule):
    """Loaders for `PredictTask` and `FeatureTask`; every image once over all ranks, in order.

    Args:
        sets: name of a set -> tars, folders of tars, globs or brace ranges.
        objectives: what is asked of each image, one question each.
        batch_size: images per rank and step.
        num_workers: processes that read ahead.
        max_length: tokens; a longer sample is an error.
        limit: use only the first so many images of each set.
        blind: show grey in place of every image: what the model says without looking (a text-only baseline).
    """

    def __init__(
        self,
        sets: dict[str, list[str]],
        objectives: list[str],
        batch_size: int = 16,
        num_workers: int = 0,
        max_length: int = 4096,
        limit: int | None = None,
        blind: bool = False,
    ) -> None:
        super().__init__()
        if not sets or not objectives:
            msg = f"data.sets={sets}, data.objectives={objectives}: expected at least one of each"
            raise ValueError(msg)
        for name in objectives:
            objective(name)
        check_counts(batch_size=batch_size, num_workers=num_workers, max_length=max_length, limit=limit)
        self.sets, self.objectives, self.batch_size = sets, objectives, batch_size
        self.num_workers, self.max_length, self.limit, self.blind = num_workers, max_length, limit, blind
        self._indices: dict[str, TarIndex] = {}
        self.done: dict[str, Collection[str]] = {}
        """Ids per set that a resumed run need not repeat; the task fills it in `setup`."""
        self.pending: list[str] = []
        """Sets with images left, in the order of the loaders."""

    def index(self, name: str) -> TarIndex:
        """The set's images and records, opened once."""
        if name not in self._indices:
            index = TarIndex.open(self.sets[name])
            self._indices[name] = index if self.limit is None else index.take(range(min(self.limit, len(index))))
        return self._indices[name]

    def record(self, name: str, row: int) -> Record:
        """The annotation of one image: for labels beside the features, never for the model."""
        return self.index(name).record(row)

    def setup(self, stage: str) -> None:
        """Open and check all tars before the first step."""
        for name in self.sets:
            self.index(name)

    def test_dataloader(self) -> list[Any]:
        """One loader for each set that has images left."""
        trainer = self.trainer
        if trainer is None:
            msg = "loaders are made by the Trainer"
            raise RuntimeError(msg)
        task: Any = trainer.lightning_module
        rows = {name: self.rows_left(name) for name in self.sets}
        self.pending = [name for name in self.sets if rows[name]]
        return [self._loader(trainer, task, name, rows[name]) for name in self.pending]

    def rows_left(self, name: str) -> list[int]:
        """Rows of the set's index whose ids are not in `done`."""
        index, done = self.index(name), self.done.get(name, ())
        return [row for row in range(len(index)) if not done or index.record(row).id not in done]

    def _loader(self, trainer: Any, task: Any, name: str, rows: list[int]) -> Any:
        net, index = task.net, self.index(name)
        collate = _AskAll(Collator(net.processor, net.model_type, answers=False, max_length=self.max_length), self.objectives)
        if getattr(task, "by_length", False):
            # Longest first: where memory does not suffice, that shows in the first batch.
            rows = sorted(rows, key=lambda row: -_area(family_of(net.model_type), net.processor, index.record(row)))
        return rank_loader(
            trainer,
            QuestionDataset(index, rows, self.blind),
            self.batch_size,
            seed=0,
            shuffle=False,
            num_workers=self.num_workers,
            collate_fn=collate,
        )


def _area(family: Family, processor: Processor, record: Record) -> int:
    """Pixels that the model sees, which its tokens are proportional to; the prompt is the same for all."""
    width, height = family.resized_size(processor, (record.width, record.height))
    return width * height
