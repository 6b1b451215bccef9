"""Cross-verification of emotions: a weighted log-linear pool of votes (paper section 3.2). Pure functions of replies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from data_prep.annotate.replies import EmotionVote, FullAnnotation
from data_prep.emovit.vote import DistributionVote
from emo_lightning.core.records import EMOTIONS, Emotion

MAX_CONFIDENCE = 0.99
"""No single vote may veto: with a confidence of 1 the logarithm of the rest would be minus infinity."""

CRITIC_CONFIDENCE = 0.8
"""The critic names no confidence of its own."""


Vote: TypeAlias = EmotionVote | DistributionVote


@dataclass(frozen=True)
class Pool:
    """The pooled opinion."""

    scores: dict[Emotion, float]
    """Distribution over the eight, sums to 1."""
    emotion: Emotion
    confidence: float
    """Pooled probability of `emotion`."""
    margin: float
    """First minus second probability, by the votes alone."""
    support: Mapping[Emotion, float]
    """Share of the weight whose vote names an emotion; those that nobody names are left out."""

    @property
    def agreement(self) -> float:
        """Share of the weight whose vote names `emotion`."""
        return self.support.get(self.emotion, 0.0)


def vote_distribution(vote: Vote) -> dict[Emotion, float]:
    """What a vote says of each of the eight.

    Confidence on the emotion, the rest uniform; clipped to [1/8, `MAX_CONFIDENCE`]: a vote never speaks against itself. A vote that is
    a distribution is mixed with a little of the uniform one, so that certainty becomes `MAX_CONFIDENCE` just the same.
    """
    if isinstance(vote, DistributionVote):
        uniform = (1 - MAX_CONFIDENCE) / (len(EMOTIONS) - 1)
        return {e: (1 - len(EMOTIONS) * uniform) * vote.scores[e] + uniform for e in EMOTIONS}
    confidence = min(max(vote.confidence, 1 / len(EMOTIONS)), MAX_CONFIDENCE)
    rest = (1 - confidence) / (len(EMOTIONS) - 1)
    return {e: confidence if e is vote.emotion else rest for e in EMOTIONS}


def pool(votes: Mapping[str, Vote], weights: Mapping[str, float]) -> Pool:
    """p(e) ∝ Π_i p_i(e)^(w_i / Σw); the weights are those of the voters present.

    Args:
        votes: by annotator; at least one.
        weights: by annotator.

    Raises:
        ValueError: no votes.
    """
    if not votes:
        msg = "no votes to pool"
        raise ValueError(msg)
    total = sum(weights[name] for name in votes)
    logs = dict.fromkeys(EMOTIONS, 0.0)
    for name in sorted(votes):
        share = weights[name] / total
        for emotion, p in vote_distribution(votes[name]).items():
            logs[emotion] += share * math.log(p)
    top = max(logs.values())
    unscaled = {e: math.exp(value - top) for e, value in logs.items()}
    norm = sum(unscaled.values())
    scores = {e: p / norm for e, p in unscaled.items()}
    # Ties go to the heavier vote's emotion, never to the order of the eight.
    order = sorted(EMOTIONS, key=lambda e: (-scores[e], -_weight_for(e, votes, weights)))
    first, second = order[0], order[1]
    return Pool(
        scores=scores,
        emotion=first,
        confidence=scores[first],
        margin=scores[first] - scores[second],
        support={e: weight / total for e in EMOTIONS if (weight := _weight_for(e, votes, weights))},
    )


def decided(contested: Pool, emotion: Emotion) -> Pool:
    """The pool after the critic chose one of the two leading emotions: its vote is one more factor, with weight 1.

    With the margin at most 0.5 (the configuration's limit) the chosen emotion always leads afterwards.
    """
    critic = vote_distribution(EmotionVote(emotion=emotion, confidence=CRITIC_CONFIDENCE))
    unscaled = {e: p * critic[e] for e, p in contested.scores.items()}
    norm = sum(unscaled.values())
    scores = {e: p / norm for e, p in unscaled.items()}
    return replace(contested, scores=scores, emotion=emotion, confidence=scores[emotion])


def _weight_for(emotion: Emotion, votes: Mapping[str, Vote], weights: Mapping[str, float]) -> float:
    return sum(weights[name] for name in votes if votes[name].emotion is emotion)


def pooled_intensity(annotations: Mapping[str, FullAnnotation], weights: Mapping[str, float]) -> int:
    """Weighted mean of the annotators that gave one, rounded half up, 1–10."""
    total = sum(weights[name] for name in annotations)
    mean = sum(weights[name] * annotations[name].intensity for name in annotations) / total
    # Sums of weights such as 0.3 + 0.3 leave 5.499999…: a hair must not decide.
    return min(10, max(1, math.floor(mean + 0.5 + 1e-9)))
