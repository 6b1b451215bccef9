"""Whether two texts that name a thing are the same, or similar in their words. No model, no torch, no network."""

from __future__ import annotations

from difflib import SequenceMatcher
from functools import lru_cache

WHOLE_TRIPLET = "triplet"
"""All three parts of an image."""

SIMILAR_F1 = 0.75
"""F1 over the words of two texts from which on they are similar: `an old man` and `old man` are (1.0), `sleeping cat` and `sleeping dog` are not
(0.5)."""

SAME_WORD_RATIO = 0.8
"""Ratcliff and Obershelp's similarity (twice the matching letters over all letters) from which on two words count as one: `dogs` and `dog` do
(0.86), `woman` and `man` do not (0.75)."""

ARTICLES = frozenset({"a", "an", "the"})

MAX_COMPARED_CHARACTERS = 200
"""Characters of a text that are compared: what takes longer is no name of a thing."""


def casefolded(text: str | None) -> str:
    """In small letters, single blanks between the words and none around them; empty where there is no text."""
    return " ".join((text or "").casefold().split())


@lru_cache(maxsize=1 << 16)
def similar(said: str, true: str) -> bool:
    """Whether two texts (as `casefolded` gives them) have an F1 over words of at least `SIMILAR_F1`."""
    return said == true or word_f1(said[:MAX_COMPARED_CHARACTERS], true[:MAX_COMPARED_CHARACTERS]) >= SIMILAR_F1


def word_f1(said: str, true: str) -> float:
    """Twice the words in common over all words, articles aside (SQuAD's F1, Rajpurkar et al. 2016), where words that are spelt alike are one.

    Args:
        said: as `casefolded` gives it.
        true: as `casefolded` gives it.

    Returns:
        0 to 1; 0 where one of them has no word.
    """
    one, other = ([word for word in text.split() if word not in ARTICLES] or text.split() for text in (said, true))
    if not one or not other:
        return 0.0
    left, rest, common = list(other), [], 0
    for word in one:
        if word in left:
            left.remove(word)
            common += 1
        else:
            rest.append(word)
    for word in rest:
        if (match := next((candidate for candidate in left if _spelt_alike(word, candidate)), None)) is not None:
            left.remove(match)
            common += 1
    return 2 * common / (len(one) + len(other))


@lru_cache(maxsize=1 << 16)
def _spelt_alike(one: str, other: str) -> bool:
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    # The bound from above is cheap.
    return matcher.real_quick_ratio() >= SAME_WORD_RATIO and matcher.ratio() >= SAME_WORD_RATIO
