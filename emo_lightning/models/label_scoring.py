"""How the scores of the eight words become a label without any training: as they are, or gated by the polarity that the model sees.

The gate is step 2 of DAN ("label_scoring: gated"): the score of each emotion is weighed by the probability of its polarity, which is asked in
a question of its own. The paper also writes a text of clues first, and chooses anew where two emotions are close; neither is done here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from emo_lightning.core.emotions import EMOTIONS, POLARITIES
from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Prediction

LabelScoring = Literal["plain", "gated"]


def check_label_scoring(found: str, where: str) -> None:
    """Refuse any other.

    Raises:
        InputError: names `where`.
    """
    if found not in ("plain", "gated"):
        msg = f"{where}: found {found!r}; allowed: plain, gated"
        raise InputError(msg)


def gated(scores: Tensor, polarity: Tensor) -> Tensor:
    """Distribution over the eight, weighed by that over the two polarities and scaled to sum 1.

    Where the polarity leaves nothing of it (each is certain, and of the other side), the scores stand as they are.

    Args:
        scores: (B, 8), in the order of `EMOTIONS`.
        polarity: (B, 2), in the order of `POLARITIES`.
    """
    of = torch.tensor([POLARITIES.index(emotion.polarity) for emotion in EMOTIONS], device=scores.device)
    # In logarithms no product of two probabilities is lost.
    apart = scores.log() + polarity.log()[:, of]
    possible = apart.isfinite().any(-1, keepdim=True)
    return torch.where(possible, apart, scores.log()).softmax(-1)


def relabelled(prediction: Prediction, scores: list[float], positive: float) -> Prediction:
    """The prediction with the most probable emotion in place of the word that was said, which `provenance` keeps.

    Args:
        prediction: of the model's words.
        scores: (8,), gated.
        positive: probability of the positive polarity.
    """
    best = EMOTIONS[max(range(len(EMOTIONS)), key=scores.__getitem__)]
    scoring = {"label_scoring": "gated", "said": prediction.emotion, "positive": positive}
    return prediction.model_copy(
        update={"emotion": str(best), "provenance": {**prediction.provenance, "label_scoring": scoring}}
    )
