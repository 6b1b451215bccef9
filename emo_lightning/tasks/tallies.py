"""Sums that are added up over ranks before they are divided: means of a step, and accuracies of a validation set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from emo_lightning.core.records import EMOTIONS
from emo_lightning.metrics.arrays import Array

_LABELS = len(EMOTIONS) + 1
"""The eight, and none of them."""


class Means:
    """Named means, each a sum and a number, and how often each label was said."""

    def __init__(self) -> None:
        self._sums: dict[str, Array] = {}
        self.labels: Array = np.zeros(_LABELS)

    def add(self, name: str, total: float, number: int = 1) -> None:
        """Add a sum of so many."""
        self._sums[name] = self._sums.get(name, np.zeros(2)) + np.array([total, number])

    def values(self) -> dict[str, float]:
        """Of all names of which there is anything."""
        return {name: float(total / number) for name, (total, number) in self._sums.items() if number}

    def vector(self) -> tuple[list[str], Tensor]:
        """Names, and their sums and numbers with the labels behind them, float64: what ranks add up."""
        flat = np.concatenate([*self._sums.values(), self.labels])
        return list(self._sums), torch.from_numpy(flat)

    @classmethod
    def of(cls, names: Sequence[str], vector: Tensor) -> Self:
        """As `vector` gives them."""
        found, values = cls(), vector.numpy().astype(np.float64)
        found._sums = dict(zip(names, values[:-_LABELS].reshape(-1, 2), strict=True))
        found.labels = values[-_LABELS:]
        return found

    def join(self, other: Means) -> None:
        """Add those of another micro-batch."""
        for name, (total, number) in other._sums.items():
            self.add(name, float(total), int(number))
        self.labels = self.labels + other.labels


class Tally:
    """Answers to a set, of the policy that learns, of the one that it began as, and of the one that no round has trained."""

    def __init__(self) -> None:
        self._counts: Array = np.zeros((3, 2))
        """Of each of the three: right answers, and images."""
        self.truth: Array = np.zeros(len(EMOTIONS))
        """Images by annotated emotion."""
        self.said: Array = np.zeros(_LABELS)
        """Answers by emotion; the last are of none."""

    def now(self, right: Array, truth: Array, said: Array) -> None:
        """Add images: whether each is right, and its positions in `EMOTIONS`."""
        self._counts[0] += (right.sum(), len(right))
        self.truth += np.bincount(truth.astype(int), minlength=len(EMOTIONS))
        self.said += np.bincount(said.astype(int), minlength=_LABELS)

    def before(self, right: Array) -> None:
        """Add answers of the policy that it began as."""
        self._counts[1] += (right.sum(), len(right))

    def zero_shot(self, right: Array) -> None:
        """Add answers of the one that no round has trained."""
        self._counts[2] += (right.sum(), len(right))

    @property
    def images(self) -> int:
        """That were answered."""
        return int(self._counts[0, 1])

    @property
    def accuracy(self) -> float:
        """0 to 1."""
        return self._accuracies[0]

    @property
    def accuracy_before(self) -> float:
        """0 to 1, of the policy that it began as."""
        return self._accuracies[1]

    @property
    def accuracy_zero_shot(self) -> float | None:
        """0 to 1, of the one that no round has trained; None where it was not asked."""
        return self._accuracies[2] if self._counts[2, 1] else None

    @property
    def _accuracies(self) -> list[float]:
        return [float(right / max(1.0, images)) for right, images in self._counts]

    def vector(self) -> Tensor:
        """What ranks add up, float64."""
        return torch.from_numpy(np.concatenate([self._counts.ravel(), self.truth, self.said]))

    def take(self, vector: Tensor) -> None:
        """As `vector` gives it, of all ranks."""
        values = vector.numpy().astype(np.float64)
        counts, self.truth, self.said = np.split(values, [self._counts.size, self._counts.size + len(EMOTIONS)])
        self._counts = counts.reshape(self._counts.shape)
