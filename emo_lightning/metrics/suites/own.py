"""How this project scores the suites: an answer counts where it can be read in one way alone; whatever else was said is unreadable, and wrong.

The answer is the last one between tags, else what follows the last `</think>`, else the whole reply: what a model says last is what it
means. Words are whole words. Nothing is guessed, so that no model is helped by the place of the right option.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy.stats import kendalltau

from emo_lightning.metrics.suites.eemo_logic import HIT_WEIGHTS, order_points
from emo_lightning.metrics.suites.tags import between

_MARKUP = re.compile(r"<[^<>]*>")
_STATED = re.compile(r"(?<!\bnot )(?<![A-Za-z0-9'])([A-Z])(?=\s*(?:[:.)\]*,]|<|$))")
"""A capital letter that stands for an option: alone, before a mark or the end, and not denied."""
_FALSE = re.compile(r"\b(?:incorrect|false|wrong|inaccurate|not (?:\w+ )?(?:correct|true|accurate))\b")
_TRUE = re.compile(r"\b(?:correct|true|accurate)\b")
_SHARE = re.compile(r"\{?+\s*+(\d*+\.?+\d*+)\s*+(%?+)\s*+\}?+")
_NUMBER = re.compile(r"(?<![\w.])-?+\d++(?:\.\d++)?+(?!\w|\.\d)")


def answer(reply: str) -> str:
    """The part of a reply that is read."""
    if found := list(between(reply, "answer")):
        return found[-1]
    return reply[reply.lower().rfind("</think>") + len("</think>") :] if "</think>" in reply.lower() else reply


def candidate(reply: str, candidates: Sequence[str]) -> str | None:
    """The one candidate that an answer names, or None: where it names none or several.

    One that stands inside another that is named ("joy" in "joy of life") counts as part of it.
    """
    text = _plain(answer(reply))
    named = [one for one in candidates if _plain(one) and _at(_plain(one), text) is not None]
    whole = [
        one for one in named if not any(one is not other and _at(_plain(one), _plain(other)) is not None for other in named)
    ]
    return whole[0] if len(whole) == 1 else None


def option(reply: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that an answer chooses, or None.

    A letter that opens the answer, else the last letter that stands alone before a mark or the end; where there is none, the one option whose
    text is in the answer.

    Args:
        reply: to the question.
        options: letter -> text.
    """
    text = _MARKUP.sub("", answer(reply)).strip()
    letters = [found for found in _STATED.finditer(text) if found[1] in options]
    if letters:
        opens = not re.search(r"\w", text[: letters[0].start()])
        return letters[0 if opens else -1][1]
    named = candidate(text, list(options.values()))
    chosen = [letter for letter, words in options.items() if words == named]
    return chosen[0] if len(chosen) == 1 else None


def verdict(reply: str) -> Literal["correct", "incorrect"] | None:
    """What an answer says of a statement, or None: where it says neither, or both.

    A lone A stands for correct and a lone B for incorrect, as the suite's prompts have them.
    """
    text = answer(reply)
    rest, denied = _FALSE.subn("", _plain(text))
    said = {"incorrect"} if denied else set()
    said |= {"correct"} if _TRUE.search(rest) else set()
    if not said:
        said = {{"A": "correct", "B": "incorrect"}[found[1]] for found in _STATED.finditer(text) if found[1] in "AB"}
    return ("correct" if "correct" in said else "incorrect") if len(said) == 1 else None


def confidence(reply: str) -> float | None:
    """The confidence that a reply states between tags, 0–1; None where it states none, or one outside."""
    stated = list(between(reply, "confidence"))
    found = _SHARE.fullmatch(stated[-1].strip()) if stated else None
    try:
        value = float(found[1]) / (100 if found[2] else 1) if found else -1.0
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def number(reply: str) -> float | None:
    """The one number that an answer states; None where it states none or several."""
    found = _NUMBER.findall(answer(reply))
    return float(found[0]) if len(found) == 1 else None


def ranking(reply: str, emotions: Sequence[str]) -> list[str]:
    """The emotions that an answer names, each once, in the order in which it names them first, at most three."""
    text = _plain(answer(reply))
    places = sorted((at, one) for one in emotions if (at := _at(_plain(one), text)) is not None)
    return [one for _, one in places][:3]


def ranking_score(truth: Sequence[str], said: Sequence[str]) -> float:
    """A ranking, 0–1: as `eemo_logic.ranking_score`, with Kendall's tau of the emotions' places in the two rankings.

    Args:
        truth: three emotions, the strongest first.
        said: at most three, the strongest first.
    """
    hits = sum(weight for one, weight in zip(truth, HIT_WEIGHTS, strict=False) if one in said)
    shared = [one for one in truth if one in said]
    if len(shared) < 2:
        return hits / 100
    tau = float(kendalltau(np.arange(len(shared)), [list(said).index(one) for one in shared]).statistic)
    return (hits + order_points(tau, len(shared))) / 100


def _plain(text: str) -> str:
    """Small letters, single blanks, no marks around it."""
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'*")


def _at(words: str, text: str) -> int | None:
    """Where whole words begin in a text, or None."""
    found = re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text)
    return None if found is None else found.start()
