"""The rules by which EmoCaliber scores VECBench (wdqqdw/EmoCaliber at a520291, `inference/`): the first candidate found, else none.

Two programs print them. The first gives accuracy and weighted F1 of each task, and an "overall" that searches the whole reply, thoughts
included; so the overall is not the mean of the tasks. The second reads the confidence that a reply states, and gives accuracy, ECE,
Brier score and AUROC of three groups of tasks, over the replies that state one.
"""

from __future__ import annotations

from collections.abc import Sequence

from emo_lightning.metrics.suites.tags import first_in_a_line

UNKNOWN_ANSWER = "unknown"
"""What a reply that names no candidate has answered."""

EMOCALIBER_BINS = 10
"""Of its ECE, each without its upper end (`resampled.half_open_ece`)."""


def choice(reply: str, candidates: Sequence[str]) -> str:
    """The answer to one question, in small letters.

    The first candidate, in their order, that occurs anywhere in the first answer that stands between tags in one line; in the whole reply,
    where there is no such answer or an empty one.
    """
    small = reply.lower()
    text = first_in_a_line(small, "answer") or small
    return next((one.lower() for one in candidates if one.lower() in text), UNKNOWN_ANSWER)


def overall_choice(reply: str, candidates: Sequence[str]) -> str:
    """The answer that counts in "overall": the first candidate that occurs anywhere in the reply.

    The reply is in small letters and the candidates as they are, so one with a capital letter is never found.
    """
    small = reply.lower()
    return next((one for one in candidates if one in small), UNKNOWN_ANSWER)


def is_right(answer: str, truth: str) -> bool:
    """Whether an answer of the two functions above is the true one."""
    return answer == truth.lower()


class NoNumberError(ValueError):
    """What stands between the tags of the confidence is no number: its program leaves the whole reply out."""


def confidence(reply: str) -> float | None:
    """The confidence that a reply states, as it stands there; None where it states none.

    Raises:
        NoNumberError: it is no number.
    """
    between = first_in_a_line(reply, "confidence")
    if between is None:
        return None
    try:
        return float(between.replace("{", "").replace("}", ""))
    except ValueError:
        raise NoNumberError(between[:80]) from None
