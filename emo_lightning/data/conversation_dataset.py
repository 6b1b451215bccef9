"""What is asked of each image in supervised fine-tuning, with its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.errors import InputError
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Collator, ImageQuestion
from emo_lightning.data.lengths import refuse_longer, sample_lengths, shared_lengths
from emo_lightning.data.packing import Lengths
from emo_lightning.data.pictures import PictureDataset
from emo_lightning.data.sampler import Slot
from emo_lightning.data.tar_index import TarIndex


class ConversationDataset(PictureDataset[ImageQuestion]):
    """One question per image; which objective it serves is a pure function of (seed, epoch, row).

    Args:
        index: the images and their records.
        objectives: name -> weight; an image that lacks the labels of the chosen one is asked another that it has labels for.
        seed: of the choice.
        all_questions: ask all of them of each image, an answer counting by its weight: the mean of what would be drawn.
        skip: give a filler of the size that its record says in the place of an image that cannot be read.

    Raises:
        InputError: no weight is above 0, or one is below.
    """

    def __init__(
        self, index: TarIndex, objectives: dict[str, float], seed: int, all_questions: bool = False, skip: bool = False
    ) -> None:
        super().__init__(index, skip=skip)
        self.all_questions = all_questions
        self.objectives = [objective(name) for name in objectives]
        self.weights = shares_of(objectives)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, slot: Slot) -> ImageQuestion:
        record, image, key, fault = self.pictured(slot.index)
        filler = slot.filler or fault is not None
        available = [o.available(record) for o in self.objectives]
        if self.all_questions:
            asked = [(keys, share) for keys, share in zip(available, self.weights, strict=True) if keys and share > 0]
            (keys, *more), shares = zip(*asked, strict=True)
            whole = tuple(float(share) / sum(shares) for share in shares)
            return ImageQuestion(key, image, keys, record, filler, tuple(more), whole, fault)
        keys = self._choose(slot, available)
        return ImageQuestion(key, image, keys, record, filler, fault=fault)

    def _choose(self, slot: Slot, available: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        chosen = self._chosen(slot.epoch, slot.index, [bool(keys) for keys in available])
        return () if chosen is None else available[chosen]

    def _chosen(self, epoch: int, row: int, available: Sequence[bool]) -> int | None:
        weights = np.where(available, self.weights, 0.0)
        if weights.sum() == 0:
            return None
        draw = np.random.Generator(np.random.PCG64([self.seed, epoch, row])).random()
        return int(np.searchsorted(np.cumsum(weights / weights.sum()), draw, side="right"))

    def lengths(self, collate: Collator) -> Lengths:
        """Tokens of every sample in each epoch, in which it may be asked something else."""
        table = sample_lengths(self.index, self.objectives, collate)
        if self.all_questions:
            asked = table[:, self.weights > 0]
            together = asked.sum(1) - np.maximum(0, (asked > 0).sum(1) - 1) * shared_lengths(self.index, collate)
            return lambda _epoch: together

        def in_epoch(epoch: int) -> NDArray[np.int64]:
            rows = range(len(table))
            if len(self.objectives) == 1:
                return table[:, 0]
            chosen = [self._chosen(epoch, row, (table[row] > 0).tolist()) or 0 for row in rows]
            return table[rows, chosen]

        return lru_cache(maxsize=2)(in_epoch)

    def check_lengths(self, collate: Collator, name: str, max_tokens: int | None) -> None:
        """Refuse what is too long for a question, or for a row, before the first step.

        Args:
            collate: which would refuse it when it is met.
            name: of the set, for the message.
            max_tokens: of a row; None where rows are not planned.

        Raises:
            InputError: names the setting, how many samples are too long, and the longest of them.
        """
        refuse_longer(self.index, self._asked_at_all(collate).max(1), "data.max_length", collate.max_length, f"data.{name}")
        if max_tokens is not None:
            refuse_longer(self.index, self.longest(collate)(0), "data.max_tokens", max_tokens, f"data.{name}")

    def _asked_at_all(self, collate: Collator) -> NDArray[np.int64]:
        """Tokens of each image with each of the questions that may be asked, (N, questions)."""
        asked = [one for one, share in zip(self.objectives, self.weights, strict=True) if share > 0]
        return sample_lengths(self.index, asked, collate)

    def longest(self, collate: Collator) -> Lengths:
        """Tokens of the longest that may be asked about each image: what a plan for all epochs has to make room for."""
        if self.all_questions:
            return self.lengths(collate)
        table = self._asked_at_all(collate).max(1)
        return lambda _epoch: table


def shares_of(objectives: Mapping[str, float]) -> NDArray[np.float64]:
    """Weights that sum to 1.

    Raises:
        InputError: no weight is above 0, or one is below.
    """
    weights = np.array(list(objectives.values()), dtype=float)
    if not len(weights) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        msg = f"data.objectives={dict(objectives)}: weights must be 0 or more, and one above 0"
        raise InputError(msg)
    return np.asarray(weights / weights.sum())
