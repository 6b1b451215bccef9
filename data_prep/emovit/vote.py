"""The vote of a model on this machine, and how votes stand in a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from emo_lightning.core.records import EMOTIONS, Emotion


class SaidRow(TypedDict):
    """A row of `provenance.said` in a record: what one annotator, or the critic, gave in one round."""

    annotator: str
    model: str
    round: int
    party: NotRequired[str]
    """Who was asked, with `model`: a name or an address."""
    answered_model: NotRequired[str]
    """The model that the reply names as its own."""
    call: NotRequired[str]
    """First digits of the cache key of a paid call."""
    reply: NotRequired[dict[str, object]]
    failed: NotRequired[str]
    """Why there is no reply."""


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
