"""A text as a question: the images whose words match it best, and the middle of their embeddings.

The embedding of an emotion has no text tower, so a text becomes a point by way of images: each part of a triplet is held against that part of
all records (BM25 over stems), an image's score is the sum over the parts, each divided by the best one's, and the point is the mean embedding,
at length 1, of the best `MAX_WORD_EXAMPLES` images.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import TRIPLET_PARTS, TripletPart
from emo_lightning.core.text import SMALL_WORDS, shown
from emo_lightning.search.filters import Filters, one_of
from emo_lightning.search.index import SearchIndex

MAX_WORD_EXAMPLES = 20
"""Images whose mean is the point."""
_MATCHES = 4096
"""Images looked at for each part."""
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_BETWEEN = re.compile(r"\s+[-–—]\s+")
_ANY = ("", "?", "*", "any")


@dataclass(frozen=True)
class WordsPoint:
    """A text as a point."""

    vector: NDArray[np.float32]
    """(des_dim,)"""
    examples: list[str]
    """Ids of the images that it is the middle of, best match first."""
    score: float
    """Of the best: the share of the parts that it matches as well as any image does, 0–1."""
    unused: list[str]
    """Words that no image has, in the order in which they were asked for."""


def parts_of(text: str) -> dict[TripletPart, str]:
    """Field -> words of a triplet `background - attribute - subject`; a part `?` may be anything. One part alone may be any of the three.

    Raises:
        InputError: two parts, or more than three; or no words.
    """
    given = [part.strip() for part in _BETWEEN.split(f" {text.strip()} ".replace("\n", " "))]
    if len(given) == 1:
        found = dict.fromkeys(TRIPLET_PARTS, given[0])
    elif len(given) == len(TRIPLET_PARTS):
        found = dict(zip(TRIPLET_PARTS, given, strict=True))
    else:
        msg = f"{shown(text)}: {len(given)} parts; expected BACKGROUND - ATTRIBUTE - SUBJECT, with ? for any, or words without a dash"
        raise InputError(msg)
    if not (asked := {field: words for field, words in found.items() if words.lower() not in _ANY}):
        msg = f"{shown(text)}: no words in it"
        raise InputError(msg)
    return asked


def of_words(index: SearchIndex, text: str, where: Filters | None = None) -> WordsPoint:
    """The point of a text.

    Args:
        index: whose images have words.
        text: see `parts_of`.
        where: conditions that the images behind the point fulfil.

    Raises:
        InputError: no words, or no image that has one of them.
    """
    parts = parts_of(text)
    condition = None if where is None else where.sql()
    scores: dict[str, float] = defaultdict(float)
    for field, words in parts.items():
        rows = index.images.matching(words, field, _MATCHES, condition)
        for row in rows:
            scores[str(row["id"])] += float(str(row["_score"])) / float(str(rows[0]["_score"])) / len(parts)
    if not scores:
        known = index.images.count(" OR ".join(f"{field} IS NOT NULL" for field in parts))
        msg = (
            f"{shown(text)}: no image of {index.place} has one of these words in its {', '.join(parts)}; {known} of {len(index)} images have "
            "any words there"
        )
        raise InputError(msg)
    best = sorted(scores, key=lambda name: (-scores[name], name))[:MAX_WORD_EXAMPLES]
    rows = index.images.where(one_of("id", best), len(best), ("id", "des"))
    units = np.stack(
        [index.checked(np.asarray(row["des"], np.float32)) for row in sorted(rows, key=lambda row: str(row["id"]))]
    )
    return WordsPoint(index.checked(units.mean(axis=0)), best, scores[best[0]], _unused(index, parts, condition))


def _unused(index: SearchIndex, parts: dict[TripletPart, str], condition: str | None) -> list[str]:
    """Words that no image has where they were asked for; the small ones, which every text has, are not counted."""
    asked: dict[str, set[str]] = defaultdict(set)
    for field, words in parts.items():
        for word in _WORD.findall(words):
            if word.lower() not in SMALL_WORDS:
                asked[word].add(field)
    return [
        word for word, fields in asked.items() if not any(index.images.matching(word, field, 1, condition) for field in fields)
    ]
