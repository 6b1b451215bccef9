"""The rules by which EEmo-Bench's authors score (arXiv:2504.16405, workerred/EEmo-Bench at e10bfa9).

How they read a reply to a question of perception is not published. Their released predictions hold, beside every reply, the verdict (0 or
1) and whether the question is invalid. Without the invalid questions those verdicts give their table to the last digit. So by this scorer
there is a value only for predictions that bring verdicts along.
"""

from __future__ import annotations

from collections.abc import Sequence

NUM_JUDGEMENTS = 5
"""How often a language model judges a description, 0 to 2 each."""


def description_score(judgements: Sequence[float]) -> float:
    """A description by its five judgements, 0–100."""
    return 100 * sum(judgements) / (2 * NUM_JUDGEMENTS)
