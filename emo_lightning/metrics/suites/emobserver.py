"""The rules by which EmObserver scores MVEI, VECBench and EEmo-Bench (wdqqdw/EmObserver at a702582, `evaluate/metrics_calculators/`).

Every reply gets an answer here: VECBench's falls back to the first candidate, EEmo-Bench's to A. Any capital letter of an option, also
within a word, is read as that option, the earlier letters first: "A nice picture, so it is B" is A.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from emo_lightning.metrics.suites.tags import between

ID_VER = ("EmoSet-8", "FI-8", "WebEmo-25", "WebEmo-7")
"""Emotions, of data sets that EmoCaliber is trained on."""
ID_VSA = ("FI-2", "WebEmo-2")
"""Polarity, of the same."""
OOD_VER = ("UnbiasedEmo-6", "Abstract-8", "Artphoto-8")
"""Emotions, of data sets that it is not trained on."""

TASK_NAMES: Mapping[str, str] = {"UnbaisedEmo-6": "UnbiasedEmo-6"}
"""A misspelt task of its files -> the task."""

StatementVerdict = Literal["A", "B", "C"]
"""Of a statement: correct, incorrect, given up."""

_BRACES = re.compile(r"\{[^{}]*\}", re.DOTALL)
_OPTIONS = "ABCD"


class AnswerText(NamedTuple):
    """The part of a reply that is searched."""

    text: str
    tagged: bool
    """Whether it stands between a pair of tags."""


def answer(reply: str) -> AnswerText:
    """The first answer between tags; else what follows the last `<answer>` or `</think>`, whichever is later; else the whole reply."""
    if (found := next(between(reply, "answer"), None)) is not None:
        return AnswerText(found, True)
    small = reply.lower()
    begin, tag = max((small.rfind(tag), tag) for tag in ("<answer>", "</think>"))
    return AnswerText(reply[begin + len(tag) :] if begin >= 0 else reply, False)


def candidate(reply: str, candidates: Sequence[str]) -> str:
    """VECBench: the first candidate, in their order, that occurs anywhere in the answer, whatever its case; else the first of all."""
    text = answer(reply).text.lower()
    return next((one for one in candidates if one.lower() in text), candidates[0] if candidates else "")


def verdict(reply: str) -> StatementVerdict:
    """MVEI: what a reply says of a statement."""
    text = answer(reply).text
    small = text.lower()
    if "incorrect" in small:
        return "B"
    if "correct" in small:
        return "A"
    return "A" if _names("A", text) else "B" if _names("B", text) else "C"


def verdict_is_right(said: StatementVerdict, truth: str) -> bool:
    """Whether it is what the statement is, `correct` or `incorrect`; one given up never is."""
    return {"A": "correct", "B": "incorrect"}.get(said) == truth.strip().lower()


def option(reply: str, truth: str, prompt: str, options: Mapping[str, str] | None = None) -> str:
    """EEmo-Bench: the option that a reply counts as.

    The true one, where its text occurs in an answer between tags; else the first of A, B, C and D that the answer names; else A.

    Args:
        reply: to the question.
        truth: letter of the true option.
        prompt: its last `{…}` says what the options are, in the files that EmObserver scores.
        options: letter -> text, for prompts that list their options in another way.
    """
    found = answer(reply)
    text = (_options_of(prompt) or options or {}).get(truth.strip(), "") if found.tagged else ""
    if text and text.lower() in found.text.lower():
        return truth.strip()
    return next((letter for letter in _OPTIONS if _names(letter, found.text)), "A")


def _names(letter: str, text: str) -> bool:
    """Whether the capital letter occurs anywhere, or the small one between characters that are no letters."""
    return letter in text or re.search(rf"(?:^|[^A-Za-z]){letter.lower()}(?:$|[^A-Za-z])", text) is not None


def _options_of(prompt: str) -> dict[str, str]:
    """The last `{…}` of a prompt, read as Python or as JSON."""
    braces = _BRACES.findall(prompt)
    if not braces or len(braces[-1]) > 10_000:
        return {}
    try:
        found = ast.literal_eval(braces[-1])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        try:
            found = json.loads(braces[-1].replace("'", '"'))
        except (ValueError, RecursionError):
            return {}
    return {key: str(value) for key, value in found.items() if isinstance(key, str)} if isinstance(found, dict) else {}
