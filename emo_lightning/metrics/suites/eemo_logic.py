"""The rules by which EEmo-Logic scores rankings, and reads its replies (arXiv:2602.01173, workerred/EEmo-Logic at b353f32).

A ranking of three emotions gets up to 50 points for those that it shares with the truth (25, 15 and 10 by their place in the truth), and up to
50 for their order, (Kendall's tau + 1) · 25: two thirds of that where two are shared, nothing where one is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import kendalltau

from emo_lightning.metrics.suites.tags import until_the_last_in_a_line

HIT_WEIGHTS = (25, 15, 10)
"""Points for an emotion that is shared, by its place in the truth."""

_OTHER_WORDS = {"neutrality": "neutral", "joyful": "joy", "shock": "surprise", "pleasure": "joy"}


def answer(reply: str) -> str | None:
    """What stands between the tags of an answer that ends in the line it began in, with none after it in that line; None without one."""
    return until_the_last_in_a_line(reply, "answer")


def ranking(reply: str) -> list[str]:
    """The emotions that a reply names, strongest first, in small letters; empty without an answer between tags."""
    found = (answer(reply) or "").split(":")[-1].replace(" ", "")
    return [word.lower() for word in found.split(",")] if found else []


def attribute(reply: str) -> float | None:
    """Valence, arousal or dominance that a reply states, 0–1; None where it states none.

    The first character behind the last colon is left out, whatever it is: "Valence:0.7" is read as .7, "Valence:12" as 2.
    """
    try:
        value = float((answer(reply) or "").split(":")[-1][1:])
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def ranking_score(truth: Sequence[str], said: Sequence[str]) -> float:
    """A ranking, 0–1.

    Kendall's tau is taken of the words themselves, which compares their places in the alphabet: with two shared emotions that is the tau of
    their places in the rankings, with three it is often another (`own.ranking_score` has theirs).

    Args:
        truth: three emotions, the strongest first.
        said: what a reply names, the strongest first.
    """
    hits = _hits(truth, said)
    shared_said = _shared(truth, said)
    shared_truth = [one for one in truth if one in shared_said]
    if len(shared_said) < 2:
        return hits / 100
    alphabet = sorted(shared_truth)
    tau = float(
        kendalltau([alphabet.index(one) for one in shared_truth], [alphabet.index(one) for one in shared_said]).statistic
    )
    return (hits + order_points(tau, len(shared_said))) / 100


def order_points(tau: float, shared: int) -> float:
    """Points for the order of at least two shared emotions, rounded to two digits as theirs are."""
    return round((tau + 1) * 25 * (2 / 3 if shared == 2 else 1), 2)


def _hits(truth: Sequence[str], said: Sequence[str]) -> int:
    return sum(weight for one, weight in zip(truth, HIT_WEIGHTS, strict=False) if one in said)


def _shared(truth: Sequence[str], said: Sequence[str]) -> list[str]:
    """Those of `said` that are in the truth, each once, other words for an emotion among them."""
    words = [_OTHER_WORDS.get(word, word) for word in said]
    return list(dict.fromkeys(word for word in words if word in truth))
