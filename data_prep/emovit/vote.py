"""The vote of a model on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emo_lightning.core.records import EMOTIONS, Emotion


@dataclass(frozen=True)
class DistributionVote:
    """A vote that says how likely each of the eight is (a local model)."""

    scores: Mapping[Emotion, float]
    """Sums to 1."""

    @property
    def emotion(self) -> Emotion:
        """The likeliest."""
        return max(EMOTIONS, key=lambda e: self.scores[e])

    @property
    def confidence(self) -> float:
        """Probability of the likeliest."""
        return self.scores[self.emotion]
