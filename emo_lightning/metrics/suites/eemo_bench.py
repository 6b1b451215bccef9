"""The rules by which EEmo-Bench's authors score (arXiv:2504.16405, workerred/EEmo-Bench at e10bfa9).

How they read a reply to a question of perception is not published. Their released predictions hold, beside every reply, the verdict (0 or
1) and whether the question is invalid. Without the invalid questions those verdicts give their table to the last digit. So by this scorer
there is a value only for predictions that bring verdicts along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import softmax

from emo_lightning.metrics.arrays import Array

LEVEL_WORDS = ("Positive", "Neutral", "Negative")
"""Of valence, as its README has them; the words for arousal and dominance are not in the repository."""

LEVEL_WEIGHTS = (1.0, 0.5, 0.0)
"""What the three words of a level count, high to low."""

JUDGEMENTS = 5
"""How often a language model judges a description, 0 to 2 each."""


def level_score(logits: Sequence[float] | Array) -> float:
    """Valence, arousal or dominance, 0–1: the mean weight of the words high, middle and low under the softmax of their logits.

    Args:
        logits: (3,), of the next token, of the first token of each word.
    """
    return float(softmax(np.asarray(logits, dtype=float)) @ np.array(LEVEL_WEIGHTS))


def description_score(judgements: Sequence[float]) -> float:
    """A description by its five judgements, 0–100."""
    return 100 * sum(judgements) / (2 * JUDGEMENTS)


def by_intensity(scores: Mapping[str, float]) -> list[str]:
    """Emotions, the strongest first; those that are equal stay as they came."""
    return sorted(scores, key=lambda emotion: -scores[emotion])
