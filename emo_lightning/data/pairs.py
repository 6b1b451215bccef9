"""Tars -> (image, description) pairs, for a CLIP."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset

from emo_lightning.data.loader import rank_loader
from emo_lightning.data.sampler import EpochBatches, Slot
from emo_lightning.data.tar_index import TarIndex


class PairDataset(Dataset[tuple[Any, str, bool]]):
    """(image, description, filler) of every record that has a description."""

    def __init__(self, index: TarIndex) -> None:
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, slot: Slot) -> tuple[Any, str, bool]:
        return self.index.image(slot.index), str(self.index.record(slot.index).description), slot.filler


class PairDataModule(LightningDataModule):
    """Loaders for `CLIPTask`.

    Args:
        train: tars, folders of tars, globs or brace ranges.
        val: the same.
        batch_size: pairs per rank and step; each image is told from the texts of the others.
        num_workers: processes that read ahead.
        seed: of the order.
    """

    def __init__(self, train: list[str], val: list[str], batch_size: int = 64, num_workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.train, self.val, self.batch_size, self.num_workers, self.seed = train, val, batch_size, num_workers, seed
        self._datasets: dict[str, PairDataset] = {}

    def dataset(self, split: str) -> PairDataset:
        """`train` or `val`, opened once."""
        if split not in self._datasets:
            index = TarIndex.open(self.train if split == "train" else self.val).select(lambda record: bool(record.description))
            self._datasets[split] = PairDataset(index)
        return self._datasets[split]

    def train_batches(self, world_size: int) -> int:
        """Micro-batches per rank and epoch."""
        return len(EpochBatches(len(self.dataset("train")), self.batch_size, seed=self.seed, world_size=world_size))

    def _loader(self, split: str) -> Any:
        task: Any = self.trainer.lightning_module if self.trainer is not None else None
        return rank_loader(
            self.trainer,
            self.dataset(split),
            self.batch_size,
            seed=self.seed,
            shuffle=split == "train",
            num_workers=self.num_workers,
            collate_fn=task.collate,
        )

    def train_dataloader(self) -> Any:
        """Shuffled, sized, resumable."""
        return self._loader("train")

    def val_dataloader(self) -> Any:
        """In order."""
        return self._loader("val")
