"""Totals that add up exactly over ranks: what all metrics of Table 5 are made of.

Every image adds a row of amounts (its scores and counts) to three totals: over all images, over those of each emotion, and over each
bootstrap resample. All values are functions of such a total, so the table, its breakdown and its intervals come from one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypedDict

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from emo_lightning.core.records import EMOTIONS, Prediction, Reference
from emo_lightning.metrics.arrays import Array, Classes

RowScores = dict[str, dict[str, Array]]
"""`{"paper": {row: (K,)}, "strict": {…}}`, x100, NaN where nothing could be scored."""

UNREADABLE_COLUMN = len(EMOTIONS)
"""Column of the confusion matrix for answers without one of the eight emotions, and for missing ones."""

POSITION = {emotion.value: i for i, emotion in enumerate(EMOTIONS)}


@dataclass(frozen=True)
class ScoredBatch:
    """What is scored together.

    Args:
        predictions: one per record; None is a reference without an answer.
        records: the references.
        draws: how often each image counts in each resample, (images, resamples), from `bootstrap.draws`.
    """

    predictions: Sequence[Prediction | None]
    records: Sequence[Reference]
    draws: Array

    @cached_property
    def by_emotion(self) -> Array:
        """(images, 8): 1 at the reference's emotion, nothing where it has none."""
        positions = [POSITION[r.emotion] if r.emotion else len(EMOTIONS) for r in self.records]
        return np.eye(len(EMOTIONS) + 1)[positions, : len(EMOTIONS)]


class Computed(TypedDict):
    """What `Accumulator.compute` gives."""

    point: RowScores
    """One value a row."""
    emotions: RowScores
    """Eight, one for each emotion of the references."""
    replicates: RowScores
    """One for each resample."""
    counts: dict[str, int]
    cells: Classes
    """The flattened confusion matrix."""
    support: dict[str, int]
    """Row -> images behind it."""


class Accumulator(Metric):
    """Float64 totals of named amounts, over all images, by emotion and by resample.

    Args:
        resamples: of the bootstrap; the batches' `draws` must have as many.
    """

    full_state_update = False
    names: tuple[str, ...] = ()
    cells = 0
    """Further amounts without a name, after the named ones: a flattened confusion matrix."""
    support: ClassVar[Mapping[str, str]] = {}
    """Row -> the amount that counts the images behind it."""
    total: Tensor
    emotions: Tensor
    replicates: Tensor

    def __init__(self, resamples: int = 0) -> None:
        super().__init__()
        for state, rows in (("total", 1), ("emotions", len(EMOTIONS)), ("replicates", resamples)):
            zeros = torch.zeros(rows, len(self.names) + self.cells, dtype=torch.float64)
            self.add_state(state, zeros, dist_reduce_fx="sum")

    def update(self, batch: ScoredBatch) -> None:
        """Add a batch."""
        self._add(self.amounts(batch), batch)

    def amounts(self, batch: ScoredBatch) -> Array:
        """What each image adds, (images, names + cells)."""
        raise NotImplementedError

    def rows(self, totals: Array) -> RowScores:
        """The values of K totals, (K, names + cells)."""
        raise NotImplementedError

    def counts(self, total: Array) -> dict[str, int]:
        """What else was counted, from the total over all images, (names + cells,)."""
        raise NotImplementedError

    def compute(self) -> Computed:
        """Everything that was accumulated, over all ranks."""
        total, emotions, replicates = (s.cpu().numpy() for s in (self.total, self.emotions, self.replicates))
        at = {row: self.names.index(name) for row, name in self.support.items()}
        return {
            "point": self.rows(total),
            "emotions": self.rows(emotions),
            "replicates": self.rows(replicates),
            "counts": self.counts(total[0]),
            "cells": total[0, len(self.names) :].round().astype(int),
            "support": {row: round(float(total[0, i])) for row, i in at.items()},
        }

    def _add(self, amounts: Array, batch: ScoredBatch) -> None:
        if batch.draws.shape[1] != len(self.replicates):
            msg = f"the batch has {batch.draws.shape[1]} resamples, the metric {len(self.replicates)}"
            raise ValueError(msg)
        self.total = self.total + self._tensor(amounts.sum(axis=0, keepdims=True))
        self.emotions = self.emotions + self._tensor(batch.by_emotion.T @ amounts)
        if len(self.replicates):
            # Most cells of a confusion matrix are empty in a batch.
            used = np.flatnonzero(amounts.any(axis=0))
            self.replicates[:, used] += self._tensor(batch.draws.T @ amounts[:, used])

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.total.device)

    def _of(self, totals: Array, name: str) -> Array:
        return totals[:, self.names.index(name)]

    def _percent(self, totals: Array, part: str, whole: str) -> Array:
        return ratio(100 * self._of(totals, part), self._of(totals, whole))

    def _count(self, total: Array, name: str) -> int:
        return round(float(total[self.names.index(name)]))


def ratio(part: Array, whole: Array) -> Array:
    """Part / whole, NaN where whole is 0."""
    shares: Array = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return shares
