"""What the DES head and the probe learn from: the same batch keys whether features are cached or computed online."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import DIMENSIONS, EMOTIONS, NO_EMOTION, Record
from emo_lightning.data.batches import LabelBatch

_NO_DISTRIBUTION = (math.nan,) * len(EMOTIONS)
_NO_RATINGS = (math.nan,) * len(DIMENSIONS)


@dataclass(frozen=True)
class Supervision:
    """Labels of one image.

    Args:
        distribution: over `EMOTIONS`, sums to 1; all NaN where there is no label.
        emotion: class index 0–7, or -1.
        intensity: 1–10, or NaN.
        affect: valence, arousal and dominance from -1 to 1 as people rated them, or NaN.

    Raises:
        ValueError: a value is out of range; the message names the field.
    """

    distribution: Sequence[float] = field(default=_NO_DISTRIBUTION)
    emotion: int = NO_EMOTION
    intensity: float = math.nan
    affect: Sequence[float] = field(default=_NO_RATINGS)

    def __post_init__(self) -> None:
        if len(self.distribution) != len(EMOTIONS):
            msg = f"distribution has {len(self.distribution)} values; expected {len(EMOTIONS)}"
            raise ValueError(msg)
        if not all(math.isnan(value) for value in self.distribution) and not (
            min(self.distribution) >= 0 and abs(sum(self.distribution) - 1) <= 1e-3
        ):
            msg = f"distribution {list(self.distribution)}; expected non-negative values that sum to 1, or all NaN"
            raise ValueError(msg)
        if not NO_EMOTION <= self.emotion < len(EMOTIONS):
            msg = f"emotion is {self.emotion}; expected 0–{len(EMOTIONS) - 1}, or {NO_EMOTION} for none"
            raise ValueError(msg)
        if not (math.isnan(self.intensity) or 1 <= self.intensity <= 10):
            msg = f"intensity is {self.intensity}; expected 1–10, or NaN for none"
            raise ValueError(msg)
        if len(self.affect) != len(DIMENSIONS) or not all(math.isnan(value) or -1 <= value <= 1 for value in self.affect):
            msg = f"affect is {list(self.affect)}; expected {len(DIMENSIONS)} values from -1 to 1, or NaN for none"
            raise ValueError(msg)

    @classmethod
    def of(cls, record: Record) -> Supervision:
        """The labels of a record; what is not annotated stays empty."""
        return cls(
            record.emotion_distribution() or _NO_DISTRIBUTION,
            NO_EMOTION if record.emotion is None else record.emotion.position,
            math.nan if record.intensity is None else float(record.intensity),
            tuple(math.nan if value is None else value for value in record.affect()),
        )


class LabelCounts(NamedTuple):
    """How many images of a set have which labels."""

    images: int
    emotion: int
    """With a category: what accuracy is of."""
    distribution: int
    """With a category or a distribution: what the cross-entropy is of."""
    ratings: dict[str, int]
    """Dimension -> with a rating of it; `DIMENSIONS`."""
    rated: int
    """With a rating of any dimension."""
    rated_alone: int
    """With a rating, and neither category nor distribution: they count in valence, arousal and dominance, and nowhere else."""
    bare: int
    """With none of these."""

    @classmethod
    def of(cls, emotion: NDArray[np.bool_], distribution: NDArray[np.bool_], ratings: NDArray[np.bool_]) -> Self:
        """Count what (N,), (N,) and (N, 3) say."""
        rated, felt = ratings.any(-1), emotion | distribution
        by_name = {name: int(ratings[:, n].sum()) for n, name in enumerate(DIMENSIONS)}
        return cls(
            len(emotion),
            int(emotion.sum()),
            int(felt.sum()),
            by_name,
            int(rated.sum()),
            int((rated & ~felt).sum()),
            int((~rated & ~felt).sum()),
        )

    def require(self, where: str, *, rated: bool = False) -> None:
        """Refuse a set without labels.

        Args:
            where: names the set.
            rated: whether ratings of valence, arousal or dominance are label enough; else an emotion category is needed.

        Raises:
            InputError: it has none.
        """
        if not self.emotion and not (rated and self.rated):
            msg = f"no sample of the set {where} has an emotion label{' or a rating' if rated else ''}"
            raise InputError(msg)

    def as_json(self) -> dict[str, int]:
        """What `training.json` says of a set with ratings."""
        return {"emotion": self.emotion, "ratings": self.rated, "ratings_without_emotion": self.rated_alone}


def label_summary(counts: Mapping[str, LabelCounts]) -> dict[str, object]:
    """`labels` of `training.json`, set by set; empty where nobody rated anything."""
    if not any(found.rated for found in counts.values()):
        return {}
    return {"labels": {name: found.as_json() for name, found in counts.items()}}


def collate_supervision(keys: Sequence[str], labels: Sequence[Supervision], fillers: Sequence[bool]) -> LabelBatch:
    """The label part of a batch of B = `len(keys)` images."""
    return {
        "target": torch.tensor([list(label.distribution) for label in labels], dtype=torch.float32),
        "emotion": torch.tensor([label.emotion for label in labels], dtype=torch.int64),
        "intensity": torch.tensor([label.intensity for label in labels], dtype=torch.float32),
        "affect": torch.tensor([list(label.affect) for label in labels], dtype=torch.float32),
        "filler": torch.tensor(list(fillers), dtype=torch.bool),
        "key": list(keys),
    }
